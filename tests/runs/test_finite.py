"""What is not finite is told by name and kept to its agent: every algorithm, alone and beside others, and resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_tasks import AT, register
from pairwise import grid
from playing import play

from decouple.envs.control.tasks import control_env
from decouple.runs.checkpoint import load_checkpoint
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.runs.metrics import read_metrics, read_result
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.load import load_agents
from decouple.studies.actor_size.settings import ControlSettings

register()
ALGORITHMS, KINDS = ("sac", "td3", "ddpg", "ppo", "trpo"), ("box", "discrete")
QUICK: dict[str, Any] = {
    "show_progress": False,
    "evaluate_episodes": 1,
    "final_episodes": 2,
    "actor": [4],
    "critic": [8],
}
OFF: dict[str, Any] = {"learning_starts": 10, "batch_size": 8, "log_every": 25, "evaluate_every": 50}
ON: dict[str, Any] = {"rollout_steps": 25, "minibatches": 1, "epochs": 2, "evaluate_every": 2}


def takes(algorithm: str, kind: str, *_: object) -> bool:
    return kind == "box" or algorithm in ("sac", "ppo", "trpo")


EACH = [(algorithm, kind) for kind in KINDS for algorithm in ALGORITHMS if takes(algorithm, kind)]


def cell(algorithm: str, folder: Path, env: str, **settings: Any) -> ControlSettings:
    off = algorithm in ("sac", "td3", "ddpg")
    every = {"checkpoint_every": 25} if off else {"checkpoint_every": 1}
    if algorithm == "trpo":
        every |= {"value_epochs": 2}
    own = (OFF if off else ON) | every | {"total_frames": 100, "env": env, "run_dir": str(folder)}
    return CONTROL_ALGORITHMS[algorithm](**{**QUICK, **own, **settings})


def finite(model: torch.nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------- one agent alone


@grid(takes, algorithm=ALGORITHMS, kind=KINDS, what=[("Nan", "observation"), ("Inf", "reward")])
def test_one_agent_ends_with_an_error_that_names_it_all_and_no_return(tmp_path, algorithm, kind, what):
    word, where = what
    env = f"Odd/{word}-{where}-{kind}-v0"
    says = f"{env}, seed 3: {where} is {word.lower()} at frame {AT}"
    with pytest.raises(NotFiniteError, match=f"^{says}$"):
        train_agents(cell(algorithm, tmp_path, env, seed=3))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["final/return"] is None and result["failed"] == {"seed3": says}
    assert read_metrics(tmp_path)["frames"] == [25]
    # The last checkpoint is of before, and what is started again says the same.
    assert load_checkpoint(tmp_path / "checkpoint.pt")["failed"] == {}
    assert all(map(finite, load_agents(tmp_path)))
    with pytest.raises(NotFiniteError, match=where):
        train_agents(cell(algorithm, tmp_path, env, seed=3))


@pytest.mark.parametrize(("algorithm", "kind"), EACH)
def test_a_learning_rate_that_diverges_is_told_by_the_loss_or_the_parameter(tmp_path, algorithm, kind):
    env = f"Odd/Plain-{kind}-v0"
    says = rf"^{env}, seed 0: (loss/\w+|parameter [\w.]+|value/mean|policy/\w+) is (nan|-?inf) by frame \d+$"
    with pytest.raises(NotFiniteError, match=says):
        train_agents(cell(algorithm, tmp_path, env, learning_rate=1e37))
    assert all(map(finite, load_agents(tmp_path)))


# -------------------------------------------------------------------------------------------------------- beside others


@grid(takes, algorithm=ALGORITHMS, kind=KINDS, what=[("Nan", "reward"), ("Inf", "observation")])
def test_one_of_three_fails_and_the_others_go_on_bit_for_bit(tmp_path, algorithm, kind, what):
    word, where = what
    env = f"Odd/{word}-{where}-{kind}-seed1-v0"
    with pytest.warns(UserWarning, match=f"seed 1: {where} is {word.lower()} at frame {AT}; it has failed"):
        report = train_agents(cell(algorithm, tmp_path / "odd", env, seeds=3))
    plain = train_agents(cell(algorithm, tmp_path / "plain", f"Odd/Plain-{kind}-v0", seeds=3))

    own = [report[f"final/return/seed{seed}"] for seed in range(3)]
    assert own[1] is None and own[::2] == [plain[f"final/return/seed{seed}"] for seed in (0, 2)]
    assert report["final/return"] == pytest.approx((own[0] + own[2]) / 2) and report["final/seeds"] == 2
    assert report["final/return_std"] == pytest.approx(abs(own[0] - own[2]) / math.sqrt(2))
    assert report["failed"] == {"seed1": f"{env}, seed 1: {where} is {word.lower()} at frame {AT}"}
    assert read_result(tmp_path / "odd" / "result.json") == {"frames": 100, **report}
    assert "NaN" not in (tmp_path / "odd" / "result.json").read_text()

    for index, (agent, of_plain) in enumerate(
        zip(*map(load_agents, (tmp_path / "odd", tmp_path / "plain")), strict=True)
    ):
        pairs = zip(agent.parameters(), of_plain.parameters(), strict=True)
        assert index == 1 or all(torch.equal(a, b) for a, b in pairs)
    rows, plain_rows = read_metrics(tmp_path / "odd"), read_metrics(tmp_path / "plain")
    assert rows["frames"] == plain_rows["frames"] == [25, 50, 75, 100]
    for name in rows:
        if "/seed" in name:  # the failed one's own end where it failed; the others' are those of the plain run
            expected = [*plain_rows[name][:1], *[math.nan] * 3] if name.endswith("/seed1") else plain_rows[name]
            assert rows[name] == pytest.approx(expected, nan_ok=True), name
        elif f"{name}/seed0" in rows:
            pair = [rows[f"{name}/seed{seed}"] for seed in (0, 2)]
            means = [torch.tensor(values).nanmean().item() for values in zip(*pair, strict=True)]
            assert rows[name][1:] == pytest.approx(means[1:], rel=1e-5, nan_ok=True), name


@pytest.mark.parametrize("algorithm", ["td3", "ppo"])
def test_a_failed_agent_stays_so_when_the_run_goes_on(tmp_path, algorithm, request):
    if algorithm == "td3":  # its curves are drawn, with what is not finite in them
        request.getfixturevalue("with_curves")
    env = "Odd/Nan-reward-box-seed1-v0"
    with pytest.warns(UserWarning, match="seed 1"):
        whole = train_agents(cell(algorithm, tmp_path / "whole", env, seeds=3, keep_replay=True))
    with pytest.warns(UserWarning, match="seed 1"):
        train_agents(cell(algorithm, tmp_path / "parts", env, seeds=3, total_frames=50, keep_replay=True))
    parts = train_agents(cell(algorithm, tmp_path / "parts", env, seeds=3, keep_replay=True))  # says nothing again
    assert parts["failed"] == whole["failed"] and parts["final/return/seed1"] is None
    assert train_agents(cell(algorithm, tmp_path / "parts", env, seeds=3, keep_replay=True)) == parts  # evaluates anew


def test_a_number_too_large_for_float32_is_infinite_where_it_enters():
    env = control_env("Odd/Huge-reward-box-v0", [0])
    reward = play(env, [torch.zeros(1, 1, 1)] * AT)[0]["reward"]
    assert reward[-1].isinf() and reward[:-1].isfinite().all()
    with pytest.raises(ValueError, match=r"action must be finite; got \[\[inf\]\] \(the game takes float32\)"):
        env.step(env.reset().set("action", torch.full((1, 1, 1), 1e300, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("algorithm", "settings", "frame"),
    [
        *(("td3", {"held_out_every": every}, AT) for every in (2, 3, AT)),
        *(("td3", {"held_out_every": 3, "num_envs": 2}, 2 * AT), ("ppo", {"num_envs": 2}, 2 * AT)),
        *(("td3", {"update": "torchrl"}, AT), ("sac", {"update": "torchrl"}, AT), ("td3", {"buffer_size": 5}, AT)),
    ],
)
def test_the_frame_is_told_wherever_the_transition_is_kept(tmp_path, algorithm, settings, frame):
    for where in ("reward", "observation"):
        config = cell(algorithm, tmp_path / where, f"Odd/Nan-{where}-box-v0", **settings)
        with pytest.raises(NotFiniteError, match=f"seed 0: {where} is nan at frame {frame}$"):
            train_agents(config)


@pytest.mark.parametrize("algorithm", ["td3", "ppo"])
def test_a_return_that_is_not_finite_is_none(tmp_path, monkeypatch, algorithm):
    """Training sees nothing of it."""
    returns = lambda *_, **__: torch.tensor([[1.0, 3.0], [math.inf, 1.0], [5.0, 5.0]]).double().flatten()  # noqa: E731
    monkeypatch.setattr("decouple.studies.actor_size.cell.episode_returns", returns)
    with pytest.warns(UserWarning, match="seed 1: the return is inf after training; it has failed"):
        report = train_agents(cell(algorithm, tmp_path / "three", "toy", seeds=3, evaluate_episodes=2))
    assert [report[f"final/return{name}"] for name in ("", "/seed0", "/seed1", "/seed2")] == [3.5, 2.0, None, 5.0]
    monkeypatch.setattr(
        "decouple.studies.actor_size.cell.episode_returns", lambda *_, **__: torch.tensor([math.nan, 1.0]).double()
    )
    with pytest.raises(NotFiniteError, match="toy, seed 0: the return is nan after training"):
        train_agents(cell(algorithm, tmp_path / "one", "toy"))
    assert read_result(tmp_path / "one" / "result.json")["final/return"] is None


def test_a_rollout_of_one_frame_is_refused_before_anything_is_made():
    for algorithm in ("ppo", "trpo"):
        with pytest.raises(ValueError, match=r"rollout_steps must be at least 2 with one environment: .*; got 1"):
            cell(algorithm, Path("unused"), "toy", rollout_steps=1)
        assert cell(algorithm, Path("unused"), "toy", rollout_steps=1, num_envs=2).learning.rollout_steps == 1


def test_where_all_fail_the_error_names_each(tmp_path):
    says = "seed 0: reward is nan at frame 37; Odd/Nan-reward-box-v0, seed 1: reward is nan at frame 37"
    with pytest.warns(UserWarning, match="seed 0"), pytest.raises(NotFiniteError, match=says):
        train_agents(cell("td3", tmp_path, "Odd/Nan-reward-box-v0", seeds=2))
    result = read_result(tmp_path / "result.json")
    assert [result[name] for name in ("final/return", "final/return/seed0", "final/return/seed1")] == [None] * 3


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_normalisation_keeps_what_is_not_finite_to_its_seed(tmp_path, algorithm):
    scaled = {"normalize_observation": True, "normalize_reward": True, "seeds": 3}
    with pytest.warns(UserWarning, match="seed 1: observation is nan at frame 37"):
        report = train_agents(cell(algorithm, tmp_path / "odd", "Odd/Inf-observation-box-seed1-v0", **scaled))
    plain = train_agents(cell(algorithm, tmp_path / "plain", "Odd/Plain-box-v0", **scaled))
    assert [report[f"final/return/seed{seed}"] for seed in (0, 2)] == [plain[f"final/return/seed{s}"] for s in (0, 2)]


# ------------------------------------------------------------------------------------------------------------- by hand


def test_the_first_step_and_name_are_told_and_the_rest_go_on():
    failed = FailedSeeds([4, 9], "task")
    reward, observation = torch.zeros(2, 3, 1), torch.zeros(2, 3, 5)
    reward[0, 2], observation[0, 1, 3], observation[1, 0, 0] = math.nan, -math.inf, math.inf
    with pytest.raises(NotFiniteError) as error, pytest.warns(UserWarning, match="seed 4"):
        failed.check_steps({"reward": reward, "observation": observation}, [10, 1020, 1030])
    first = "task, seed 4: observation is -inf at frame 1,020"
    assert str(error.value) == f"{first}; task, seed 9: observation is inf at frame 10"
    assert failed.reasons[4] == first


def test_networks_stacked_behind_each_other_are_told_apart():
    """Two critics of three agents, critic by critic: row 1 * 3 + 2 is of the third agent."""
    failed, weight = FailedSeeds([0, 1, 2]), torch.zeros(6, 4)
    weight[5, 1] = math.nan
    with pytest.warns(UserWarning, match="^seed 2: parameter w is nan by frame 7; it has failed and the others go on$"):
        failed.check({"parameter w": weight, "over all": torch.tensor(math.nan)}, "by frame 7")
    assert failed.kept([{"a": 1}, {"a": 2}, {"a": 3}]) == [{"a": 1}, {"a": 2}, {}]
    other = FailedSeeds([0, 1, 2])
    other.load_state_dict(failed.state_dict())
    assert other.reasons == failed.reasons


def test_large_numbers_whose_sum_overflows_are_finite():
    FailedSeeds([0]).check({"a": torch.full((2, 2), 1e308, dtype=torch.float64)}, "now")


def test_of_one_agent_without_a_seed_the_message_is_the_fact():
    with pytest.raises(NotFiniteError, match=r"^loss/critic is inf by frame 5$"):
        FailedSeeds().check({"loss/critic": torch.tensor(math.inf)}, "by frame 5")
