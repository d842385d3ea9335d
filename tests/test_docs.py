"""The pages: their examples run, and the reference leaves out no public name."""

import importlib
import inspect
import json
import pydoc
import re
import shlex
import sys
import time
from pathlib import Path

import pytest
import torch
import warm
from commands import Script, composing
from hydra.core.override_parser.overrides_parser import OverridesParser

from decouple.commands.help import COMMANDS

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
import run_notebook  # noqa: E402
from run_page import run  # noqa: E402

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
REFERENCE = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(page.read_text(), page.name)[1] == ""


# Parts of blocks of code that are made smaller, and blocks that nothing here can run, by what they hold, with why.
SMALLER = {"20_000": "300", "60_000": "4_000"}
BLOCKS_NOT_RUN = {
    "unity_env(": "needs a Unity build",
    "def record(env: EnvBase": "a signature alone, as an example of style",
}


def blocks() -> dict[str, str]:
    """Page -> its blocks of Python that are to be copied, without `>>>`, one after another."""
    found = {}
    for page in PAGES:
        of_page = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
        code = [block for block in of_page if ">>>" not in block and not any(part in block for part in BLOCKS_NOT_RUN)]
        if code:
            found[str(page.relative_to(ROOT))] = "\n".join(code)
    return found


@pytest.mark.parametrize("page", blocks())
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks()[page]
    for whole, part in SMALLER.items():
        code = code.replace(whole, part)
    exec(compile(code, page, "exec"), names := {"__name__": "page"})
    if page == "docs/index.md":
        assert names["result"]["final/return/seed1"] < 0 and names["model"].at == 1
    if page == "README.md":
        assert torch.isfinite(names["total"]) and names["network"].at == 1


def test_the_blocks_that_are_not_run_are_there_and_the_others_are_on_these_pages():
    text = "\n".join(page.read_text() for page in PAGES)
    assert all(part in text for part in BLOCKS_NOT_RUN)
    assert blocks().keys() == {"README.md", "docs/index.md", "docs/environments.md", "docs/pixels.md"}


def cells() -> list[str]:
    """The code of the notebook, cell by cell."""
    notebook = json.loads(run_notebook.NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names, printed = {}, ""
    for cell in cells():
        for whole, part in SMALLER.items():
            cell = cell.replace(whole, part)
        printed += run_notebook.run_cell(cell.replace("steps=200", "steps=3"), names)
    assert "k = 1: {'trunk': 256, 'policy': 4160, 'value': 4160, 'total': 8576}" in printed
    assert "actor [4, 4]: 41 parameters" in printed and (tmp_path / "runs/notebook/actor.c").exists()
    assert len(names["played"]) == 4 and names["files"][0].exists() and len(names["metrics"]["cut/joint_cosine"]) == 2


def test_an_example_that_is_wrong_is_seen():
    assert run("```python\n>>> 1 + 1\n2\n```\n", "right")[1] == ""
    assert "Expected:\n    3\nGot:\n    2" in run("```python\n>>> 1 + 1\n3\n```\n", "wrong")[1]


def test_what_an_example_prints_takes_the_place_of_dots():
    page = "Text.\n\n```python\n>>> for i in (0, 1):\n...     print(i, i / 3)\n{}\n\n```\n\n>>> 1 + 1\n2\n\nEnd."
    ran = page.format("0 0.0\n1 0.3333333333333333")
    assert run(page.format("0 0...\n1 0.3..."), "page") == (ran, "")


def quoted_paths(text: str) -> list[str]:
    """The paths that a page quotes as code, also patterns; not those with a placeholder, nor Forage's id."""
    quoted = re.findall(r"`((?:docs|configs|tests|benchmarks|decouple)/[^`\s<{]*)`", text)
    return [path.rstrip("/") for path in quoted if not re.search(r"-v\d+$", path)]


def test_quoted_paths_are_found():
    text = "in `docs/results/gone/`, `tests/*.py` and `tests/<room>/`; `decouple/Forage-v0` is a task, `docs` no path"
    assert quoted_paths(text) == ["docs/results/gone", "tests/*.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_that_a_page_points_to_exist(page):
    text = page.read_text()
    for file in re.findall(r"\b(?:\w+/)+\w+\.py\b", text):
        assert any((ROOT / place / file).exists() for place in ("", "decouple")), file
    for path in quoted_paths(text):
        assert any(ROOT.glob(path)), f"{path} is not there"
    for name in re.findall(r"\{py:\w+\}`~?(decouple[\w.]+)`", text):
        assert pydoc.locate(name) is not None, name


def modules() -> list[str]:
    files = [file.relative_to(ROOT).with_suffix("") for file in sorted((ROOT / "decouple").rglob("*.py"))]
    return [".".join(file.parts) for file in files if not file.name.startswith("_")]


def public_names(module: str) -> list[str]:
    imported = importlib.import_module(module)
    here = [name for name, value in vars(imported).items() if getattr(value, "__module__", None) == module]
    return getattr(imported, "__all__", [name for name in here if not name.startswith("_")])


def members(reference: str) -> dict[str, list[str]]:
    """Names per module, as `.. automodule:: module` and `:members: a, b` give them."""
    found = re.findall(r"^\.\. automodule:: (\S+)\n((?:   .*\n)*)", reference, flags=re.MULTILINE)
    return {
        module: re.findall(r"\w+", " ".join(re.findall(r":members:((?:.*\n)(?:      +.*\n)*)", options)))
        for module, options in found
    }


@pytest.mark.parametrize("module", modules())
def test_the_reference_has_every_public_name(module):
    public = public_names(module)
    listed = members(REFERENCE).get(module, [])
    entry = f".. automodule:: {module}\n   :members: {', '.join(public)}"
    assert sorted(listed) == sorted(public), f"a page of docs/reference should have\n\n{entry}\n"


@pytest.mark.parametrize("module", modules())
def test_every_public_name_has_a_docstring(module):
    imported = importlib.import_module(module)
    assert imported.__doc__
    for name in public_names(module):
        value = getattr(imported, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue  # a constant has its sentence as a comment
        assert value.__doc__ and not value.__doc__.startswith(f"{name}("), (
            f"{module}.{name} has no docstring of its own"
        )


def test_the_names_of_the_package_are_public_in_the_file_they_come_from():
    of_files = {name for module in modules() for name in public_names(module)}
    assert set(public_names("decouple")) - of_files - {"__version__"} == set()


def commands() -> list[str]:
    """Each command of an experiment that a page or a script's docstring shows, in a block or in its text.

    On one line and without a comment; `decouple smallest-actor` as the script that it is.
    """
    texts = [page.read_text() for page in PAGES] + [script.read_text() for script in ROOT.glob("experiments/*.py")]
    names = "|".join(COMMANDS)
    shown = rf"(?:python experiments/\w+\.py|decouple (?:{names}))"
    found = [re.findall(rf"^ *({shown}\b.*?)(?: +#.*)?$|`({shown} [^`\n]+)`", unfolded(text), re.M) for text in texts]
    every = {(block or inline).strip() for of_text in found for block, inline in of_text}
    scripts = {re.sub(rf"^decouple ({names})\b", as_script, command) for command in every}
    return sorted({command for command in scripts if not re.search(r"<|\.\.\.|--help", command)})


def as_script(match: re.Match[str]) -> str:
    return f"python experiments/{COMMANDS[match[1]][0]}.py"


def unfolded(text: str) -> str:
    return re.sub(r" *\\\n *", " ", text)


def overrides_of(command: str) -> tuple[str, list[str]]:
    """The script's name and its settings; of a sweep its first job's, without what launchers and sweepers read."""
    _, script, *arguments = shlex.split(command)
    given = [argument for argument in arguments if "=" in argument and not argument.startswith(("hydra", "+sweep"))]
    given = [argument for argument in given if "glob(" not in argument and "interval(" not in argument]
    given = [re.sub(r"^(separation=)(\d)$", r"\1'\2'", argument) for argument in given]  # as procgen.py does
    overrides = []
    for override in OverridesParser.create().parse_overrides(given):
        first = next(override.sweep_string_iterator()) if override.is_sweep_override() else None
        overrides.append(override.input_line if first is None else f"{override.get_key_element()}={first}")
    return Path(script).stem, overrides


@pytest.mark.parametrize("command", commands())
def test_the_settings_of_a_command_exist(command):
    """The command composes; of a sweep, its first job. What the launchers and sweepers say of themselves is theirs."""
    script, overrides = overrides_of(command)
    with composing(script) as configuration:
        assert configuration(*overrides)


def test_the_options_of_a_benchmarks_command_exist():
    texts = "\n".join(unfolded(page.read_text()) for page in PAGES)
    found = re.findall(r"python (benchmarks/\w+\.py)([^`\n]*)", texts)
    assert len(found) >= 8
    for script, arguments in found:
        source = (ROOT / script).read_text()
        for option in re.findall(r"(?<= )--[\w-]+", arguments):
            assert f'"{option}"' in source, f"{script} has no {option}"


# What no machine without a cluster, a server, a Unity build or another package runs, by what a command holds, with why.
COMMANDS_NOT_RUN = {
    "submitit": "needs Slurm, or its launcher",
    "search.engine=ray": "needs Ray",
    "env=unity": "needs a Unity build",
    "+sweep=": "needs Optuna; tests/commands/test_sweeps.py runs the sweep",
    "hydra/sweeper=optuna": "as above",
    "my_package": "a name in the place of the reader's own package",
    "my_tasks": "a task of docs/pixels.md, whose block is run above",
    "ALE/": "needs the extra atari",
    "MiniGrid-": "needs the extra minigrid",
    "CarRacing-": "needs the extra box2d",
    "LunarLander-": "needs the extra box2d",
    "tracker=[tensorboard": "needs the extra tensorboard; tests/runs/test_loggers.py has its loggers",
    "halfcheetah": "the files of this agent would be made by a run of MuJoCo; tests/envs/control has the task",
    "env=reacher": "as above",
    "performance=fastest": "many threads and compilation; tests/runs/test_performance.py",
    "runs/one": "a name in the place of the reader's own run",
}
# Jobs after the first of the documented sweeps, which later commands read.
OTHER_JOBS = [("procgen", ["protocol=controlled", "env=plunder", f"separation={name}"]) for name in ("late", "full")]
TRAINERS = ("control", "pixels", "procgen", "toy", "separation", "smallest_actor")  # before those that read their runs
OF_ALL = ("show_progress=false", "evaluate_episodes=1", "final_episodes=2")
OFF_POLICY = ("total_frames=208", "learning_starts=100", "batch_size=16", "log_every=104", "evaluate_every=104")
OFF_POLICY += ("checkpoint_every=104", "buffer_size=300", "held_out_every=null")
ON_POLICY = ("total_frames=128", "rollout_steps=32", "num_envs=4", "minibatches=2", "epochs=1")
PROCGEN = (
    "num_envs=4",
    "rollout_steps=16",
    "total_frames=64",
    "evaluate_episodes=1",
    "final_episodes=2",
    "unseen=null",
)
STUDY = ("study.repetitions=20", "study.strip_frames=0", "seeds=2")
SEARCH = ("search.sizes=[[2],[4]]", "actor=[4]", "critic=[4]", "search.export=none", "seeds=2")
LESSON = ("total_frames=64", "evaluate_every=32", "checkpoint_every=32", "num_envs=2", "steps=8", "updates=2")
LESSON += ("batch_size=8", "evaluate_episodes=1", "final_episodes=2", "show_progress=false")


def tiny(script: str, overrides: list[str]) -> list[str]:
    """The settings of a command with few frames; the folder of its run is as it was.

    Commands of different pages train different runs in one folder, which is refused: each page begins anew.
    """
    given = dict(each.split("=", 1) for each in overrides)
    if script == "procgen":
        few = () if "evaluate" in given else (*PROCGEN, *(() if "width" in given else ("width=0.125",)), "restart=true")
        few += ("sequence_length=8", "minibatches=4") if "recurrent" in given else ()
    elif script in ("control", "pixels", "separation", "smallest_actor"):
        default = "ppo" if script in ("pixels", "separation") else "td3"
        off = given.get("algorithm", default) in ("sac", "td3", "ddpg")
        few = (*OF_ALL, *(OFF_POLICY if off else ON_POLICY))
        few += ("num_envs=5",) if given.get("env") == "foodcollector" else ()  # of five agents each
        few += {"separation": STUDY, "smallest_actor": SEARCH}.get(script, ())
        few = () if given.get("search.train") == "false" else few  # which reads all that it finds
        few += ("restart=true",) if script in ("control", "pixels") else ()
    elif script == "distill":
        few = (*LESSON, *(("search.sizes=[[2],[4]]",) if "sizes" in given else ()))
    else:
        few = {
            "toy": ("seeds=1", "total_frames=200"),
            "size_report": ("latency=none",),
            "representation": ("frames=128",),
        }.get(script, ())
    shorter = [each for each in few if not (script == "toy" and each.split("=")[0] in given)]
    return [each for each in overrides if each.split("=")[0] not in {of.split("=")[0] for of in shorter}] + shorter


def folder_of(script: str, overrides: list[str], folder: Path) -> Path:
    """Where a command runs: a report of Procgen beside the runs of one study, which the pages' commands are not."""
    if script != "report":
        return folder
    protocol = dict(each.split("=", 1) for each in overrides).get("protocol", "as_written")
    study = folder / f"study_{protocol}"
    if not study.exists():
        study.mkdir()
        for separation in ("shared", "late"):
            trained = [f"separation={separation}", "env=plunder", f"protocol={protocol}"]
            ran = Script("procgen.py").run(study, *tiny("procgen", trained))
            assert ran.returncode == 0, ran.stderr
    return study


@pytest.mark.slow  # half an hour of one core; each command's time is printed: -s shows it
def test_the_commands_run_one_after_another(tmp_path, capsys, monkeypatch):
    """In one folder, so that those that read runs find what the others have made; each by its first job, and tiny."""
    runnable = [each for each in commands() if not any(part in each for part in COMMANDS_NOT_RUN)]
    parsed = [(each, *overrides_of(each)) for each in runnable]
    parsed += [(" ".join([script, *overrides]), script, overrides) for script, overrides in OTHER_JOBS]
    order = {name: at for at, name in enumerate(TRAINERS)}
    reads = ("evaluate=", "train=false")
    monkeypatch.setattr(warm, "SECONDS", 3600)  # a busy machine is no fault of a command
    faults = []
    for command, script, overrides in sorted(
        parsed, key=lambda one: (any(part in one[0] for part in reads), order.get(one[1], len(order)))
    ):
        began = time.monotonic()
        ran = Script(f"{script}.py").run(folder_of(script, overrides, tmp_path), *tiny(script, overrides))
        with capsys.disabled():
            print(f"{time.monotonic() - began:6.1f} s, exit code {ran.returncode}: {command}", flush=True)
        if ran.returncode:
            faults.append(f"{command}\n{ran.stderr[-600:]}")
    assert not faults, "\n\n".join(faults)


def test_each_exception_is_of_some_command():
    every = "\n".join(commands())
    assert not [part for part in COMMANDS_NOT_RUN if part not in every]
