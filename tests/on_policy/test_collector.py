"""RolloutCollector: what it collects equals what TorchRL's Collector does, in less memory, and half by half."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from marks import needs_games
from tensordict import TensorDictBase
from test_on_policy_training import Corridor, corridor, make_model
from test_recurrent_training import make_model as recurrent_model
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, ExplorationType

from decouple.envs.procgen.games import procgen_env
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks
from decouple.networks.recurrence import with_memory
from decouple.networks.separation import separate
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.rollouts import add_next_values

T = 8
needs_procgen = pytest.mark.skipif(not importlib.util.find_spec("procgen"), reason="envpool orders bytes otherwise")


def from_torchrl(env: EnvBase, model: ActorValue, rollouts: int) -> list[TensorDictBase]:
    """Rollouts of TorchRL's collector, with the values of next frames."""
    collector = Collector(
        env,
        model,
        frames_per_batch=env.batch_size.numel() * T,
        total_frames=-1,
        exploration_type=ExplorationType.RANDOM,
        use_buffers=False,
        track_traj_ids=False,
        auto_register_policy_transforms=False,
    )
    found = []
    for rollout in collector:
        with torch.no_grad():
            add_next_values(rollout, model.get_value_operator())
        found.append(rollout.clone())
        if len(found) == rollouts:
            break
    collector.shutdown(close_env=False)
    return found


def collected(env: EnvBase, model: ActorValue, rollouts: int, **options: Any) -> list[TensorDictBase]:
    collector = RolloutCollector(env, model, T, **options)
    return [next(collector).clone() for _ in range(rollouts)]


def assert_equal(ours: list[TensorDictBase], theirs: list[TensorDictBase]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        keys = set(other.keys(True, True)) - {("next", "observation")}
        assert set(own.keys(True, True)) == keys
        for key in keys:
            assert own[key].dtype == other[key].dtype
            assert torch.equal(own[key], other[key]), key


def impala(env: EnvBase) -> ActorValue:
    torch.manual_seed(0)
    small = {"channels": (4, 4, 4), "hidden_size": 16}
    return actor_value(separate(impala_blocks(**small), impala_blocks(**small), at=2), env.action_spec, policy_gain=1.0)


@needs_games
def test_in_bf16_each_action_is_drawn_with_the_weights_as_they_are():
    """A CUDA graph of acting must not read copies of weights that autocast has cast for something around it."""
    env = procgen_env("starpilot", 2, num_levels=3)
    model = impala(env)
    collector = RolloutCollector(env, model, T, precision="bf16")
    act, values = collector._forward, []

    def act_and_change(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = [act(*inputs)]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        made.append(act(*inputs))
        values.append([found[2] for found in made])
        return made[0]

    collector.act = act_and_change
    next(collector)
    env.close()
    assert len(values) == T and not any(torch.equal(before, after) for before, after in values)
    assert all(before.dtype == torch.float32 for before, _ in values)


@pytest.mark.parametrize("hides_last_frame", [False, True])
def test_rollouts_equal_torchrls_over_terminations_time_outs_and_resets(hides_last_frame: bool):
    model = make_model()
    found = []
    for collect in (collected, from_torchrl):
        torch.manual_seed(3)
        found.append(collect(corridor(hides_last_frame=hides_last_frame), model, 3))
    assert_equal(*found)
    cut_off = found[0][0]["next", "done"] & ~found[0][0]["next", "terminated"]
    assert cut_off[:, :-1].any() == (not hides_last_frame)


@pytest.mark.parametrize(("policy", "value", "k"), [("gru", "gru", 2), ("lstm", None, 0), (None, "gru", 0)])
def test_a_recurrent_models_rollouts_equal_torchrls_states_included(policy, value, k):
    model = recurrent_model(policy, value, k)
    found = []
    for collect in (collected, from_torchrl):
        torch.manual_seed(3)
        found.append(collect(with_memory(corridor(), model), model, 3))
    states = [key for key in model.out_keys if key[0] == "next"]
    own, theirs = ([rollout.exclude(("next", "is_init")) for rollout in rollouts] for rollouts in found)
    assert_equal(own, theirs)
    for rollout in own:
        assert all(rollout[key].flatten(2).any(-1).all() for key in states)  # a state of each step
        begins = rollout["is_init"]
        assert begins.any() and not begins.all()


@needs_games
def test_procgens_rollouts_equal_torchrls():
    found = []
    for collect in (collected, from_torchrl):
        env = procgen_env("starpilot", 4, num_levels=3, num_threads=1)
        model = impala(env)
        torch.manual_seed(3)
        found.append(collect(env, model, 12))
    assert_equal(*found)
    assert any(rollout["next", "done"].any() for rollout in found[0])


@needs_procgen
def test_frames_are_held_once_in_the_convolutions_layout_and_flattened_without_a_copy():
    env = procgen_env("starpilot", 4, num_threads=1)
    collector = RolloutCollector(env, impala(env), T)
    rollout = next(collector)
    frames = rollout["observation"]  # (N, T, 3, 64, 64)
    assert frames.shape == (4, T, 3, 64, 64) and frames.dtype == torch.uint8
    flat = rollout.reshape(-1)["observation"]
    assert flat.data_ptr() == frames.data_ptr()
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert frames.untyped_storage().nbytes() == frames.numel()
    kept = frames.clone()
    again = next(collector)["observation"]
    assert again.data_ptr() == frames.data_ptr() and not torch.equal(again, kept)  # written anew
    collector.shutdown(close_env=False)
    assert not collector.memory.keys() and not env.is_closed


@needs_games
def test_half_by_half_the_games_get_the_actions_that_are_written_and_the_policy_saw_the_frames_that_are_written():
    env = procgen_env("starpilot", 4, num_levels=3, num_threads=1, groups=2)
    model = impala(env)
    rollouts = collected(env, model, 12, overlap=True)
    plain = procgen_env("starpilot", 4, num_levels=3, num_threads=1)
    state = plain.reset()
    for rollout in rollouts:
        with torch.no_grad():
            values = model.get_value_operator()(rollout.select("observation"))["state_value"]
        torch.testing.assert_close(rollout["state_value"], values)
        torch.testing.assert_close(rollout["next", "state_value"][:, :-1], values[:, 1:])
        for t in range(T):
            for key in ("observation", "step_count", "level_seed"):
                assert torch.equal(rollout[:, t][key], state[key])
            step, state = plain.step_and_maybe_reset(state.set("action", rollout["action"][:, t]))
            for key in ("reward", "done", "terminated", "episode_reward", "step_count"):
                assert torch.equal(rollout["next"][:, t][key], step["next", key]), (t, key)
        with torch.no_grad():
            last = model.get_value_operator()(step["next"].select("observation"))["state_value"]
        torch.testing.assert_close(rollout["next", "state_value"][:, -1], last)
    assert any(rollout["next", "done"].any() for rollout in rollouts)


def test_overlap_without_two_groups_is_refused():
    with pytest.raises(ValueError, match="overlap must be False without an env of two groups; got Corridor"):
        RolloutCollector(corridor(), make_model(), T, overlap=True)
    with pytest.raises(ValueError, match="got Corridor"):
        RolloutCollector(Corridor(), make_model(), T, overlap=True)
    with pytest.raises(ValueError, match="overlap must be False for a recurrent model"):
        RolloutCollector(corridor(), recurrent_model(), T, overlap=True)
