"""Wrong commands: each ends in a line that names what is wrong, with exit code 1 and no trace. All of them: -m slow."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_commands import COMMANDS
from commands import ROOT, Script
from marks import needs_games
from warm import Warm, the_warm

from decouple.commands import folders

CONTROL = Script("control.py")
TINY = ("env=toy", "total_frames=300", "learning_starts=100", "actor=[4,4]", "critic=[4,4]", "final_episodes=1")
# One of each kind that ended in a trace, and one of each that Hydra refuses.
QUICK = {
    ("control.py", "env=1"): "ValueError: env must be one name, as env=acrobot; got 1",
    ("control.py", "env=[[1]]"): "ValueError: env must be one name, as env=acrobot; got [[1]]",
    (
        "control.py",
        "algorithm=[ppo,sac]",
    ): "algorithm must be one name, as algorithm=daac; got [ppo,sac] (--multirun algorithm=ppo,sac runs one after ",
    (
        "smallest_actor.py",
        "search=[[4]]",
    ): "search must be one name, as search=toy; got [[4]] (its settings are set one ",
    ("procgen.py", "separation=[0]"): "ValueError: separation must be one name, as separation=0; got [0]",
    ("control.py", "actor=64,64"): "ValueError: actor must be a list, as actor=[64,64]; got 64,64",
    ("control.py", "seed=1,2"): "ValueError: seed must be one value; got 1,2 (--multirun runs one after another",
    ("control.py", "seeds=choice(1,2)"): "ValueError: seeds must be one value; got choice(1,2) (--multirun runs one ",
    ("control.py", "env=range(1,3)"): "ValueError: env must be one value; got range(1,3) (--multirun runs one after",
    ("control.py", "env="): "ValueError: env must be one name, as env=acrobot; got",
    ("control.py", "separation=inf"): "; got inf",
    (
        "control.py",
        "separation=erly",
    ): "separation must be one of shared, late, early, full, learned or a whole ",
    ("control.py", "checkpoint_every=???"): "MissingMandatoryValue: checkpoint_every: ",
    ("control.py", "+nonsense=1"): "ValueError: nonsense must not be added: ",
    ("control.py", "total_frames"): "ValueError: total_frames cannot be read ",
    ("control.py", "env=cartpole"): "acrobot ant foodcollector forage halfcheetah pendulum pixelcopter pong reacher"
    " toy unity (did you mean CartPole-v1?)",
    (
        "control.py",
        "env=Cartpol-v1",
    ): "; got 'Cartpol-v1': Environment `Cartpol` doesn't exist. Did you mean: `CartPole`?",
    ("procgen.py", "env=starpilo --cfg job"): " plunder starpilot (did you mean starpilot?)",
    ("control.py", "algoritm=td3"): "Could not override 'algoritm' (did you mean algorithm?): Key 'algoritm' not in ",
    ("procgen.py", "total_frame=8"): "Could not override 'total_frame' (did you mean total_frames?): ",
    (
        "control.py",
        "env=forage life=shown",
    ): "(an argument of the task is set by 'env_kwargs={life: ...}'): Key 'life' ",
    ("smallest_actor.py", "sizes=[[4]]"): "Could not override 'sizes' (did you mean search.sizes?): ",
    ("control.py", "algorithm=pppo"): "(did you mean ppo?)",
    ("procgen.py", "life=shown"): "Could not override 'life': Key 'life' not in 'ProcgenExperiment'",
    ("control.py", "gamma=x"): "ValueError: gamma must be a number; got x",
    ("control.py", "seeds=1.5"): "ValueError: seeds must be a whole number; got 1.5",
    ("control.py", "actor=4"): "ValueError: actor must be a list, as actor=[64,64]; got 4",
    ("control.py", "actor=64x64"): "ValueError: actor must be a list, as actor=[64,64]; got 64x64",
    ("smallest_actor.py", "search.sizes=4"): "search.sizes must be a list, as search.sizes=[[4,4],[16,16]]; got 4",
    (
        "smallest_actor.py",
        "search.results=FILE",
    ): "search.results must be None or a folder, which may be made; got 'FILE'",
    ("control.py", "actor=[64,a]"): "ValueError: actor[1] must be a whole number; got actor=[64,a]",
    ("control.py", "critic={a:1}"): "ValueError: critic must be a list; got {a:1}",
    ("control.py", "env_kwargs=[1]"): "must be names with values, as env_kwargs={name: value}; got [1]",
    ("smallest_actor.py", "search.sizes=[[4,x]]"): "search.sizes[0] must be of whole numbers; got search.sizes=[[4,x]]",
    ("control.py", "learning_rates=3"): "must be names with values, as learning_rates={name: value}; got 3",
    ("control.py", "show_progress=perhaps"): "ValueError: show_progress must be true or false; got perhaps",
    ("control.py", "run_dir=[RUN]"): "ValueError: run_dir must be text; got [RUN]",
    ("control.py", "num_envs=null"): "ValueError: num_envs must be a value, not null; got null",
    ("export.py", "checkpoint=NONE"): "checkpoint must be a run's folder, or its checkpoint; got 'NONE', which is not",
    ("watch.py", "checkpoint=EMPTY"): "or its checkpoint; got 'EMPTY', a folder without checkpoint.pt",
    ("procgen.py", "evaluate=NONE"): "evaluate must be a run's folder, or its checkpoint; got 'NONE', which is not",
    ("toy.py", "train=false run_dir=NONE"): "ValueError: train must be true where NONE has no cells ",
    ("smallest_actor.py", "+search.nonsense=1"): "ValueError: search.nonsense must not be added: ",
    ("smallest_actor.py", "checkpoint_every=???"): "MissingMandatoryValue: checkpoint_every: ",
}


@pytest.fixture(scope="module")
def warm() -> Warm:
    return the_warm()


@pytest.fixture(scope="module")
def folder(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to give commands in, with a RUN in it and a FILE."""
    folder = tmp_path_factory.mktemp("commands")
    code, _, errors = warm.run(folder, "control.py", *TINY, "run_dir=RUN")
    assert code == 0, errors
    (folder / "FILE").write_text("x")
    (folder / "EMPTY").mkdir()
    return folder


def check(warm: Warm, folder: Path, script: str, arguments: str, says: str) -> None:
    def left() -> dict[Path, bytes]:  # the lock says who came last
        return {file: file.read_bytes() for file in sorted((folder / "RUN").iterdir()) if file.name != ".lock"}

    run = left()
    soon = "import signal; signal.alarm(120)"  # what is taken for right would train
    code, out, errors = warm.run(folder, script, *arguments.split(), before=soon)
    assert code in (1, 2) and not out, (code, out, errors)  # 2: Hydra's own parser of options
    assert "Traceback" not in errors and says in errors, errors
    if code == 1:
        assert errors.endswith("\n(HYDRA_FULL_ERROR=1 shows where)\n"), errors
    assert left() == run


@pytest.mark.parametrize("command", QUICK, ids=" ".join)
def test_what_once_ended_in_a_trace_ends_in_a_line(warm, folder, command):
    check(warm, folder, *command, QUICK[command])


@pytest.mark.slow
@needs_games
@pytest.mark.parametrize(("script", "arguments", "says"), COMMANDS, ids=lambda part: str(part) or "nothing")
def test_a_wrong_command_ends_in_a_line_that_names_what_is_wrong(warm, folder, script, arguments, says):
    check(warm, folder, script, arguments, says)


def test_a_path_with_an_equals_sign_needs_no_quotes(warm, folder):
    for path in ("seeds0_6/gamma=0.9", "gamma=0.9,tau=1", "it's=here", "a=b\\"):
        code, _, errors = warm.run(folder, "export.py", f"checkpoint={path}")
        plain = errors.replace("\\\\", "\\").replace('"', "'")
        says = (
            f"FileNotFoundError: checkpoint must be a run's folder, or its checkpoint; got '{path}', which is not there"
        )
        assert code == 1 and says.replace('"', "'") in plain, errors
    code, _, errors = warm.run(folder, "export.py", "checkpoint='a=b'")  # quoted for Hydra, as ever
    assert "got 'a=b', which is not there" in errors


@pytest.mark.parametrize(
    ("argument", "says"),
    [("gamma=to Integer", "gamma must be a number"), ("show_progress=to Float", "show_progress must be true or false")],
)
def test_a_value_that_says_what_a_refusal_would_say_is_a_value(warm, folder, argument, says):
    code, _, errors = warm.run(folder, "control.py", argument)
    assert code == 1 and f"ValueError: {says}; got {argument.partition('=')[2]}" in errors


def test_where_a_sweep_could_mean_either_the_error_says_how_to_quote(warm, folder):
    code, _, errors = warm.run(folder, "control.py", "run_dir=a=b,c", "-m")
    assert code == 1 and "run_dir=a=b,c cannot be read" in errors and """run_dir="'a=b'\"""" in errors


def test_a_jobs_error_in_a_sweep_is_a_line_too(warm, folder):
    code, _, errors = warm.run(folder, "control.py", "gamma=2,3", "-m")
    assert code == 1 and "Traceback" not in errors
    assert errors.splitlines()[-2] == "ValueError: gamma must be in [0, 1]; got 2.0"


def test_a_bug_keeps_its_trace_and_the_variable_shows_that_of_any_error(warm, folder):
    broken = "import decouple.commands.control\ndef train_agents(config): raise AttributeError('a bug')\n"
    broken += "decouple.commands.control.train_agents = train_agents"
    code, _, errors = warm.run(folder, "control.py", *TINY, before=broken)
    assert code == 1 and "Traceback" in errors and errors.endswith("AttributeError: a bug\n")
    code, _, errors = warm.run(folder, "control.py", "gamma=2", HYDRA_FULL_ERROR="1")
    assert code == 1 and "Traceback" in errors and "ValueError: gamma must be in [0, 1]" in errors


def test_a_command_in_a_process_of_its_own_is_answered_as_a_forked_one_is(tmp_path):
    refused = CONTROL.alone(tmp_path, "env=1")
    assert refused.returncode == 1 and refused.stdout == ""
    assert (
        refused.stderr.splitlines()[0].startswith("ValueError: env must be one name")
        and len(refused.stderr.splitlines()) == 2
    )


def test_the_pages_are_the_clones_or_those_of_the_wheel(tmp_path):
    assert folders.CONFIGS == ROOT / "configs"
    package = tmp_path / "decouple"
    assert folders._configs(package) == tmp_path / "configs"
    (package / "configs").mkdir(parents=True)
    assert folders._configs(package) == package / "configs"
