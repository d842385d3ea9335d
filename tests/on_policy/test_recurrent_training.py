"""Training with recurrent blocks: PPO against plain torch with truncated back-propagation; memory through a run."""

from __future__ import annotations

import copy
import gc
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow_but
from pairwise import each
from tensordict import TensorDict, TensorDictBase
from test_on_policy_seeds import SEEDS, SIZE, SPECS, Drift
from test_on_policy_seeds import assert_close as assert_models_close
from test_on_policy_seeds import make_settings as seeds_settings
from test_on_policy_seeds import train as train_seeds
from test_on_policy_training import (
    ACTIONS,
    DEPTH,
    LENGTHS,
    OBSERVED,
    Corridor,
    N,
    T,
    corridor,
    keep_rollouts,
    make_settings,
    parameters_of,
    policy_part,
    train,
    value_part,
)
from torch import Tensor, nn
from torchrl.data import Categorical
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from decouple.analysis.evaluation import episode_returns
from decouple.analysis.recording import record_episodes
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.recurrence import gru_block, lstm_block, with_memory
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.algorithms.trpo import TRPOSettings, trpo_phases
from decouple.on_policy.compiled_agents import not_known
from decouple.on_policy.phases import run_phase
from decouple.on_policy.rollouts import ModePolicy
from decouple.runs.performance import Performance

pytestmark = pytest.mark.filterwarnings("ignore:clip_value clips most of a rollout's values")

L = 4  # steps of a sequence: half a rollout
MAKE = {"gru": gru_block, "lstm": lstm_block}


def blocks(kind: str | None, inputs: int = OBSERVED) -> list[nn.Module]:
    """A dense block, a recurrent one (dense where `kind` is None), and a dense one."""
    middle = mlp_blocks(8, [6]) if kind is None else [MAKE[kind](8, 6)]
    return [*mlp_blocks(inputs, [8]), *middle, *mlp_blocks(6, [5])]


def make_model(policy: str | None = "gru", value: str | None = "gru", k: int = 0) -> ActorValue:
    network = separate(blocks(policy), blocks(value), at=k)
    return actor_value(network, Categorical(ACTIONS), policy_gain=1.0).double()


# ------------------------------------------------------------------------------------------------- against plain torch


class Plain:
    """A copy of a model in plain torch: linear layers with tanh and PyTorch's cells, one step at a time."""

    def __init__(self, model: ActorValue):
        parts = copy.deepcopy(dict(model.module.items()))
        self.parts = {
            name: [self.layer(block) for block in parts[name].module] for name in ("trunk", "policy", "value")
        }
        self.policy_head, self.value_head = parts["policy_head"][0].module, parts["value_head"].module

    @staticmethod
    def layer(block: nn.Module) -> nn.Module:
        if not hasattr(block, "kind"):
            return nn.Sequential(block.linear, nn.Tanh())
        cell = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[block.kind](*block.in_shape, block.hidden_size).double()
        with torch.no_grad():
            for to, of in (("ih", block.inputs), ("hh", block.memory)):
                getattr(cell, f"weight_{to}").copy_(of.weight)
                getattr(cell, f"bias_{to}").copy_(of.bias)
        return cell

    def step(self, x: Tensor, states: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Logits, value (B,) and new states, of observations (B, O); a missing state is zero."""
        after: dict[str, Any] = {}

        def run(name: str, x: Tensor) -> Tensor:
            for index, layer in enumerate(self.parts[name]):
                if isinstance(layer, nn.Sequential):
                    x = layer(x)
                else:
                    after[f"{name}{index}"] = new = layer(x, states.get(f"{name}{index}"))
                    x = new[0] if isinstance(new, tuple) else new
            return x

        hidden = run("trunk", x)
        logits, value = self.policy_head(run("policy", hidden)), self.value_head(run("value", hidden))
        return logits, value.squeeze(-1), after

    def parameters(self) -> list[nn.Parameter]:
        """In the order of the model's parameters by part, each cell's as `inputs` and `memory` have them."""
        found: list[nn.Parameter] = []
        for layers in self.parts.values():
            for layer in layers:
                own = dict(layer.named_parameters())
                order = ("weight_ih", "bias_ih", "weight_hh", "bias_hh") if "weight_ih" in own else own
                found += [own[name] for name in order]
        return [*found, *self.policy_head.parameters(), *self.value_head.parameters()]


@torch.no_grad()
def replayed(plain: Plain, game: int, at: tuple[int, int], states: dict[str, Any], actions: Tensor) -> dict[str, Any]:
    """The T steps of one game by hand, from a step and an episode: targets by GAE (gamma 0.9, lambda 0.8), and each
    step's states before it."""
    env, (step, episode) = Corridor(), at
    values, rewards, ends, following, before, log_probs = [], [], [], [], [], []

    def frame() -> Tensor:
        numbers = torch.zeros(N, 1)
        return env.frame(numbers + step, numbers + episode)["observation"][game : game + 1]

    for action in actions:
        before.append(states)
        logits, value, states = plain.step(frame(), states)
        log_probs.append(logits.log_softmax(-1)[0, action])
        numbers = torch.zeros(N, 1)
        rewards.append(env.reward(numbers + step, numbers + episode, action)[game].item())
        values.append(value.item())
        step += 1
        following.append(plain.step(frame(), states)[1].item())
        ends.append(step >= LENGTHS[game])
        if ends[-1]:
            step, episode, states = 0, episode + 1, {}
    advantages, last = [0.0] * T, 0.0
    for t in reversed(range(T)):
        bootstrap = 0.0 if ends[t] and game % 2 == 0 else following[t]  # odd games run out of time
        delta = rewards[t] + 0.9 * bootstrap - values[t]
        last = delta + 0.9 * 0.8 * last * (not ends[t])
        advantages[t] = last
    new = [(t == 0 and at[0] == 0) or (t > 0 and ends[t - 1]) for t in range(T)]
    return {
        "advantage": torch.tensor(advantages, dtype=torch.float64),
        "value": torch.tensor(values, dtype=torch.float64),
        "log_prob": torch.stack(log_probs),
        "before": before,
        "new": new,
        "at": (step, episode),
        "states": states,
    }


ASYMMETRIC = [("gru", None, 0), (None, "lstm", 0), ("lstm", "gru", 1)]
NETWORKS = [*((kind, kind, k) for kind in MAKE for k in range(DEPTH + 1)), *ASYMMETRIC]  # policy, value, k
# A micro-batch takes parts of a layer's states: of two tensors, and of a branch that has none.
IN_PARTS = [(("lstm", "lstm", 1), 7), *((network, 7) for network in ASYMMETRIC)]


@pytest.mark.parametrize(
    ("network", "micro_batch"),
    slow_but([*((network, 1000) for network in NETWORKS), *IN_PARTS], itertools.product(NETWORKS, (1000, 7))),
)
def test_two_ppo_updates_equal_plain_torch_with_truncated_back_propagation(network, micro_batch):
    policy, value, k = network
    torch.manual_seed(1)
    model = make_model(policy, value, k)
    plain = Plain(model)
    discounts = {"gamma": 0.9, "gae_lambda": 0.8, "learning_rate": 0.02}
    settings = make_settings(sequence_length=L, total_frames=2 * N * T, micro_batch=micro_batch, **discounts)
    phases = ppo_phases(model, settings)
    kept = keep_rollouts(phases[0])
    torch.manual_seed(2)
    train(model, phases, settings)

    parameters, shuffle = plain.parameters(), torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(parameters, lr=0.02, eps=1e-5)
    games: list[dict[str, Any]] = [{"at": (0, 0), "states": {}} for _ in range(N)]
    inside = 0
    for rollout in kept:
        assert rollout.shape == (N * T // L, L)
        actions = rollout["action"].reshape(N, T)
        games = [replayed(plain, n, game["at"], game["states"], actions[n]) for n, game in enumerate(games)]
        advantage, values, log_probs = (
            torch.stack([g[key] for g in games]) for key in ("advantage", "value", "log_prob")
        )
        precision = {"rtol": 1e-5, "atol": 1e-6}  # gamma is float32 in TorchRL's GAE
        torch.testing.assert_close(rollout["state_value"].reshape(N, T), values)
        torch.testing.assert_close(rollout["action_log_prob"].reshape(N, T), log_probs)
        torch.testing.assert_close(rollout["value_target"].reshape(N, T), advantage + values, **precision)
        normalised = (advantage - advantage.mean()) / advantage.std()
        torch.testing.assert_close(rollout["advantage"].reshape(N, T), normalised, **precision)
        starts = [[g["before"][begin] for begin in range(0, T, L)] for g in games]
        new = torch.tensor([g["new"] for g in games])  # (N, T)
        inside += int(new.view(-1, L)[:, 1:].sum())
        assert torch.equal(rollout["is_init"].reshape(N, T), new)
        for _ in range(2):
            order = torch.randperm(N * T // L, generator=shuffle)
            for chosen in order.tensor_split(2):
                logits, found = [], []
                for row in chosen.tolist():
                    game, begin = row // (T // L), row % (T // L) * L
                    states = starts[game][begin // L]
                    for t in range(L):
                        states = {} if new[game, begin + t] else states
                        logit, one, states = plain.step(rollout["observation"][row, t][None], states)
                        logits.append(logit)
                        found.append(one)
                frames = rollout[chosen].reshape(-1)
                loss = policy_part(torch.cat(logits), frames) + value_part(torch.stack(found), frames)
                gradients = torch.autograd.grad(loss, parameters)
                norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient * min(1.0, 0.5 / (norm + 1e-6))
                optimizer.step()
    assert inside == 7  # episodes end inside of sequences
    ours = [model.trunk, model.policy, model.value]
    heads = [model.module["policy_head"][0].module, model.module["value_head"].module]
    for own, expected in zip(parameters_of(*ours, *heads), parameters, strict=True):
        torch.testing.assert_close(own, expected.detach(), rtol=1e-7, atol=1e-9)


# ---------------------------------------------------------------------------------------------- a run from its start


@pytest.mark.parametrize(("policy", "value", "k"), [("gru", "gru", 2), ("lstm", None, 0)])
def test_an_interrupted_run_goes_on_with_its_memory_to_the_same_bits(tmp_path: Path, policy, value, k):
    torch.manual_seed(0)
    models = [seeds_model(seed, "continuous", policy, value, k) for seed in SEEDS]
    settings = seeds_settings(sequence_length=2)
    options: dict[str, Any] = {"checkpoint": tmp_path / "checkpoint.pt"}
    expected, _ = train_seeds(models, SEEDS, settings)
    train_seeds(models, SEEDS, seeds_settings(sequence_length=2, total_frames=settings.total_frames // 3), **options)
    found, _ = train_seeds(models, SEEDS, settings, **options)
    for own, model in zip(found, expected, strict=True):
        assert all(map(torch.equal, own.parameters(), model.parameters()))


@pytest.mark.parametrize("collector", ["torchrl", "preallocated"])
def test_one_agent_goes_on_with_its_memory(tmp_path: Path, collector: str):
    how = Performance(collector=collector)

    class Saved(Corridor):
        """A corridor whose state is in its `state_dict`, so that a reset after loading goes on."""

        restored = False

        def state_dict(self, **_: Any) -> dict[str, Any]:
            return {"step": self.step_.clone(), "episode": self.episode.clone()}

        def load_state_dict(self, state_dict: Any, **_: Any) -> None:
            self.step_, self.episode, self.restored = state_dict["step"], state_dict["episode"], True

        def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
            if self.restored:
                self.restored = False
                return TensorDict(self.frame(self.step_, self.episode), self.batch_size)
            return super()._reset(tensordict)

    def trained(iterations: list[int], **options: Any) -> ActorValue:
        torch.manual_seed(3)
        model = make_model("gru", "gru", 2)
        for count in iterations:
            settings = make_settings(sequence_length=L, total_frames=count * N * T)
            torch.manual_seed(5)
            train(model, ppo_phases(model, settings), settings, Saved(), performance=how, **options)
        return model

    unbroken, broken = trained([3]), trained([2, 3], checkpoint=tmp_path / "checkpoint.pt")
    assert all(map(torch.equal, unbroken.parameters(), broken.parameters()))


def seeds_model(seed: int, kind: str, policy: str | None = "gru", value: str | None = "gru", k: int = 0) -> ActorValue:
    torch.manual_seed(seed)
    network = separate(blocks(policy, SIZE + 1), blocks(value, SIZE + 1), at=k)
    return actor_value(network, SPECS[kind], policy_gain=1.0).double()


@each(network=[("gru", "gru", 2), ("lstm", "lstm", 0), (None, "gru", 1)], kind=["continuous", "discrete"])
def test_agents_trained_together_are_those_trained_alone(network, kind):
    policy, value, k = network
    models = [seeds_model(seed, kind, policy, value, k) for seed in SEEDS]
    settings = seeds_settings(sequence_length=2)
    together, rows = train_seeds(models, SEEDS, settings, kind)
    for index, seed in enumerate(SEEDS):
        (alone,), own = train_seeds([models[index]], [seed], settings, kind)
        assert_models_close(together[index], alone)
        assert own[-1]["loss/critic"] == pytest.approx(rows[-1][f"loss/critic/seed{seed}"])


def test_daac_and_trpo_train_every_recurrent_parameter_and_idaac_is_refused():
    model = make_model("gru", "lstm", 0)
    for algorithm in ("daac", "trpo"):
        trained = copy.deepcopy(model)
        if algorithm == "trpo":
            settings = TRPOSettings(total_frames=N * T, rollout_steps=T, sequence_length=L, value_epochs=2)
            phases: Any = trpo_phases(trained, settings)
        else:
            settings = make_settings(algorithm="daac", sequence_length=L)
            phases = daac_phases(trained, settings)
        (row,) = train(trained, phases, settings)
        moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True)]
        assert all(moved) and (algorithm == "daac" or 0 < row["policy/kl"] <= 0.01)
    with pytest.raises(ValueError, match="model must have no recurrent blocks for IDAAC"):
        idaac_phases(model, make_settings(algorithm="idaac"))


def test_trpos_step_is_that_of_the_network_step_by_step():
    """The KL divergence that the phase reports is the one between the policies before and after it, with memory."""
    torch.manual_seed(0)
    model = make_model("gru", None, 0)
    before = copy.deepcopy(model)
    settings = TRPOSettings(total_frames=N * T, rollout_steps=T, sequence_length=L)
    phases: Any = trpo_phases(model, settings)[:1]
    seen: list[TensorDictBase] = []
    run = phases[0].run
    phases[0].run = lambda batch, *a, **k: seen.append(batch.clone()) or run(batch, *a, **k)
    (row,) = train(model, phases, settings)
    (rollout,) = seen
    logits = []
    for each_model in (before, model):
        steps, plain = [], Plain(each_model)
        for row_of in range(len(rollout)):
            state = rollout["recurrent_state_policy_1"][row_of, 0]  # (1, H)
            states = {"policy1": state}
            for t in range(L):
                states = {} if rollout["is_init"][row_of, t] else states
                out, _, states = plain.step(rollout["observation"][row_of, t][None], states)
                steps.append(out)
        logits.append(torch.cat(steps).log_softmax(-1))
    old, new = logits
    assert (old.exp() * (old - new)).sum(-1).mean().item() == pytest.approx(row["policy/kl"], rel=1e-6)
    assert row["policy/kl"] > 1e-4


# ------------------------------------------------------------------------------------------------------- evaluation


class Remember(EnvBase):
    """The first observation says which action pays in the last of five steps; then it is blank."""

    def __init__(self, envs: int = 8) -> None:
        super().__init__(batch_size=torch.Size([envs]))
        like = Corridor(lengths=(5,) * envs)
        self.observation_spec, self.reward_spec = like.observation_spec.clone(), like.reward_spec.clone()
        del self.observation_spec["level_seed"]
        self.observation_spec["observation"] = self.observation_spec["observation"][..., :2].clone()
        self.done_spec = like.done_spec.clone()
        self.action_spec = Categorical(2, shape=self.batch_size)
        self.answer = torch.arange(envs).unsqueeze(-1) % 2
        self.step_ = torch.zeros(envs, 1)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        which = None if tensordict is None else tensordict.get("_reset", None)
        which = torch.ones_like(self.step_, dtype=torch.bool) if which is None else which
        self.answer = torch.where(which, torch.randint(2, self.answer.shape), self.answer)
        self.step_ = self.step_.masked_fill(which, 0)
        return TensorDict({"observation": self.shown()}, self.batch_size)

    def shown(self) -> Tensor:
        clue = torch.where(self.step_ == 0, 2 * self.answer - 1, 0)
        return torch.cat([clue, (self.step_ == 4).to(clue)], -1).double()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.step_ = self.step_ + 1
        end = self.step_ == 5
        reward = (end & (tensordict["action"].unsqueeze(-1) == self.answer)).double()
        ends = {"done": end, "terminated": end.clone(), "truncated": torch.zeros_like(end)}
        return TensorDict({"observation": self.shown(), "reward": reward, **ends}, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        pass


def test_a_recurrent_policy_learns_what_it_has_to_remember_and_is_evaluated_with_its_memory():
    torch.manual_seed(0)
    network = separate([gru_block(2, 8)], [gru_block(2, 8)], at=1)
    model = actor_value(network, Categorical(2))
    settings = make_settings(
        **{"rollout_steps": 20, "sequence_length": 5, "total_frames": 16 * 20 * 25, "minibatches": 4, "epochs": 4},
        **{"learning_rate": 0.02, "gamma": 0.95, "clip_value": None, "entropy_coeff": 0.0},
    )
    env = Remember(16)
    env.observation_spec["observation"].dtype = torch.float32
    train(model.double(), ppo_phases(model, settings), settings, env)
    policy = model.get_policy_operator()
    assert episode_returns(Remember(64), policy, stochastic=False).mean() > 0.95
    recording = record_episodes(Remember(16), policy, frames=32, gamma=1.0)
    assert recording["return"].mean() > 0.9


def test_states_travel_in_the_tensordict_and_are_reset_where_episodes_begin():
    model = make_model("gru", "lstm", 1)
    env = with_memory(corridor(), model)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        rollout = env.rollout(9, model, break_when_any_done=False)  # (N, 9)
    assert rollout["is_init"].squeeze(-1).tolist() == [[t % length == 0 for t in range(9)] for length in LENGTHS]
    state = rollout["recurrent_state_value_0"]
    assert state.shape == (N, 9, 2, 6) and not state[rollout["is_init"].squeeze(-1)].any()
    assert torch.equal(state[1, 1:8], rollout["next", "recurrent_state_value_0"][1, :7])
    with set_recurrent_mode(True):
        again = model(rollout.select(*model.in_keys))
    torch.testing.assert_close(again["state_value"], rollout["state_value"])
    torch.testing.assert_close(
        again["next", "recurrent_state_policy_0"], rollout["next", "recurrent_state_policy_0"], rtol=1e-9, atol=1e-12
    )
    same = corridor()
    assert with_memory(same, make_model(None, None)) is same


def test_a_stack_is_evaluated_with_its_memory():
    models = [seeds_model(seed, "discrete") for seed in SEEDS]
    env, closed = Drift(SEEDS, "discrete"), []
    env.close = lambda **_: closed.append(True)
    for _ in range(2):  # the environment is the caller's, to play again
        assert len(episode_returns(env, ModePolicy(stack(models)), stochastic=False)) == len(SEEDS) * N
    gc.collect()
    assert not closed
    together = episode_returns(Drift(SEEDS, "discrete"), ModePolicy(stack(models)), stochastic=False).view(
        len(SEEDS), -1
    )
    for index, seed in enumerate(SEEDS):
        alone = episode_returns(Drift([seed], "discrete"), ModePolicy(stack([models[index]])), stochastic=False)
        torch.testing.assert_close(together[index], alone)


@pytest.mark.parametrize("kind", MAKE)
def test_in_bfloat16_states_and_features_stay_in_full_precision(kind: str):
    model = make_model(kind, kind, 2).float()
    settings = make_settings(sequence_length=L, precision="bf16")
    phases = ppo_phases(model, settings)
    kept = keep_rollouts(phases[0])

    class Single(Corridor):
        """The same in float32."""

        def frame(self, step: Tensor, episode: Tensor) -> dict[str, Tensor]:
            return {key: x.float() if x.is_floating_point() else x for key, x in super().frame(step, episode).items()}

    (row,) = train(model, phases, settings, Single())
    assert kept[0]["recurrent_state_trunk_1"].dtype == torch.float32 and math.isfinite(row["loss/critic"])


# ---------------------------------------------------------------------------------------------------------- refused


def test_what_does_not_fit_a_memory_is_refused_by_name():
    model = make_model()
    for settings, message in (
        (make_settings(sequence_length=3), "sequence_length must be a divisor of rollout_steps, 8; got 3"),
        (make_settings(sequence_length=8, minibatches=5), "minibatches must be at most the 4 sequences of 8 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            train(model, ppo_phases(model, settings), settings)
    settings = make_settings(sequence_length=4)
    phase = ppo_phases(model, settings)[0]
    with pytest.raises(ValueError, match=r"batch must be sequences \(B, L\) for a recurrent model; got \(6,\)"):
        run_phase(phase, TensorDict({}, [6]), torch.Generator(), micro_batch=8)
    assert "recurrent" in (not_known(stack([seeds_model(0, "discrete")])) or "")
