"""Unity builds: what is said to them and by them, by hand; then a stand-in for a build behind the real wrapper.

The second half needs mlagents-envs, which has an environment of its own (docs/unity.md); elsewhere it is skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from playing import play
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded, Categorical
from torchrl.envs.utils import check_env_specs
from unity_build import write_build

from decouple.analysis.evaluation import episode_returns
from decouple.envs.unity.build import UnityEnv, unity_env
from decouple.envs.unity.conversion import AgentActions, Turn, observation_size

HAS_MLAGENTS = importlib.util.find_spec("mlagents_envs") is not None
with_build = [
    pytest.mark.skipif(not HAS_MLAGENTS, reason="mlagents-envs has an environment of its own: docs/unity.md"),
    # mlagents-envs compares versions by distutils, and protobuf 3.20 reads time zones as they were done then.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ROOT = Path(__file__).parents[3]

# What FoodCollector's prefab makes of an agent: until the end of 2020, after it, and with the later grid sensor.
RAYS = ("RayPerceptionSensor", (49,)), ("VectorSensor_size4", (4,))
GRID = ("GridSensor", (40, 40, 6)), ("VectorSensor_size3", (3,))
DISCRETE, HYBRID = AgentActions(0, (3, 3, 3, 2)), AgentActions(3, (2,))


# ------------------------------------------------------------------------------------------------------- the conversion
def test_a_hybrid_action_is_four_floats_and_the_laser_fires_above_zero():
    spec = HYBRID.spec(torch.Size([1, 5]))
    assert isinstance(spec, Bounded) and spec.shape == (1, 5, 4) and spec.dtype == torch.float32
    assert (spec.space.low == -1).all() and (spec.space.high == 1).all()
    ours = np.array([[0.5, -1.0, 0.25, 0.1], [1.0, 0.0, -0.5, 0.0], [2.0, 0.0, 0.0, -1.0]], dtype=np.float32)
    continuous, discrete = HYBRID.to_unity(ours)
    np.testing.assert_array_equal(continuous, np.array([[0.5, -1.0, 0.25], [1.0, 0.0, -0.5], [2.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(discrete, [[1], [0], [0]])
    assert continuous.dtype == np.float32 and discrete.dtype == np.int32


def test_discrete_branches_are_one_action_whose_last_branch_changes_fastest():
    spec = DISCRETE.spec(torch.Size([1, 5]))
    assert isinstance(spec, Categorical) and spec.n == 54 and spec.shape == (1, 5)
    continuous, discrete = DISCRETE.to_unity(np.array([0, 1, 2, 6, 18, 53]))
    assert continuous.shape == (6, 0)
    by_hand = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [2, 2, 2, 1]]
    np.testing.assert_array_equal(discrete, by_hand)
    assert discrete.dtype == np.int32


def test_continuous_actions_alone_stay_as_they_are():
    continuous, discrete = AgentActions(2).to_unity(np.array([[0.5, -0.5]], dtype=np.float32))
    assert continuous.tolist() == [[0.5, -0.5]] and discrete.shape == (1, 0)
    assert AgentActions(2).from_unity(continuous, discrete).tolist() == [[0.5, -0.5]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_what_goes_to_discrete_branches_comes_back(branches: list[int], data: st.DataObject):
    form = AgentActions(0, list(branches))
    assert form == AgentActions(0, tuple(branches)) and hash(form)
    ours = np.array(data.draw(st.lists(st.integers(0, int(np.prod(branches)) - 1), min_size=1, max_size=5)))
    continuous, discrete = form.to_unity(ours)
    assert (discrete >= 0).all() and (discrete < branches).all()
    np.testing.assert_array_equal(form.from_unity(continuous, discrete), ours)


@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_what_goes_to_a_hybrid_agent_comes_back_and_means_the_same(rows: list[list[float]]):
    ours = np.array(rows, dtype=np.float32)
    sent = HYBRID.to_unity(ours)
    back = HYBRID.from_unity(*sent)
    np.testing.assert_array_equal(back[:, :3], ours[:, :3])
    np.testing.assert_array_equal(back[:, 3], np.where(ours[:, 3] > 0, 1, -1))
    np.testing.assert_array_equal(HYBRID.to_unity(back)[1], sent[1])


@pytest.mark.parametrize(
    ("continuous", "branches", "message"),
    [
        (0, (), "must have actions"),
        (3, (2, 3), r"2 choices each; got branches of \[2, 3\] beside 3"),
        (0, (17, 17, 17), r"at most 4096 actions; got \[17, 17, 17\]"),
    ],
)
def test_actions_without_a_form_of_ours_are_refused(continuous: int, branches: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        AgentActions(continuous, branches)


def test_an_agent_sees_its_rays_and_its_vector():
    assert observation_size(RAYS) == 53
    with pytest.raises(ValueError, match=r"one axis; got GridSensor of \(40, 40, 6\)"):
        observation_size(GRID)
    with pytest.raises(ValueError, match=r"one axis; got without a name of \(84, 84, 3\)"):
        observation_size([("", (84, 84, 3))])
    with pytest.raises(ValueError, match="got none"):
        observation_size([])


# ------------------------------------------------------------------------------------------------------------- one turn
def steps(*agents: tuple[int, float], mask: bool = False, interrupted: bool = True, group: float = 0.0) -> Any:
    """Decision or terminal steps as mlagents_envs has them, of agents (id, reward) that see [id, reward] and [id]."""
    ids, rewards = np.array([each[0] for each in agents], dtype=np.int32), np.array([each[1] for each in agents])
    number = len(agents)
    return SimpleNamespace(
        agent_id=ids,
        obs=[np.stack([ids, rewards], -1).astype(np.float32).reshape(number, 2), ids[:, None].astype(np.float32)],
        reward=rewards.astype(np.float32),
        group_reward=np.full(number, group, dtype=np.float32),
        interrupted=np.full(number, interrupted),
        action_mask=[np.zeros((number, 3), dtype=np.bool_), np.full((number, 2), mask)],
    )


def test_a_turn_puts_agents_in_the_order_of_their_ids_and_arrays_in_unitys():
    turn = Turn([2, 7], 3)
    assert turn.add(steps((7, 0.5), (2, 0.25), group=1.0), steps())
    np.testing.assert_array_equal(turn.observation, [[2, 0.25, 2], [7, 0.5, 7]])
    np.testing.assert_array_equal(turn.first, turn.observation)
    np.testing.assert_array_equal(turn.reward, [1.25, 1.5])
    assert not turn.terminated.any() and not turn.truncated.any()


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_end_beside_a_beginning_keeps_both_observations(interrupted: bool):
    turn = Turn([2, 7], 3)
    assert turn.add(steps((2, 0.25), (7, 0.5)), steps((7, 3.0), interrupted=interrupted, group=0.5))
    np.testing.assert_array_equal(turn.observation, [[2, 0.25, 2], [7, 3, 7]])
    np.testing.assert_array_equal(turn.first, [[2, 0.25, 2], [7, 0.5, 7]])
    np.testing.assert_array_equal(turn.reward, [0.25, 3.5])  # the 0.5 was earned between the episodes
    np.testing.assert_array_equal(turn.truncated, [False, interrupted])
    np.testing.assert_array_equal(turn.terminated, [False, not interrupted])


def test_ends_may_come_before_the_next_decisions():
    turn = Turn([2, 7], 3)
    assert not turn.add(steps(), steps((2, 1.0)))
    assert not turn.add(steps(), steps((7, 2.0), interrupted=False))
    assert turn.add(steps((2, 0.0), (7, 0.0)), steps())
    np.testing.assert_array_equal(turn.reward, [1, 2])
    np.testing.assert_array_equal(turn.observation, [[2, 1, 2], [7, 2, 7]])
    np.testing.assert_array_equal(turn.first, [[2, 0, 2], [7, 0, 7]])
    np.testing.assert_array_equal(turn.truncated, [True, False])


def test_what_lockstep_has_no_place_for_is_refused():
    with pytest.raises(RuntimeError, match=r"all 2 agents must ask .* 1 did, and not those with the ids \[2\]"):
        Turn([2, 7], 3).add(steps((7, 0.0)), steps())
    with pytest.raises(RuntimeError, match=r"actions must all be allowed"):
        Turn([2, 7], 3).add(steps((2, 0.0), (7, 0.0), mask=True), steps())
    turn = Turn([2, 7], 3)
    turn.add(steps(), steps((2, 0.0)))
    with pytest.raises(RuntimeError, match=r"must not end twice"):
        turn.add(steps(), steps((2, 0.0)))


# ------------------------------------------------------------------------------------------------------------ arguments
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": [0, 1]}, r"seeds must be a single one.*got \[0, 1\]"),
        ({"seeds": []}, "seeds must be a non-empty sequence"),
        ({"time_scale": 0}, r"time_scale must be .*; got 0"),
        ({"time_scale": float("nan")}, "time_scale must be"),
        ({"base_port": 80}, r"base_port must be an integer in \[1024, 65535\]"),
        ({"worker_id": 65_000}, r"worker_id must be an integer in \[0, 60530\]"),
        ({"num_areas": 0}, "num_areas must be"),
        ({"timeout_wait": 1}, "timeout_wait must be"),
        ({"num_envs": 0}, "num_envs must be"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_starts(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        unity_env("nothing.x86_64", **({"seeds": [0]} | arguments))


@pytest.mark.skipif(HAS_MLAGENTS, reason="mlagents-envs is installed")
def test_without_mlagents_the_error_says_what_to_do():
    with pytest.raises(
        ImportError, match=r"environment of its own \(docs/unity.md\): pip install 'torchrl-decouple\[unity\]'"
    ):
        unity_env("nothing.x86_64", seeds=[0])


def test_a_protobuf_that_is_too_new_is_named(monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str) -> None:
        raise TypeError("Descriptors cannot be created directly.")  # protobuf's own words

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ImportError, match=r"needs protobuf < 3.21"):
        unity_env("nothing.x86_64", seeds=[0])


def test_a_numpy_without_bool_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    monkeypatch.setattr(np, "__version__", "1.26.4")
    with pytest.raises(ImportError, match=r"needs NumPy >= 2 beside decouple; got 1\.26\.4"):
        unity_env("nothing.x86_64", seeds=[0])


# -------------------------------------------------------------------------------------- a build behind the real wrapper
Start = Callable[..., UnityEnv]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that writes a stand-in, with rules changed as asked for, and starts it; all end with the test."""
    with contextlib.ExitStack() as started:

        def begin(name: str = "FoodCollector", *, options: dict[str, Any] | None = None, **game: Any) -> UnityEnv:
            settings: dict[str, Any] = {"seeds": [0], "timeout_wait": 20} | (options or {})
            env = unity_env(write_build(tmp_path, name, **game), **settings)
            started.callback(lambda: env.is_closed or env.close())
            return env

        yield begin


def log(folder: Path, name: str = "FoodCollector") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines()]


def numbered(env: UnityEnv, number: int, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [env.action_spec.rand() for _ in range(number)]


def running(folder: Path, name: str = "FoodCollector") -> bool:
    """Whether the last process that the build was started as is still there."""
    (*_, process) = [line["process"] for line in log(folder, name) if "process" in line]
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class TestBuild:
    pytestmark = with_build

    @pytest.mark.parametrize("form", [{}, {"continuous": 0, "branches": [3, 3, 3, 2]}, {"branches": []}])
    def test_its_specs_hold(self, start: Start, form: dict[str, Any]):
        observations = [["RayPerceptionSensor", [49]], ["VectorSensor_size4", [4]]]
        env = start(observations=observations, **form)
        assert env.batch_size == (1, 5) and env.agents == [0, 1, 2, 3, 4]
        assert env.observation_spec["observation"].shape == (1, 5, 53)
        check_env_specs(env)

    def test_a_trajectory_by_hand(self, start: Start):
        """Agents 1 and 3, in this order; 3 was named first and has episodes of two steps, 1 of three."""
        env = start(agents=[3, 1], episode_steps=[2, 3], group_reward=0.5)
        begin = env.reset()
        scene = int(begin["observation"][0, 0, 1])  # full resets so far
        assert begin["observation"][0, :, :4].tolist() == [[1, scene, 0, 0], [3, scene, 0, 0]]
        actions = numbered(env, 4)
        steps, state = play(env, actions, begin)
        episode, decision = [[0, 0], [0, 0], [0, 1], [1, 1]], [[1, 1], [2, 2], [3, 1], [1, 2]]
        done = [[0, 0], [0, 1], [1, 0], [0, 1]]
        seen = steps["observation"][:, 0]  # (T, N, O)
        assert seen[..., 0].tolist() == [[1, 3]] * 4 and (seen[..., 1] == scene).all()
        assert seen[..., 2].tolist() == episode and seen[..., 3].tolist() == decision
        assert (seen[..., 4:49] == 0).all()
        sent = torch.stack(actions)[:, 0]  # (T, N, A)
        torch.testing.assert_close(seen[..., 49:52], sent[..., :3], rtol=0, atol=0)
        assert torch.equal(seen[..., 52], (sent[..., 3] > 0).float())
        assert steps["done"][:, 0, :, 0].int().tolist() == done
        assert torch.equal(steps["truncated"], steps["done"]) and not steps["terminated"].any()
        reward = sent[..., 0] + 0.5
        torch.testing.assert_close(steps["reward"][:, 0, :, 0], reward)
        returns = torch.stack([reward[0], reward[:2].sum(0), torch.stack([reward[:3, 0].sum(), reward[2, 1]])])
        torch.testing.assert_close(steps["episode_reward"][:3, 0, :, 0], returns)
        assert steps["step_count"][:, 0, :, 0].tolist() == decision
        # Agent 1 goes on, agent 3 stands at its next first observation, and the scene was not reset.
        assert state["observation"][0, :, :4].tolist() == [[1, scene, 1, 1], [3, scene, 2, 0]]
        assert state["step_count"][0, :, 0].tolist() == [1, 0] and not state["done"].any()

    @pytest.mark.parametrize("older", [False, True])
    def test_ends_in_a_message_of_their_own_change_nothing(self, start: Start, older: bool):
        """With agents that a message leaves out; also where observations have no names, as before protocol 1.5."""
        named = {} if not older else {"observations": [["", [49]], ["", [4]]], "communication_version": "1.3.0"}
        rules = {"episode_steps": [1, 2, 3, 4, 5], "interrupted": False, **named}
        beside = start("beside", **rules)
        apart = start("apart", ends_first=True, **rules)
        actions = numbered(beside, 12)
        one, two = (play(env, actions) for env in (beside, apart))
        for key in one[0].keys():
            assert torch.equal(one[0][key], two[0][key]), key
        assert torch.equal(one[1]["observation"], two[1]["observation"])
        assert one[0]["terminated"].sum() == 12 + 6 + 4 + 3 + 2 and not one[0]["truncated"].any()

    def test_discrete_branches_arrive_one_by_one(self, start: Start):
        env = start(continuous=0, branches=[3, 3, 3, 2], episode_steps=[100])
        env.reset()
        (step, _) = play(env, [torch.tensor([[0, 1, 2, 6, 53]])])
        by_hand = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [2, 2, 2, 1]]
        assert step["observation"][0, 0, :, 49:].tolist() == by_hand

    def test_a_full_reset_resets_the_scene_and_a_part_of_it_does_not(self, start: Start):
        env = start(episode_steps=[2, 5, 5, 5, 5])
        first = int(env.reset()["observation"][0, 0, 1])
        _, state = play(env, numbered(env, 3))
        assert (state["observation"][0, :, 1] == first + 1).all()  # play resets once
        again = env.reset()
        assert (again["observation"][0, :, 1] == first + 2).all() and (again["step_count"] == 0).all()
        some = TensorDict({"_reset": torch.tensor([True, False, False, False, False])[None, :, None]}, [1, 5])
        with pytest.raises(ValueError, match=r"only agents that have ended can be reset, or all; got \[True, False"):
            env.reset(some)

    def test_whole_episodes_are_evaluated(self, start: Start):
        env = start(episode_steps=[4])
        forward = TensorDictModule(lambda o: torch.full((*o.shape[:-1], 4), 0.5), ["observation"], ["action"])
        assert episode_returns(env, forward).tolist() == [2.0] * 5
        assert episode_returns(env, forward).tolist() == [2.0] * 5

    def test_how_it_is_started(self, start: Start, tmp_path: Path):
        options = {
            "seeds": [7],
            "time_scale": 3.0,
            "num_areas": 2,
            "worker_id": 31,
            "additional_args": ["-logFile", "x"],
        }
        start(options=options)
        begun, reset, *_ = log(tmp_path)
        assert begun["seed"] == 7 and begun["areas"] == 2
        assert begun["arguments"] == ["-nographics", "-batchmode", "--mlagents-port", "5036", "-logFile", "x"]
        # The engine's channel, as the C# side reads it: its id, the length, TIME_SCALE = 2, the value.
        message = bytes.fromhex(reset["reset"])
        assert message[16:28] == struct.pack("<iif", 8, 2, 3.0)

    def test_two_take_two_ports_and_close_ends_them(self, start: Start, tmp_path: Path):
        one, two = start("one"), start("two", options={"no_graphics": False})
        ports = [int(log(tmp_path, name)[0]["arguments"][-1]) for name in ("one", "two")]
        assert ports[0] != ports[1] and "-nographics" not in log(tmp_path, "two")[0]["arguments"]
        torch.testing.assert_close(*(play(env, numbered(one, 3))[0]["observation"] for env in (one, two)))
        assert running(tmp_path, "two")
        for env in (one, two):
            env.close()
            assert env.is_closed
        assert not running(tmp_path, "one") and not running(tmp_path, "two")

    def test_what_our_agents_cannot_act_in_is_refused_and_ended(self, start: Start, tmp_path: Path):
        for name, refused, message in (
            ("grid", {"observations": [["GridSensor", [4, 4, 1]]]}, r"one axis; got GridSensor of \(4, 4, 1\)"),
            ("teams", {"behaviors": ["Soccer?team=0", "Soccer?team=1"]}, r"one behavior, .*got Soccer\?team=0, Soccer"),
            ("branches", {"branches": [3]}, "2 choices each"),
            ("nobody", {"agents": []}, "agents must ask for actions at its start; TorchRL: No agents passed"),
            ("number", {"options": {"num_envs": 4}}, "num_envs must be the number of agents of the build, 5; got 4"),
        ):
            with pytest.raises(ValueError, match=message):
                start(name, **refused)
            assert not running(tmp_path, name)

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("absent_from", r"all 5 agents must ask .* not those with the ids \[4\]"),
            ("masked_from", "actions must all be allowed"),
            ("newcomer_from", "added a new agent"),
        ],
    )
    def test_a_build_that_leaves_lockstep_is_refused(self, start: Start, fault: str, message: str):
        env = start(**{fault: 4})
        actions = numbered(env, 4)
        _, state = play(env, actions[:3])
        with pytest.raises(RuntimeError, match=message):
            play(env, actions[3:], state)

    def test_a_build_that_dies_is_an_error(self, start: Start):
        env = start(crash_from=2, options={"timeout_wait": 10})
        with pytest.raises(Exception, match=r"exited|shut down|return code"):
            play(env, numbered(env, 2))

    @pytest.mark.parametrize("crash_from", [None, 0, 1])
    def test_a_program_that_closes_nothing_ends_all_the_same(self, tmp_path: Path, crash_from: int | None):
        """Also after a build that dies: ML-Agents' own threads would wait for it for ever."""
        build = write_build(tmp_path, crash_from=crash_from)
        program = (
            f"from decouple.envs.unity.build import unity_env; unity_env({build!r}, [0], timeout_wait=10).rollout(2)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == (crash_from is not None), done.stderr[-2000:]
        assert not running(tmp_path)

    def test_steps_and_actions_out_of_turn_are_refused(self, start: Start):
        env = start(episode_steps=[1])
        begin = env.reset()
        good = env.action_spec.zero()
        with pytest.raises(ValueError, match="action must be finite"):
            env.step(begin.clone().set("action", good * torch.nan))
        with pytest.raises(ValueError, match=r"shape \(1, 5, 4\); got \(1, 5, 3\)"):
            env.step(begin.clone().set("action", good[..., :3]))
        ended = env.step(begin.clone().set("action", good))["next"]
        with pytest.raises(RuntimeError, match="must be reset before the next step"):
            env.step(ended.set("action", good))
        with pytest.raises(NotImplementedError, match=r"takes its seed when it starts: .*seeds=\[3\]"):
            env.set_seed(3)

    def test_discrete_actions_out_of_range_are_refused(self, start: Start):
        env = start(continuous=0, branches=[3, 3, 3, 2])
        begin = env.reset()
        with pytest.raises(ValueError, match=r"integers in \[0, 54\)"):
            env.step(begin.set("action", torch.full((1, 5), 54)))

    def test_a_state_holds_the_settings_and_episodes_begin_anew(self, start: Start):
        env, other = start("one", episode_steps=[9]), start("other", agents=[0, 1])
        _, state = play(env, numbered(env, 2))
        saved = env.state_dict()
        with pytest.raises(ValueError, match=r"agents 5 there, 2 here"):
            other.load_state_dict(saved)
        env.load_state_dict(saved)
        with pytest.raises(RuntimeError, match="must be reset"):
            env.step(state.set("action", env.action_spec.zero()))
        assert (env.reset()["step_count"] == 0).all()

    def test_a_missing_build_is_named(self):
        with pytest.raises(FileNotFoundError, match="file_name must be the executable of a Unity build; got 'nothing'"):
            unity_env("nothing", [0])

    def test_the_documented_command_trains(self, tmp_path: Path):
        """Three decisions an episode, each rewarded with the first of the action's numbers: 0 untrained, 3 at best."""
        build = write_build(tmp_path)
        words = ["algorithm=ppo", "env=unity", f"file_name={build}", f"run_dir={tmp_path / 'run'}", "total_frames=3200"]
        words += ["rollout_steps=64", "epochs=4", "minibatches=4", "learning_rate=0.01", "final_episodes=7"]
        script = [sys.executable, str(ROOT / "experiments" / "control.py"), *words]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, env=alone)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads((tmp_path / "run" / "result.json").read_text())["final/return"] > 1.0
        assert not running(tmp_path)
