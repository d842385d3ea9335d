"""Benchmarks: their settings; of the one of returns, its episodes and its arithmetic. Nothing is trained here."""

import importlib
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import composed

from decouple.studies.actor_size.build import make_env
from decouple.studies.actor_size.settings import FINAL_SEED

pytest.importorskip("gymnasium")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def benchmark():
    """A function that imports a benchmark by its name."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    try:
        yield importlib.import_module
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def control_returns(benchmark):
    return benchmark("control_returns")


@pytest.mark.parametrize("contender", ["shared", "early", "late", "full", "daac", "2"])
def test_procgen_contenders_have_settings(benchmark, contender):
    settings = benchmark("procgen_ppo").make_settings(contender, envs=64, steps=32)
    assert settings.algorithm == ("daac" if contender == "daac" else "ppo")
    assert settings.minibatches == 1


def test_every_cell_has_settings(control_returns):
    units = [f"track-{unit}" for unit in control_returns.track_task.HALVES]
    for case in ["pendulum-small", "pendulum-docs", *units]:
        for algorithm in control_returns.ALGORITHMS:
            config = control_returns.make_settings(case, algorithm)
            assert config.final_episodes == 100
            assert (config.env == "pendulum") == case.startswith("pendulum")


def test_both_systems_are_evaluated_on_the_same_episodes(control_returns):
    env = make_env(control_returns.make_settings("pendulum-small", "td3"), 3, [FINAL_SEED + 5])
    step, totals = env.reset(), torch.zeros(3, dtype=torch.float64)
    for _ in range(200):
        step["action"] = torch.full((1, 3, 1), 0.5)
        done, step = env.step_and_maybe_reset(step)
        totals += done["next", "reward"].double().flatten()
    found = control_returns.episode_returns(lambda _: np.array([0.5], np.float32), "Pendulum-v1", FINAL_SEED + 5, 3)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), totals, rtol=1e-6, atol=0)  # float32 rewards


def test_the_task_is_one_in_every_unit(control_returns):
    import gymnasium

    totals = []
    for name, half in control_returns.track_task.HALVES.items():
        env = gymnasium.make(f"Track-{name}-v0")
        observation, _ = env.reset(seed=0)
        total, done = 0.0, False
        while not done:
            observation, reward, _, done, _ = env.step(np.float32(half) * (0.5 - observation))
            total += reward
        totals.append(total)
    assert totals == pytest.approx(4 * [-20 * 0.5**2], rel=1e-5)


def test_an_interval_is_students(control_returns):
    assert control_returns.interval([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert control_returns.interval([1.0, float("nan"), 3.0])[0] == 2  # over those that came to a return


def test_the_table_counts_failures_and_says_whose_mean_lies_outside(control_returns):
    returns = {"ours": [-150.0, -401.0, float("nan")], "sb3": [-150.0, -151.0, -149.0]}
    rows = [
        {"case": "pendulum-small", "algorithm": "td3", "system": system, "seed": seed, "return": value, "seconds": "7"}
        for system, values in returns.items()
        for seed, value in enumerate(values)
    ]
    table = control_returns.make_table(rows)
    assert "| -276 | -1870 to 1319 | 2 of 3 | 7 |" in table  # t = 12.706 of 1 degree of freedom, times 125.5
    assert "| -150 | -152 to -148 | 0 of 3 |" in table
    assert table.endswith("- pendulum-small, td3: ours's mean outside sb3's interval")


def test_rows_are_kept(control_returns, tmp_path):
    row = {"case": "track-1", "algorithm": "sac", "system": "ours", "seed": 3, "return": -0.25, "seconds": 7.4}
    for _ in range(2):
        control_returns.add_rows(tmp_path / "returns.csv", [row])
    kept = control_returns.read_rows(tmp_path / "returns.csv")
    assert kept == 2 * [row | {"seconds": "7"}]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_deployed_actor_is_measured_in_every_form(benchmark, monkeypatch):
    """The mean action of all float32 forms is compared inside."""
    pytest.importorskip("onnxscript")
    deployed = benchmark("deployed_actors")
    monkeypatch.setattr(deployed, "FLAGS", {"-O2": ["-O2"]})
    monkeypatch.setattr(deployed, "instructions", lambda *_: None)
    found = deployed.measure(4, 1, None)
    assert found["parameters"] == 41 and found["ns"].keys() == {"float32 -O2", "int8 -O2", "onnx", "eager"}
    assert all(each > 0 for each in found["ns"].values())
    assert "| \\|4,4\\| | 41 |" in deployed.table([found])


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_many_actors_are_measured_alone_and_in_turn(benchmark):
    """Each actor's action is compared with PyTorch's inside."""
    pytest.importorskip("onnxscript")
    rows = benchmark("many_actors").measure([(4, 4)], count=2, rounds=1, decisions=4)
    assert [(row["form"], row["actors"]) for row in rows] == [
        (form, actors) for form in ("plain C", "ONNX Runtime") for actors in (1, 2)
    ]
    assert all(row["ns"] > 0 and row["parameters"] == 41 for row in rows)


def test_the_cost_of_the_studies_is_of_the_newest_speeds(benchmark, tmp_path, capsys, monkeypatch):
    cost = benchmark("study_cost")
    head = "date,commit,load,width,contender,precision,env_steps_per_s\n"
    rows = [("2026-01-01", name, 100.0) for name in cost.VARIANTS] + [
        ("2026-01-02", name, 1000.0) for name in cost.VARIANTS
    ]
    lines = [f"{date},a,1,1,{name},bf16,{rate}\n" for date, name, rate in rows]
    (tmp_path / "speeds.csv").write_text(head + "".join([*lines, "2026-01-03,a,1,1,late,bf16,9999\n"]))
    found = cost.study_hours(tmp_path / "speeds.csv", "bf16")
    assert found == dict.fromkeys(cost.VARIANTS, (1000.0, 16 * 5 * 25000000 / 1000 / 3600))
    with pytest.raises(ValueError, match=r"speeds\.csv must have a session with shared, late, early, full"):
        cost.study_hours(tmp_path / "speeds.csv", "fp32")
    monkeypatch.setattr(sys, "argv", ["study_cost.py", "--machines", "8"])
    cost.main()
    told = capsys.readouterr().out
    assert "| all | 320 |" in told and "| all | 184 |" in told and "ant, DDPG" not in told
    assert len(cost.mujoco_hours(cost.RESULTS / "honey" / "hours.csv")) == 8  # the searches of docs/guide_cluster.md


def test_the_pairs_whose_training_is_timed_are_the_papers(benchmark, monkeypatch):
    timing = benchmark("size_training_time")
    asked = []

    def frames_in(words: list[str]) -> int:
        return next(int(word.split("=")[1]) for word in words if word.startswith("total_frames="))

    def seconds(words: list[str]) -> tuple[float, float, int]:
        asked.append(words)
        width = next(word for word in words if word.startswith("actor="))
        trained = 8 * math.ceil(frames_in(words) / 8)  # whole rollouts
        of_step = {"actor=[400,300]": 4.0, "actor=[16,16]": 2.0, "actor=[4,4]": 0.01}[width]
        return trained * of_step + 7.0, 0.0, trained

    monkeypatch.setattr(timing, "seconds", seconds)
    found = timing.measure("pendulum", "td3", "compiled", frames=100, rounds=3)
    assert [found[f"{pair}_seconds"] for pair in timing.PAIRS] == [360.0, 180.0, 0.9]  # without the start's 7 seconds
    assert len(asked) == 9 + 3 * 3 * 2 and "critic=[16,16]" in asked[-1] and "actor=[4,4]" in asked[-1]
    # The last pair is done in .9 seconds, so it is trained three times as long, and the time divided.
    assert [frames_in(words) for words in asked[-6:]] == [10, 100, 10, 100, 10, 280]
    assert all("update=compiled" in words and "seeds=1" in words for words in asked)


@pytest.mark.parametrize("task", ["pendulum", "reacher", "halfcheetah", "ant", "acrobot"])
def test_timed_rollouts_are_shorter_and_a_step_has_the_same_updates(task, benchmark):
    timing = benchmark("size_training_time")
    words = timing.overrides(task, "ppo", ((4, 4), (4, 4)), "compiled", 100, "folder")
    quarters = timing.QUARTERS[task]
    given = words, [word for word in words if word not in quarters]
    shorter, published = (composed("control", *own).learning for own in given)
    assert 4 * shorter.rollout_steps == published.rollout_steps
    assert 4 * shorter.minibatches == published.minibatches and shorter.epochs == published.epochs


def trained_table(folder: Path) -> Path:
    """A row of Table I for a search that tried nothing, of two seeds on the toy problem."""
    row = {"task": "toy", "algorithm": "ddpg", "source": "here", "threshold": "-200", "seeds": "2", "decided": "False"}
    row |= {"baseline_size": "4,4", "actor_size": "2,2", "critic_size": "4,4"}
    row |= {"asymmetric_reward": "-3", "asymmetric_low": "-5", "asymmetric_high": "-1"}
    path = folder / "table_1.csv"
    path.write_text(",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n")
    cells = "task,algorithm,actor,critic,parameters,return,return_low,return_high\n"
    (folder / "cells.csv").write_text(cells + 'toy,ddpg,"2,2","4,4",13,-3,-5,-1\n')
    return path


@pytest.mark.slow
def test_the_question_of_trained_and_distilled_actors_is_answered_at_tiny_size(benchmark, tmp_path, capsys):
    asked = benchmark("trained_or_distilled")
    table, out = trained_table(tmp_path), tmp_path / "report"
    own = ["total_frames=300", "learning_starts=100", "batch_size=8", "buffer_size=300", "update=batched"]
    own += ["log_every=100", "evaluate_every=300", "checkpoint_every=300", "final_episodes=1", "show_progress=false"]
    few = ["total_frames=64", "num_envs=4", "final_episodes=1", "evaluate_episodes=1", "show_progress=false"]
    arguments = ["toy:ddpg", "--runs", str(tmp_path / "runs"), "--out", str(out), "--trained", str(table)]
    arguments += ["--curves", str(tmp_path / "cells.csv"), "--sizes", "[[],[2,2]]"]
    asked.main([*arguments, "--set", *own, *(f"distill.{setting}" for setting in few)])
    lines = (out / "students.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[1].startswith('toy,ddpg,"4,4",-220')
    text = capsys.readouterr().out
    assert "toy, DDPG" in text and "trained is larger" in text  # any return reaches -220, so the linear one is accepted
    assert (out / "picture.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        asked.main(["pong:ppo", *arguments[1:]])


def test_the_answer_compares_parameters(benchmark):
    answer = benchmark("trained_or_distilled").answer
    counts = {(1, 1): 5, (4, 4): 30, (): 9}
    assert answer((4, 4), {"actor": [1, 1]}, counts) == "trained is larger"
    assert answer((1, 1), {"actor": [4, 4]}, counts) == "distilled is larger"
    assert answer((1, 1), {"actor": []}, counts) == "distilled is larger"  # a linear layer of more parameters
    assert answer((4, 4), {"actor": [4, 4]}, counts) == "equal"
    assert answer((4, 4), None, counts) == "distilled none"
    assert answer((64, 64), {"actor": [4, 4]}, counts) == "trained is larger"


def test_the_reference_scales_rewards_as_gymnasium_does(benchmark):
    """Divided by the running standard deviation of the discounted return, and clipped; a game's end begins it anew."""
    import gymnasium

    loop = benchmark("reference_ppo")
    scaled, found = loop.ScaledRewards(3), gymnasium.wrappers.utils.RunningMeanStd(shape=())
    draw, returns = np.random.default_rng(0), np.zeros(3)
    for _ in range(20):
        reward, first = draw.normal(size=3) * 5, draw.random(3) < 0.3
        returns = returns * 0.999 + reward
        found.update(returns)
        expected = np.clip(reward / np.sqrt(found.var + 1e-8), -10, 10)
        np.testing.assert_allclose(scaled(reward, first), expected, rtol=1e-9)
        returns[first] = 0


def test_the_references_loss_is_that_of_torchrl(benchmark):
    """On one minibatch: objective, clipped value error of weight 0.5 (in its halves), entropy of weight 0.01."""
    loop = benchmark("reference_ppo")
    torch.manual_seed(0)
    network, number = loop.Network(), 6
    column = lambda: torch.randn(number)  # noqa: E731
    batch = {"frames": torch.rand(number, 64, 64, 3) * 255, "action": torch.arange(number), "advantage": column()}
    batch |= {"value": column(), "target": column(), "log_prob": torch.full((number,), -np.log(15)) + 0.3 * column()}
    report = {}
    found = loop.ppo_loss(network, batch, report)
    logits, value = network(batch["frames"])
    log_prob = logits.log_softmax(-1)
    ratio = (log_prob[range(number), batch["action"]] - batch["log_prob"]).exp()
    gain = torch.min(ratio * batch["advantage"], torch.clamp(ratio, 0.8, 1.2) * batch["advantage"]).mean()
    near = batch["value"] + torch.clamp(value - batch["value"], -0.2, 0.2)
    error = torch.max((value - batch["target"]) ** 2, (near - batch["target"]) ** 2).mean()
    entropy = -(log_prob.exp() * log_prob).sum(-1).mean()
    torch.testing.assert_close(found, -gain + 0.5 * 0.5 * error - 0.01 * entropy)
    torch.testing.assert_close(report["ratio"], ratio.detach())


def test_grouped_convolutions_are_the_networks_one_after_another(benchmark):
    module = benchmark("seeds_on_device")
    torch.manual_seed(0)
    singles, together = [module.GroupedImpala(1).double() for _ in range(2)], module.GroupedImpala(2).double()
    with torch.no_grad():
        for parameter, *own in zip(together.parameters(), *(each.parameters() for each in singles), strict=True):
            parameter.copy_(torch.cat(own))
    frames = torch.rand(3, 6, 64, 64, dtype=torch.float64)
    expected = torch.cat([single(part) for single, part in zip(singles, frames.split(3, 1), strict=True)])
    torch.testing.assert_close(together(frames), expected)


def test_a_long_runs_record_and_reports_on_it_grow_with_the_rows_alone(benchmark, tmp_path, monkeypatch):
    """Two rows' text differ in nothing but their numbers, and a checkpoint's size does not change."""
    module = benchmark("long_runs")
    sizes = []
    for iterations in (20, 40):
        folder = tmp_path / str(iterations)
        found = module.write_record(folder, iterations * module.PER_ITERATION)
        assert [len(found[name]) for name in ("row", "checkpoint")] == [iterations, iterations // 10]
        sizes.append([(folder / name).stat().st_size for name in ("metrics.csv", "checkpoint.pt")])
    (table, checkpoint), (longer, later) = sizes
    assert 1.8 < longer / table < 2.05
    assert abs(later - checkpoint) < 100
    module.copy_runs(tmp_path / "20", tmp_path / "runs", 8)
    read = importlib.import_module("decouple.studies.separation.results").read_study
    study = read(sorted((tmp_path / "runs").iterdir()))
    assert sum(map(len, study.runs.values())) == 8 and not study.notes[2:]
    assert all(not run.unfinished for runs in study.runs.values() for run in runs)


def test_what_grows_is_drawn_by_its_axis(benchmark):
    lines = benchmark("plot_growth").lines
    same = {"precision": "fp32", "env_steps_per_s": "10", "peak_mb": "1", "clock": "cpu", "date": "2026-11-22"}

    def row(*values):
        return same | dict(zip(("contender", "envs", "steps", "width"), map(str, values), strict=True))

    rows = [row(str(k), 64, 32, 1) for k in (4, 0)] + [row("late", 64, 8, width) for width in (1, 2)]
    rows += [row("late", envs, 2048 // envs, 1) for envs in (16, 256, 64)] + [row("late", 64, 128, 1)]
    rows += [row("late", 64, 32, 1) | {"clock": "wall"}, row("late", 64, 512, 1) | {"clock": "wall"}]
    found = {axis: [each[axis] for each in own["fp32"]] for axis, own in lines(rows).items()}
    assert lines(rows)["envs"]["fp32"][1]["clock"] == "cpu"
    assert found == {"k": ["0", "4"], "envs": ["16", "64", "256"], "steps": ["32", "128"], "width": ["1", "2"]}
    later = [row("late", 64, steps, 1) | {"date": "2026-11-29"} for steps in (64, 16)] + [row("2", 64, 32, 1)]
    again = lines(rows + later)  # another day's machine may be another: a panel has one day's rows
    assert [each["steps"] for each in again["steps"]["fp32"]] == ["16", "64"]
    assert again["envs"] == lines(rows)["envs"]


def test_random_returns_are_of_as_many_episodes_of_each_game(benchmark):
    found = benchmark("random_returns").random_returns("CartPole-v1", episodes=60, games=3)
    assert found.shape == (60,) and found.min() >= 8 and 17 < found.mean() < 29  # 22.7 over 1,000 episodes
    assert torch.equal(found, benchmark("random_returns").random_returns("CartPole-v1", episodes=60, games=3))
    with pytest.raises(ValueError, match="episodes must be a multiple of games, 3; got 10"):
        benchmark("random_returns").random_returns("CartPole-v1", episodes=10, games=3)
