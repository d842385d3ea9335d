"""experiments/procgen.py and configs/: what configurations say, and the real command: train, kill, resume, evaluate."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
from typing import Any

import hydra
import pytest
import torch
import yaml
from commands import ROOT, Script, assert_same, checkpoint_of, composing, rows, without_clock
from hydra.errors import ConfigCompositionException
from marks import needs_games, slow_bf16, slow_but
from procgen_runs import TINY, compose, needs_procgen, train

import decouple.commands.procgen as procgen_command
from decouple.commands.procgen import as_begun, learned, table
from decouple.envs.procgen.options import GAMES
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.metrics import read_metrics
from decouple.runs.settings import flat
from decouple.studies.separation import experiment
from decouple.studies.separation.settings import procgen_experiment

PROCGEN = Script("procgen.py")
SCRIPT, CONFIGS = PROCGEN.path, ROOT / "configs"
NAMES, PROTOCOLS = ("shared", "late", "early", "full"), ("as_written", "as_released", "controlled")


def departures(settings: Any) -> dict[str, Any]:
    """The settings that differ from the dataclass's defaults, those that name the run aside."""
    default = flat(procgen_experiment())
    found = {name: value for name, value in flat(settings).items() if value != default[name]}
    return {name: value for name, value in found.items() if name not in ("run_dir", "separation", "protocol", "env")}


# --------------------------------------------------------------------------------------------- a learned separation


@needs_games
@pytest.mark.slow  # as on control tasks and on pictures, where it is quicker: test_control_command, test_pixels_command
def test_a_learned_separation_trains_gates_at_each_price_and_goes_on_where_it_was(tmp_path, monkeypatch):
    small = ("num_envs=2", "rollout_steps=8", "total_frames=96", "minibatches=2", "width=0.125", "gate_prices=[0,9]")
    phasic = ("algorithm=ppg", "auxiliary_every=2", "auxiliary_epochs=1", "auxiliary_minibatches=2", "gate_rate=1")
    config = compose(*TINY, "separation=learned", *small, *phasic, f"run_dir={tmp_path}")
    trained, train = [], experiment.train

    def stopped_once(run: Any) -> dict[str, float]:
        trained.append(run.config.run_dir)
        if len(trained) == 2:
            with run.lock, contextlib.closing(run.env), run.tracker:
                raise KeyboardInterrupt
        return train(run)

    monkeypatch.setattr(procgen_command, "train", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        learned(config)
    first = (tmp_path / "price0" / "metrics.csv").read_bytes()
    best = learned(config)
    assert (tmp_path / "price0" / "metrics.csv").read_bytes() == first  # trained no further
    with open(tmp_path / "learned.csv", newline="") as file:
        free, dear = csv.DictReader(file)
    assert dear["k"] == "4" and len(dear["gates"].split()) == 4 and min(map(float, dear["gates"].split())) > 0.9
    assert int(dear["multiply_adds_at_k"]) < int(dear["multiply_adds"])
    results = [json.loads((tmp_path / f"k{row['k']}" / "result.json").read_text()) for row in (free, dear)]
    assert best == max(result["final/test_return"] for result in results)
    assert (tmp_path / "learned.png").stat().st_size > 1000


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_learned_separation_keeps_the_precision_that_it_was_begun_in(tmp_path, precision):
    """Whichever this machine would choose, one of the two is another."""
    (tmp_path / "price0.1").mkdir()
    (tmp_path / "price0.1" / "config.yaml").write_text(f"precision: {precision}\n")
    with composing("procgen") as configuration:
        again = configuration("separation=learned", "gate_prices=[0.03,0.1]")
        assert as_begun(again, str(tmp_path)).computed.precision == precision
        more = configuration("separation=learned", "gate_prices=[0.03]")
        assert as_begun(more, str(tmp_path)).computed.precision == precision
        chosen = experiment.procgen_experiment(separation="learned").computed.precision
        anew = configuration("separation=learned", "gate_prices=[0.03,0.1]", "restart=true")
        assert as_begun(anew, str(tmp_path)).computed.precision == chosen


def test_a_learned_separation_that_is_interrupted_names_the_run_that_goes_on(tmp_path, monkeypatch):
    def interrupted(config: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(procgen_command, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt, match=re.escape(f"no checkpoint in {tmp_path / 'price9'} yet")):
        learned(compose("separation=learned", "gate_prices=[9]", f"run_dir={tmp_path}"))


# --------------------------------------------------------------------------------------------------- configurations

RELEASED = {"in_place_skip": True, "minibatches": 16}
WHAT_THE_PROTOCOLS_CHANGE = {
    ("as_written", "shared"): {},
    ("as_written", "late"): {},
    ("as_written", "early"): {},
    ("as_written", "full"): {"algorithm": "daac"},
    ("as_released", "shared"): {**RELEASED, "value_coeff": 0.25},  # 3 epochs, the default
    ("as_released", "late"): {**RELEASED, "value_coeff": 0.25, "epochs": 1, "attention": True},
    ("as_released", "early"): {**RELEASED, "value_coeff": 0.25, "epochs": 1, "attention": True},
    ("as_released", "full"): {**RELEASED, "algorithm": "idaac"},  # the value phase: 0.5 on the squared error
    **{("controlled", separation): {} for separation in NAMES},
}


@pytest.mark.parametrize(("protocol", "separation"), WHAT_THE_PROTOCOLS_CHANGE)
def test_a_protocol_changes_these_settings_and_no_other(protocol, separation):
    settings = compose(f"protocol={protocol}", f"separation={separation}")
    assert (settings.protocol, settings.separation) == (protocol, separation)
    assert departures(settings) == WHAT_THE_PROTOCOLS_CHANGE[protocol, separation]
    assert settings.run_dir == f"runs/procgen/{protocol}/starpilot/{separation}/seed0"


@pytest.mark.parametrize("protocol", ["as_written", "as_released", "controlled"])
@pytest.mark.parametrize("separation", ["shared", "late", "early", "full"])
def test_values_are_clipped_under_every_protocol_unless_told_otherwise(protocol, separation):
    """Rewards are scaled, and the released code clips in all of its variants."""
    pages = [f"protocol={protocol}", f"separation={separation}"]
    assert compose(*pages).learning.clip_value == 0.2
    assert compose(*pages, "clip_value=null").learning.clip_value is None


def test_the_default_is_the_studys_easy_mode_on_200_levels():
    settings = compose()
    assert departures(settings) == {}
    expected = {"env": "starpilot", "separation": "late", "protocol": "as_written", "distribution_mode": "easy"}
    expected |= {"num_envs": 64, "num_levels": 200, "start_level": 0, "evaluate_episodes": 10, "final_episodes": 100}
    assert {name: getattr(settings, name) for name in expected} == expected


def test_on_a_gpu_halves_of_the_games_take_turns_where_there_are_two():
    assert compose("device=cuda").computed.overlap
    assert not compose("device=cuda", "num_envs=63").computed.overlap
    assert compose("device=cuda", "num_envs=63", "overlap=true").computed.overlap  # refused by the games, by its name


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_integer_is_a_separation_without_the_departures_of_a_name(k, protocol):
    settings = compose(f"separation='{k}'", f"protocol={protocol}")
    assert settings.separation == k
    released = {**RELEASED, "value_coeff": 0.25} if protocol == "as_released" else {}
    assert departures(settings) == released


PUBLISHED = {  # per game: value epochs, rollouts between value phases, alpha_A; then the order coefficient and width
    "plunder": ((1, 8, 0.3), (0.1, None)),
    "chaser": ((1, 1, 0.15), (0.001, None)),
    "bigfish": ((9, 32, 0.05), (0.01, 4)),
    "miner": ((9, 32, 0.25), (0.1, 64)),
    "dodgeball": ((9, 32, 0.25), (0.001, 64)),
    "climber": ((9, 1, 0.05), (0.001, 64)),
}


@pytest.mark.parametrize("game", GAMES)
def test_the_published_settings_per_game(game):
    of_daac, of_idaac = PUBLISHED.get(game, ((9, 1, 0.25), (0.001, None)))
    for tuned, order in (("daac", (0.001, None)), ("idaac", of_idaac)):
        settings = compose(f"env={game}", f"tuned={tuned}", "separation=full")
        assert settings.env == game
        own = settings.learning
        assert (own.value_epochs, own.value_every, own.advantage_coeff) == of_daac
        assert (own.order_coeff, own.order_width) == order
    names = {"algorithm", "value_epochs", "value_every", "advantage_coeff", "order_coeff", "order_width"}
    assert departures(settings).keys() <= names
    assert departures(compose(f"env={game}")) == {}


def test_there_is_a_page_for_each_game_and_for_no_other():
    assert sorted(page.stem for page in (CONFIGS / "env").iterdir()) == sorted(GAMES)
    tuned = {page.stem for page in (CONFIGS / "tuned" / "game").rglob("*.yaml")}
    assert tuned == PUBLISHED.keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("totl_frames=3", "Key 'totl_frames' not in 'ProcgenExperiment'"),
        ("num_envs=few", "(?s)'few'.*Integer.*num_envs"),
        ("gamma=high", "(?s)'high'.*Float.*gamma"),
        ("attention=perhaps", "(?s)perhaps.*bool.*attention"),
        ("env=pong", "(?s)Could not find 'env/pong'.*starpilot"),
        ("separation='6'", "(?s)Could not find 'separation/6'.*late"),
        ("separation=mid", "(?s)Could not find 'separation/mid'.*late"),
        ("protocol=as_told", "(?s)Could not find 'protocol/as_told'.*as_released"),
    ],
)
def test_a_misspelt_key_a_wrong_type_and_an_unknown_name_are_refused(override, message):
    with pytest.raises((ConfigCompositionException, hydra.errors.MissingConfigException)) as refusal:
        compose(override)
    whole = f"{refusal.value}\n{refusal.value.__cause__}"
    assert re.search(message, whole), whole


def test_a_separation_beyond_the_depth_is_refused_and_a_recurrent_network_has_one_block_more():
    with pytest.raises(ValueError, match=r"separation must be a name or a whole number in \[0, 4\]; got 5"):
        compose("separation='5'")
    assert compose("separation='5'", "recurrent=gru").separation == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gamma=2", r"gamma must be in \[0, 1\]; got 2.0"),
        (
            "algorithm=a2c",
            r"algorithm must be one of \['daac', 'dcpg', 'ddcpg', 'dna', 'idaac', 'ppg', 'ppo'\]; got 'a2c'",
        ),
        ("num_envs=0", "num_envs must be at least 1; got 0"),
        ("evaluate_episodes=0", "evaluate_episodes must be at least 1; got 0"),
        ("final_episodes=-1", "final_episodes must be at least 1; got -1"),
        ("unseen=seed", "unseen must be layout, frame or null; got 'seed'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match=message):
        compose(override)


# ------------------------------------------------------------------------------------- the experiment's own functions

GAME = {"shared": "starpilot", "late": "bossfight", "early": "dodgeball", "full": "fruitbot"}  # with short episodes


# controlled has the settings of as_written, but for that of full: WHAT_THE_PROTOCOLS_CHANGE. So each separation is
# there, each protocol, and IDAAC with attention and without.
EACH = {("as_released", "late"), ("as_released", "full"), ("as_written", "shared"), ("as_written", "early")}
EACH |= {("controlled", "full")}


@needs_games
@pytest.mark.parametrize(("protocol", "separation"), slow_but(EACH, itertools.product(PROTOCOLS, NAMES)))
def test_every_separation_trains_under_every_protocol(tmp_path, separation, protocol):
    small = (*TINY, "width=1", "num_envs=2", "total_frames=64", "value_epochs=1")
    config = compose(f"separation={separation}", f"protocol={protocol}", f"env={GAME[separation]}", *small)
    config.run_dir = str(tmp_path / "run")
    report = train(config)
    metrics = read_metrics(config.run_dir)
    assert metrics["frames"] == [32, 64]
    names = {"loss/objective", "loss/critic", "policy/entropy", "policy/clip_fraction", "value/clip_fraction"}
    names |= {"loss/advantage", "grad_norm/value"} if separation == "full" and protocol != "controlled" else set()
    names |= {"order/accuracy", "loss/order"} if separation == "full" and protocol == "as_released" else set()
    assert names <= metrics.keys()
    assert ("loss/advantage" in metrics) == ("loss/advantage" in names)
    assert ("order/accuracy" in metrics) == ("order/accuracy" in names)
    assert any(name.startswith("cut/") for name in metrics) == (separation != "full")
    assert all(torch.tensor(metrics[name]).isfinite().all() for name in names)
    glossary = set(re.findall(r"`(\w+/\w+)`", (ROOT / "docs" / "procgen.md").read_text()))
    assert metrics.keys() - {"frames"} <= glossary
    assert report["final/generalisation_gap"] == report["final/train_return"] - report["final/test_return"]
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept == {"frames": 64, **report}
    facts = json.loads((tmp_path / "run" / "record.json").read_text())["sessions"][0]["facts"]
    k = {"shared": 4, "late": 2, "early": 1, "full": 0}[separation]
    assert facts["separation_index"] == str(k)
    heads = {"shared": 626_256, "late": 1_197_040, "early": 1_238_672, "full": 1_248_400}
    if protocol != "as_released" or separation in ("shared", "full"):
        assert json.loads(facts["parameters"])["total"] == heads[separation]
    else:  # with attention in the separated stages
        assert json.loads(facts["parameters"])["total"] == {"late": 1_199_088, "early": 1_242_384}[separation]
    assert (tmp_path / "run" / "curves.png").exists()


def test_the_table_at_the_end_by_hand():
    report = {"final/train_return": 12.345, "final/train_return_median": 11, "final/train_return_std": 1.5}
    report |= {"final/test_return": 9.0, "final/test_return_median": 8, "final/test_return_std": 2}
    lines = table(compose("start_level=10"), {**report, "final/generalisation_gap": 3.345}).splitlines()
    assert [line.split("  ", 1)[0] for line in lines] == [
        "starpilot, 100 episodes each",
        "train return, levels 10 to 209",
        "test return, levels all",
        "generalisation gap",
    ]
    numbers = [line[36:].split() for line in lines]
    assert numbers == [["mean", "median", "std"], ["12.35", "11.00", "1.50"], ["9.00", "8.00", "2.00"], ["3.35"]]
    assert len({len(line) for line in lines[:3]}) == 1
    unseen = {"unseen_return": 7, "unseen_return_median": 6, "unseen_return_std": 1, "repeated_levels": 0.25}
    report |= {"final/generalisation_gap": 3.345} | {f"final/{name}": number for name, number in unseen.items()}
    told = table(compose("start_level=10"), report).splitlines()
    assert told[:3] + told[4:] == lines
    assert told[3].split("  ")[0] == "of these, 75%: unlike training"
    assert told[3][36:].split() == ["7.00", "6.00", "1.00"]


# ------------------------------------------------------------------------------------------------ the real command


@needs_procgen
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=slow_bf16)])
def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(tmp_path, capsys, monkeypatch, precision):
    """Whichever this machine would choose, one of the two is another."""
    monkeypatch.setattr("decouple.on_policy.training.LONG_S", 0.0)  # as of a run of hours
    folder, tiny = tmp_path / "run", (*TINY, "num_envs=2", "minibatches=1", "epochs=1", "total_frames=64")
    train(compose(*tiny, "total_frames=32", f"precision={precision}", f"run_dir={folder}"))
    with composing("procgen") as configuration:
        again = configuration(*tiny)
    run = experiment.prepare(as_begun(again, str(folder)))
    experiment.train(run)
    assert run.config.computed.precision == precision
    said = capsys.readouterr().err
    assert "going on from 32 frames" in said and f"performance=auto: cpu, {precision}, " in said
    assert re.search(r"^that is \d+ % of what this machine's matrix products reach, measured now$", said, re.MULTILINE)
    other = {"fp32": "bf16", "bf16": "fp32"}[precision]
    with pytest.raises(CheckpointError, match=f"precision: checkpoint has '{precision}', this run has '{other}'"):
        experiment.prepare(compose(*tiny, f"precision={other}", f"run_dir={folder}"))


SIX_ITERATIONS = (  # IDAAC, which has every piece of state there is
    *("separation=full", "protocol=as_released", "env=starpilot", "num_envs=4", "rollout_steps=16", "minibatches=4"),
    *("value_epochs=1", "value_every=2", "total_frames=384", "checkpoint_every=2", "evaluate_every=3"),
    *("evaluate_episodes=1", "final_episodes=1", "num_threads=1", "precision=fp32", "width=0.25"),
)


@needs_procgen
def test_a_run_killed_at_any_moment_and_started_again_equals_an_unbroken_one(tmp_path):
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    finished = PROCGEN.alone(tmp_path, *SIX_ITERATIONS, f"run_dir={unbroken}")
    assert finished.returncode == 0, finished.stderr

    again = (*SIX_ITERATIONS, f"run_dir={broken}")
    PROCGEN.kill_after(broken, 1, tmp_path, *again)  # before the first checkpoint
    PROCGEN.kill_after(broken, 3, tmp_path, *again)  # between the first checkpoint and the second
    resumed = PROCGEN.run(tmp_path, *again)
    assert resumed.returncode == 0, resumed.stderr

    sessions = json.loads((broken / "record.json").read_text())["sessions"]
    assert len(sessions) == 3 and sessions[0]["resume_frames"] is None
    assert 0 < sessions[2]["resume_frames"] < 384
    assert len(without_clock(unbroken)) == 1 + 6
    assert without_clock(broken) == without_clock(unbroken)
    assert (broken / "result.json").read_text() == (unbroken / "result.json").read_text()
    assert_same(checkpoint_of(broken), checkpoint_of(unbroken))

    # What a person reads: what runs and where, progress, the result, and nothing of third parties.
    start, how, estimate, *progress = finished.stderr.splitlines()
    assert start.startswith("starpilot, separation=full (k=0 of 4), idaac, 79,216 parameters; the record goes to ")
    # One thread: tests/commands.py says so.
    chosen = "cpu, fp32, channels_last, micro-batches of 64, 1 thread, preallocated collector, keep_memory"
    assert how == f"performance=auto: {chosen}"
    assert re.fullmatch(r"about \d\d:\d\d for 384 frames, \d+ frames/s, without evaluations", estimate)
    assert progress[0] == "collecting, frames: 0 / 64"
    assert all(line.split(":")[0].split(",")[0] in LINES or "frames/s" in line for line in progress), finished.stderr
    assert finished.stdout.splitlines()[-1] == f"the record is in {unbroken}"
    assert f"going on from {sessions[2]['resume_frames']} frames" in resumed.stderr

    # A mismatch is refused in a few lines, without a stack.
    refused = PROCGEN.run(tmp_path, *again, "separation=late")
    assert refused.returncode == 1
    assert "  separation: checkpoint has 'full', this run has 'late'" in refused.stderr.splitlines()
    assert "Traceback" not in refused.stderr

    # So are fewer frames than the run has: its folder would say what it did not do.
    config = (broken / "config.yaml").read_text()
    refused = PROCGEN.run(tmp_path, *again, "total_frames=320")
    assert refused.returncode == 1 and "total_frames must be at least 384, as far as the run in" in refused.stderr
    assert (broken / "config.yaml").read_text() == config


LINES = {"collecting", "policy phase", "value phase", "evaluating", "looking at training levels"}


@needs_games
def test_a_sweep_over_two_values_and_an_evaluation_from_another_folder(tmp_path):
    tiny = [*TINY, "num_envs=2", "total_frames=32"]
    swept = PROCGEN.run(tmp_path, *tiny, "separation=3,late", "run_dir=runs/${separation}", "-m")
    assert swept.returncode == 0, swept.stderr
    for separation, k in (("3", 3), ("late", 2)):
        folder = tmp_path / "runs" / separation
        assert rows(folder) == 1
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["separation"] == {"3": 3, "late": "late"}[separation]
        facts = json.loads((folder / "record.json").read_text())["sessions"][0]["facts"]
        assert facts["separation_index"] == str(k)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # nothing is left about in the folder

    checkpoint = tmp_path / "runs" / "late" / "checkpoint.pt"
    options = ("final_episodes=1", "num_levels=500", "start_level=1000")
    evaluated = PROCGEN.run(tmp_path, f"evaluate={checkpoint}", *options)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "train return, levels 1000 to 1499" in evaluated.stdout


@needs_games
@pytest.mark.slow
def test_the_command_logs_to_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    finished = PROCGEN.run(tmp_path, *TINY, "tracker=wandb", "mode=offline", f"run_dir={tmp_path / 'run'}")
    assert finished.returncode == 0, finished.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert rows(tmp_path / "run") == 2


def test_all_pairs_of_separation_and_protocol_are_tested():
    assert WHAT_THE_PROTOCOLS_CHANGE.keys() == set(itertools.product(PROTOCOLS, NAMES))


def test_several_seeds_as_one_batch_are_refused_by_name(tmp_path):
    for given in ("seeds=2", "+seeds=2"):
        done = PROCGEN.run(tmp_path, given)
        assert done.returncode == 1 and done.stderr.startswith("seeds must be left out on Procgen"), done.stderr
