"""The on-policy loop: targets and updates against plain Python and plain torch, and what each phase may touch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from commands import assert_same
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.nn import functional
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import Compose, EnvBase, RenameTransform, RewardSum, StepCounter, TransformedEnv

from decouple.analysis.evaluation import evaluate
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.on_policy import estimating, training
from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.estimating import faster_settings
from decouple.on_policy.losses import AdvantageLoss, ValueLoss
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.runs.performance import Performance

# Raw rewards at a clip of 0.2, on purpose: the clipped loss is what these tests work out.
pytestmark = pytest.mark.filterwarnings("ignore:clip_value clips most of a rollout's values")

N, T, ACTIONS, OBSERVED, DEPTH = 4, 8, 3, 4, 3
LENGTHS = (3, 8, 4, 5)  # of each environment's episodes; the second one's end on a rollout's last frame


class Corridor(EnvBase):
    """Episodes of fixed lengths on levels 0 and 1 in turn; deterministic, float64.

    Even environments terminate, odd ones run out of time (truncated, not terminated). With `hides_last_frame`, as in
    Procgen, the frame that comes with `done` is the next episode's first, and every end is terminated.
    """

    def __init__(self, *, hides_last_frame: bool = False, lengths: tuple[int, ...] = LENGTHS) -> None:
        super().__init__(batch_size=torch.Size([len(lengths)]))
        column, batch = (len(lengths), 1), self.batch_size
        self.observation_spec = Composite(
            observation=Unbounded((*batch, OBSERVED), dtype=torch.float64),
            level_seed=Unbounded(column, dtype=torch.int64),
            shape=batch,
        )
        self.action_spec = Categorical(ACTIONS, shape=batch)
        self.reward_spec = Unbounded(column, dtype=torch.float64)
        end = Binary(shape=column, dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), truncated=end.clone(), shape=batch)
        self.lengths = torch.tensor(lengths).unsqueeze(-1)  # (N, 1)
        self.times_out = (torch.arange(len(lengths)) % 2 == 1).unsqueeze(-1) & (not hides_last_frame)
        self.hides_last_frame = hides_last_frame
        self.step_, self.episode = torch.zeros(column), torch.zeros(column)

    def frame(self, step: Tensor, episode: Tensor) -> dict[str, Tensor]:
        level = (episode + torch.arange(len(self.lengths)).unsqueeze(-1)) % 2  # (N, 1)
        features = [level, torch.sin(step + episode), torch.cos(2 * step), self.lengths / 8]
        return {"observation": torch.cat(features, -1).double(), "level_seed": level.long()}

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        which = None if tensordict is None else tensordict.get("_reset", None)
        which = torch.ones_like(self.times_out) if which is None else which
        self.episode = torch.where(which & (self.step_ > 0), self.episode + 1, self.episode)
        self.step_ = self.step_.masked_fill(which, 0)
        return TensorDict(self.frame(self.step_, self.episode), self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict["action"].unsqueeze(-1)
        reward = self.reward(self.step_, self.episode, action)
        self.step_ = self.step_ + 1
        end = self.step_ >= self.lengths
        shown = self.frame(self.step_, self.episode)
        if self.hides_last_frame:
            shown = self.frame(torch.where(end, 0, self.step_), self.episode + end)
        ends = {"done": end, "terminated": end & ~self.times_out, "truncated": end & self.times_out}
        return TensorDict({**shown, "reward": reward, **ends}, self.batch_size)

    @staticmethod
    def reward(step: Tensor, episode: Tensor, action: Tensor) -> Tensor:
        return (2 * torch.cos(step + 3 * episode) + 0.5 * action).double()

    def _set_seed(self, seed: int | None) -> None:
        pass


def corridor(**options: Any) -> TransformedEnv:
    return TransformedEnv(Corridor(**options), Compose(RewardSum(), StepCounter()))


def make_model(k: int = 2, dtype: torch.dtype = torch.float64) -> ActorValue:
    sizes = [8, 8, 6]
    network = separate(mlp_blocks(OBSERVED, sizes), mlp_blocks(OBSERVED, sizes), at=k)
    return actor_value(network, Categorical(ACTIONS), policy_gain=1.0).to(dtype)


def make_settings(**changes: Any) -> OnPolicySettings:
    small = {"total_frames": N * T, "rollout_steps": T, "minibatches": 2, "epochs": 2, "policy_epochs": 2}
    return OnPolicySettings(**{**small, "value_epochs": 3, "micro_batch": 1000, **changes})


def train(
    model: ActorValue, phases: list[Phase], settings: OnPolicySettings, env: EnvBase | None = None, **options: Any
) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    log = lambda row, frames: rows.append({**row, "frames": frames})  # noqa: E731
    train_on_policy(env or corridor(), model, phases, settings, log=log, **options)
    return rows


def keep_rollouts(phase: Phase) -> list[TensorDictBase]:
    """The flat rollouts that the phase is given, as it is given them."""
    kept: list[TensorDictBase] = []
    prepare = phase.prepare

    def keep(batch: TensorDictBase) -> None:
        if prepare:
            prepare(batch)
        kept.append(batch.clone())

    phase.prepare = keep
    return kept


class Watched(nn.Module):
    """The loss `(weight - mean observation)^2` of a user's own phase, and a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        error = self.weight - tensordict["observation"].mean(-1)  # (b,)
        return TensorDict({"loss_watched": error.square().mean(), "error": error.detach().mean()})


def watching(**options: Any) -> Phase:
    loss = Watched()
    return Phase(loss, torch.optim.SGD(loss.parameters(), lr=0.1), name="watch", **{"minibatches": 1, **options})


def parameters_of(*modules: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected) > 0
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-8)  # coefficients are float32


# ------------------------------------------------------------------------------------------- targets of a rollout


def plain_targets(
    env: Corridor, actions: Tensor, value: Callable[[Tensor], float], gamma: float, decay: float
) -> tuple[Tensor, Tensor]:
    """Advantages, not normalised, and value targets (N, T) by loops over environments and, backwards, over time."""
    count, steps = actions.shape
    advantage, target = torch.zeros(count, steps), torch.zeros(count, steps)
    advantage, target = advantage.double(), target.double()

    def frame(n: int, step: int, episode: int) -> Tensor:
        every = torch.zeros(count, 1)
        return env.frame(every + step, every + episode)["observation"][n]

    for n in range(count):
        length = LENGTHS[n]
        time_out = n % 2 == 1 and not env.hides_last_frame
        following = 0.0
        for t in reversed(range(steps)):
            episode, step = divmod(t, length)
            ends = step == length - 1
            here = value(frame(n, step, episode))
            if ends and not time_out:
                there = 0.0
            elif ends:
                there = value(frame(n, length, episode))  # the true last frame, which no action was taken on
            else:
                there = value(frame(n, step + 1, episode))
            moment = torch.tensor([[float(step)], [float(episode)], [float(actions[n, t])]])
            reward = env.reward(*moment).item()
            error = reward + gamma * there - here
            following = error + (0.0 if ends else gamma * decay * following)
            advantage[n, t], target[n, t] = following, following + here
    return advantage, target


@pytest.mark.parametrize("hides_last_frame", [False, True])
@pytest.mark.parametrize("steps", [8, 7])  # with 8, an episode ends on the last frame; with 7, none does
def test_advantages_and_targets_equal_a_plain_loop_over_terminations_time_outs_and_resets(
    hides_last_frame: bool, steps: int
):
    model = make_model()
    still = ppo_phases(model, make_settings(learning_rate=1e-30))[0]
    kept = keep_rollouts(still)
    settings = make_settings(rollout_steps=steps, total_frames=N * steps, gamma=0.9, gae_lambda=0.8)
    train(model, [still], settings, corridor(hides_last_frame=hides_last_frame))
    (batch,) = kept

    value_of = model.get_value_operator()

    def value(frame: Tensor) -> float:
        return value_of(TensorDict(observation=frame))["state_value"].item()

    actions = batch["action"].reshape(N, steps)
    env = Corridor(hides_last_frame=hides_last_frame)
    advantage, target = plain_targets(env, actions, value, gamma=0.9, decay=0.8)
    precision = {"rtol": 1e-5, "atol": 1e-6}  # gamma is float32 in TorchRL's GAE
    torch.testing.assert_close(batch["value_target"].reshape(N, steps), target, **precision)
    normalised = (advantage - advantage.mean()) / advantage.std()
    torch.testing.assert_close(batch["advantage"].reshape(N, steps), normalised, **precision)


def test_a_rollout_goes_on_where_the_one_before_stopped():
    model = make_model()
    phase = watching()
    kept = keep_rollouts(phase)
    train(model, [phase], make_settings(rollout_steps=2, total_frames=N * 6))
    steps = torch.cat([batch["step_count"].reshape(N, 2) for batch in kept], 1)
    assert steps.tolist() == [[t % length for t in range(6)] for length in LENGTHS]


def test_logged_returns_are_those_of_the_episodes_that_ended_in_the_rollout():
    model = make_model()
    phase = watching()
    kept = keep_rollouts(phase)
    (row,) = train(model, [phase], make_settings(rollout_steps=7, total_frames=N * 7))
    returns, lengths = [], []
    for actions, length in zip(kept[0]["action"].reshape(N, 7), LENGTHS, strict=True):
        for episode in range(7 // length):
            taken = actions[episode * length : (episode + 1) * length].tolist()
            returns.append(sum(2 * math.cos(t + 3 * episode) + 0.5 * a for t, a in enumerate(taken)))
            lengths.append(length)
    assert row["train/episodes"] == len(returns) == 2 + 0 + 1 + 1
    assert row["train/episode_length"] == pytest.approx(sum(lengths) / 4)
    assert row["train/episode_return"] == pytest.approx(sum(returns) / 4, rel=1e-6)
    residual = kept[0]["value_target"] - kept[0]["state_value"]
    assert row["value/explained_variance"] == pytest.approx(
        1 - residual.var().item() / kept[0]["value_target"].var().item()
    )


# ------------------------------------------------------------------------------- whole iterations, in plain torch


class PlainNetwork:
    """A copy of a model's layers, run by hand."""

    def __init__(self, model: ActorValue):
        parts = copy.deepcopy(dict(model.module.items()))
        self.trunk, self.policy, self.value = (parts[name].module for name in ("trunk", "policy", "value"))
        self.policy_head, self.value_head = parts["policy_head"][0].module, parts["value_head"].module

    def policy_hidden(self, observation: Tensor) -> Tensor:
        return self.policy(self.trunk(observation))

    def values(self, observation: Tensor) -> Tensor:
        return self.value_head(self.value(self.trunk(observation)))


def plain_step(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> float:
    """Backward, gradients scaled to a norm of at most 0.5 over all of them, one step; returns the norm before."""
    gradients = torch.autograd.grad(loss, parameters)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient * min(1.0, 0.5 / (norm + 1e-6))
    optimizer.step()
    return norm


def plain_adam(parameters: list[Any], learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.999), eps=1e-5)


def policy_part(logits: Tensor, batch: TensorDictBase) -> Tensor:
    """-mean min(ratio A, clip(ratio, 0.8, 1.2) A) - 0.01 entropy."""
    log_probability = logits.log_softmax(-1)
    ratio = (log_probability.gather(-1, batch["action"][:, None]) - batch["action_log_prob"][:, None]).exp()
    advantage = batch["advantage"]
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    entropy = -(log_probability.exp() * log_probability).sum(-1).mean()
    return -surrogate - 0.01 * entropy


def value_part(value: Tensor, batch: TensorDictBase) -> Tensor:
    """0.5 mean max((V - R)^2, (V clipped to 0.2 around the acting value - R)^2)."""
    old, target = batch["state_value"], batch["value_target"]
    clipped = old + (value - old).clamp(-0.2, 0.2)
    return 0.5 * torch.maximum((value - target).square(), (clipped - target).square()).mean()


def minibatches(batch: TensorDictBase, epochs: int, shuffle: torch.Generator) -> list[TensorDictBase]:
    found = []
    for _ in range(epochs):
        order = torch.randperm(len(batch), generator=shuffle)
        half = len(batch) // 2
        found += [batch[order[:half]], batch[order[half:]]]
    return found


@pytest.mark.parametrize("k", [0, 2, DEPTH])
@pytest.mark.parametrize("learning_rate", [5e-4, 0.05])  # the default, and one with which ratios and values are clipped
def test_a_ppo_iteration_equals_plain_torch_whatever_the_micro_batch(k: int, learning_rate: float):
    torch.manual_seed(1)
    original = make_model(k)
    trained = {}
    for micro_batch in (1000, 5):  # 16 frames at once, and as 5 + 5 + 5 + 1
        torch.manual_seed(2)
        model = copy.deepcopy(original)
        settings = make_settings(learning_rate=learning_rate, micro_batch=micro_batch)
        phases = ppo_phases(model, settings)
        kept = keep_rollouts(phases[0])
        (row,) = train(model, phases, settings)
        trained[micro_batch] = model

    plain = PlainNetwork(original)
    layers = [plain.trunk, plain.policy, plain.value, plain.policy_head, plain.value_head]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimizer = plain_adam(parameters, learning_rate)
    norms, losses = [], []
    for minibatch in minibatches(kept[0], 2, torch.Generator().manual_seed(2)):
        logits = plain.policy_head(plain.policy_hidden(minibatch["observation"]))
        critic = value_part(plain.values(minibatch["observation"]), minibatch)
        norms.append(plain_step(optimizer, policy_part(logits, minibatch) + critic, parameters))
        losses.append(critic.item())

    for model in trained.values():
        ours = [model.trunk, model.policy, model.value]
        heads = [model.module["policy_head"][0].module, model.module["value_head"].module]
        assert_close(parameters_of(*ours, *heads), parameters_of(*layers))
    assert row["grad_norm/joint"] == pytest.approx(sum(norms) / 4)
    assert row["loss/critic"] == pytest.approx(sum(losses) / 4)
    assert max(norms) > 0.5  # the clipping of gradients was at work
    if learning_rate > 0.01:
        assert row["policy/clip_fraction"] > 0 and row["value/clip_fraction"] > 0


@pytest.mark.parametrize("k", [0, 2, DEPTH])
@pytest.mark.parametrize(
    "schedules", [{}, {"schedule": "linear"}, {"schedules": {"trunk": "linear", "value": "linear"}}]
)
def test_each_part_learns_at_its_own_rate_as_in_plain_torch(k: int, schedules: dict[str, Any]):
    torch.manual_seed(1)
    model, rates = make_model(k), {"trunk": 0.003, "value": 0.02}
    plain = PlainNetwork(model)
    settings = make_settings(learning_rate=0.01, learning_rates=rates, total_frames=3 * N * T, **schedules)
    phases = ppo_phases(model, settings)
    kept = keep_rollouts(phases[0])
    torch.manual_seed(2)
    train(model, phases, settings)

    parts = {
        "trunk": [plain.trunk],
        "policy": [plain.policy, plain.policy_head],
        "value": [plain.value, plain.value_head],
    }
    rates = {"policy": 0.01, **rates}
    falls = parts if "schedule" in schedules else schedules.get("schedules", {})
    groups = {part: [p for layer in layers for p in layer.parameters()] for part, layers in parts.items()}
    optimizer = torch.optim.Adam([{"params": own} for own in groups.values() if own], lr=1.0, eps=1e-5)
    names, parameters = [part for part in groups if groups[part]], [p for own in groups.values() for p in own]
    shuffle = torch.Generator().manual_seed(2)
    for iteration, rollout in enumerate(kept):
        for part, group in zip(names, optimizer.param_groups, strict=True):
            group["lr"] = rates[part] * ((3 - iteration) / 3 if part in falls else 1)
        for minibatch in minibatches(rollout, 2, shuffle):
            logits = plain.policy_head(plain.policy_hidden(minibatch["observation"]))
            critic = value_part(plain.values(minibatch["observation"]), minibatch)
            plain_step(optimizer, policy_part(logits, minibatch) + critic, parameters)
    assert len(kept) == 3
    ours = [model.trunk, model.policy, model.value]
    heads = [model.module["policy_head"][0].module, model.module["value_head"].module]
    assert_close(
        parameters_of(*ours, *heads),
        parameters_of(plain.trunk, plain.policy, plain.value, plain.policy_head, plain.value_head),
    )


@pytest.mark.parametrize("make_phases", [ppo_phases, daac_phases, idaac_phases])
def test_without_a_clip_the_value_learns_from_the_squared_error(make_phases):
    """0.5 mean (V - R)^2 of each minibatch, whatever the values were while acting: 0.5 of 4 here, and of 0.04."""
    model = make_model(0)
    phase = make_phases(model, make_settings(clip_value=None))[-1]
    (loss,) = [loss for loss in phase.losses if isinstance(loss, ValueLoss)]
    value = model.get_value_head()(TensorDict(value_hidden=torch.ones(1, 6, dtype=torch.float64), batch_size=[1]))
    for error, expected in ((2.0, 2.0), (0.2, 0.02)):
        told = value.detach().set("value_target", value["state_value"] + error)
        told["state_value"] = value["state_value"] + 100
        assert loss(told)["loss_critic"].item() == pytest.approx(expected)
    (row,) = train(model, make_phases(model, make_settings(clip_value=None)), make_settings(clip_value=None))
    assert "value/clip_fraction" not in row


@pytest.mark.filterwarnings("default:clip_value clips")
@pytest.mark.parametrize("make_phases", [ppo_phases, daac_phases])
def test_a_clip_that_most_values_are_beyond_for_five_rollouts_is_told_by_name_and_once(make_phases):
    def warned(rollouts: int = 7, **changes: Any) -> tuple[list[str], list[dict[str, float]]]:
        torch.manual_seed(0)
        model, settings = make_model(), make_settings(total_frames=rollouts * N * T, **changes)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            rows = train(model, make_phases(model, settings), settings)
        return [str(warning.message) for warning in found], rows

    found, rows = warned(learning_rate=0.1, clip_value=0.01)
    shares = [row["value/clip_fraction"] for row in rows]
    assert min(shares) > 0.5 and len(found) == 1
    assert f"clip_value clips most of a rollout's values ({shares[4]:.0%})" in found[0] and "None" in found[0]
    assert warned(4, learning_rate=0.1, clip_value=0.01)[0] == []  # the first values are far from any return
    found, rows = warned(learning_rate=1e-3)
    assert found == [] and max(row["value/clip_fraction"] for row in rows) <= 0.5
    assert warned(learning_rate=0.1, clip_value=None)[0] == []


@pytest.mark.parametrize("k", [0, 2, DEPTH])
@pytest.mark.parametrize("algorithm", ["daac", "idaac"])
@pytest.mark.parametrize("rates", [{}, {"trunk": 0.002, "policy": 0.03, "value": 0.05}])
def test_a_daac_and_an_idaac_iteration_equal_plain_torch(k: int, algorithm: str, rates: dict[str, float]):
    torch.manual_seed(3)
    model = make_model(k)
    settings = make_settings(
        algorithm=algorithm, micro_batch=6, learning_rate=0.01, learning_rates=rates, order_coeff=0.7
    )
    phases = ALGORITHMS[algorithm](model, settings)
    for loss in (phases[0].losses[1], *((phases[0].adversary.losses[0],) if phases[0].adversary else ())):
        loss.double()
    plain, head, classifier = PlainNetwork(model), copy.deepcopy(advantage_layer(phases[0])), None
    if algorithm == "idaac":
        classifier = copy.deepcopy(classifier_layer(phases[0]))
    kept = keep_rollouts(phases[0])
    torch.manual_seed(4)
    (row,) = train(model, phases, settings)

    shuffle = torch.Generator().manual_seed(4)
    network = [plain.trunk, plain.policy, plain.policy_head, head]
    parameters = [parameter for layer in network for parameter in layer.parameters()]
    of_trunk = {"params": list(plain.trunk.parameters()), "lr": rates.get("trunk", 0.01)}
    own = {"params": parameters[len(of_trunk["params"]) :], "lr": rates.get("policy", 0.01)}
    optimizer = plain_adam([of_trunk, own], 0.01)
    if classifier is not None:
        of_classifier = list(classifier.parameters())
        order_optimizer = plain_adam(of_classifier, rates.get("policy", 0.01))
    for minibatch in minibatches(kept[0], 2, shuffle):
        if classifier is not None:
            with torch.no_grad():
                pair = [plain.policy_hidden(minibatch[key]) for key in ("observation", ("partner", "observation"))]
            probability = classifier(torch.cat(pair, -1)).softmax(-1)[:, :1]
            earlier = (minibatch["partner", "step_count"] < minibatch["step_count"]).double()
            plain_step(order_optimizer, functional.binary_cross_entropy(probability, earlier), of_classifier)
        hidden = plain.policy_hidden(minibatch["observation"])
        one_hot = functional.one_hot(minibatch["action"], ACTIONS).double()
        advantage = head(torch.cat([hidden, one_hot], -1))
        loss = policy_part(plain.policy_head(hidden), minibatch)
        loss = loss + 0.25 * (advantage - minibatch["advantage"]).square().mean()
        if classifier is not None:
            pair = [hidden, plain.policy_hidden(minibatch["partner", "observation"])]
            probability = classifier(torch.cat(pair, -1)).softmax(-1)[:, :1]
            half = torch.full_like(probability, 0.5)
            loss = loss + 0.7 * functional.binary_cross_entropy(probability, half)
        plain_step(optimizer, loss, parameters)
    value_network = [plain.trunk, plain.value, plain.value_head]
    parameters = [parameter for layer in value_network for parameter in layer.parameters()]
    own = {"params": parameters[len(of_trunk["params"]) :], "lr": rates.get("value", 0.01)}
    optimizer = plain_adam([of_trunk, own], 0.01)
    for minibatch in minibatches(kept[0], 3, shuffle):
        plain_step(optimizer, value_part(plain.values(minibatch["observation"]), minibatch), parameters)

    ours = [model.trunk, model.policy, model.value]
    heads = [model.module["policy_head"][0].module, model.module["value_head"].module, advantage_layer(phases[0])]
    expected = [plain.trunk, plain.policy, plain.value, plain.policy_head, plain.value_head, head]
    if classifier is not None:
        heads.append(classifier_layer(phases[0]))
        expected.append(classifier)
    assert_close(parameters_of(*ours, *heads), parameters_of(*expected))
    assert row["value/clip_fraction"] > 0


def advantage_layer(phase: Phase) -> nn.Module:
    return phase.losses[1].advantage_network.module.linear


def classifier_layer(phase: Phase) -> nn.Module:
    return phase.adversary.losses[0].classifier_network.module.layers


# ----------------------------------------------------------------------------------- what each phase runs and trains


def count_calls(model: ActorValue, phase: Phase) -> dict[str, int]:
    """How often trunk and branches run from the beginning of this phase on."""
    calls = dict.fromkeys(("trunk", "policy", "value"), 0)
    counting = False
    prepare = phase.prepare

    def begin(batch: TensorDictBase) -> None:
        nonlocal counting
        counting = True
        if prepare:
            prepare(batch)

    def counter(part: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[part] += counting

        return count

    phase.prepare = begin
    for part in calls:
        model.module[part].module.register_forward_hook(counter(part))
    return calls


def test_the_trunk_runs_once_per_micro_batch():
    model, settings = make_model(2), make_settings(micro_batch=5)
    phases = ppo_phases(model, settings)
    calls = count_calls(model, phases[0])
    train(model, phases, settings)
    times = 2 * 2 * 4  # epochs, minibatches, micro-batches of 16 frames
    assert calls == {"trunk": times, "policy": times, "value": times}


def test_acting_runs_each_part_once_a_step_and_next_values_need_the_value_branch_alone():
    model, settings = make_model(2), make_settings()
    calls = dict.fromkeys(("trunk", "policy", "value"), 0)
    for part in calls:

        def count(*_: object, part: str = part) -> None:
            calls[part] += 1

        model.module[part].module.register_forward_hook(count)
    train(model, [], settings)
    # The rollout's last frames, and once the frames before a time-out within it.
    assert calls == {"trunk": T + 2, "policy": T, "value": T + 2}
    train(model, [], settings, corridor(hides_last_frame=True))
    assert calls == {"trunk": 2 * T + 3, "policy": 2 * T, "value": 2 * T + 3}
    calls |= dict.fromkeys(calls, 0)
    train(model, [], make_settings(total_frames=2 * T), corridor(lengths=(T, T)))  # a time-out on the last frame alone
    assert calls == {"trunk": T + 1, "policy": T, "value": T + 1}


@pytest.mark.parametrize("make_phases", [daac_phases, idaac_phases])
@pytest.mark.parametrize("k", [0, 2])
def test_a_phase_never_calls_the_branch_that_it_does_not_need(make_phases: Callable, k: int):
    settings = make_settings()
    for number, (used, unused) in enumerate((("policy", "value"), ("value", "policy"))):
        model = make_model(k)
        phase = make_phases(model, settings)[number]
        for loss in [*phase.losses, *(phase.adversary.losses if phase.adversary else [])]:
            loss.double()
        calls = count_calls(model, phase)
        train(model, [phase], settings)
        assert calls[unused] == 0 < calls[used]


def test_the_classifier_steps_first_on_features_without_gradient():
    model, settings = make_model(0), make_settings(micro_batch=1000)
    phase = idaac_phases(model, settings)[0]
    for loss in (phase.losses[1], phase.adversary.losses[0]):
        loss.double()
    kept = keep_rollouts(phase)
    with_gradient = []

    def note(*_: object) -> None:
        if kept:  # collecting is over
            with_gradient.append(torch.is_grad_enabled())

    model.module["policy"].module.register_forward_hook(note)
    train(model, [phase], settings)
    # On each minibatch the sample's and the partner's features, for the classifier and then for the policy.
    assert with_gradient == [False, False, True, True] * 2 * 2


@pytest.mark.parametrize("make_phases", [daac_phases, idaac_phases])
def test_the_advantage_head_reads_a_continuous_action_in_the_unit(make_phases: Callable):
    network = separate(mlp_blocks(2, [4]), mlp_blocks(2, [4]), at=0)
    model = actor_value(network, Bounded(torch.tensor([-0.1, 1.0]), torch.tensor([0.3, 101.0])))
    loss = next(loss for loss in make_phases(model, make_settings())[0].losses if isinstance(loss, AdvantageLoss))
    unit = loss.advantage_network.module.unit
    torch.testing.assert_close(unit(torch.tensor([[0.2, 26.0]])), torch.tensor([[0.5, -0.5]]))
    discrete = make_phases(make_model(0), make_settings())[0].losses
    assert all(loss.advantage_network.module.unit is None for loss in discrete if isinstance(loss, AdvantageLoss))


@pytest.mark.parametrize("make_phases", [daac_phases, idaac_phases])
def test_with_full_separation_neither_phase_changes_the_others_parameters(make_phases: Callable):
    settings = make_settings()
    for number, (trained, other) in enumerate((("policy", "value"), ("value", "policy"))):
        model = make_model(0)
        phase = make_phases(model, settings)[number]
        for loss in [*phase.losses, *(phase.adversary.losses if phase.adversary else [])]:
            loss.double()
        parts = {part: nn.ModuleList(modules) for part, modules in model.parts().items()}
        before = {part: parameters_of(modules) for part, modules in parts.items()}
        train(model, [phase], settings)
        after = {part: parameters_of(modules) for part, modules in parts.items()}
        assert all(torch.equal(a, b) for a, b in zip(after[other], before[other], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(after[trained], before[trained], strict=True))


def test_the_value_phase_runs_on_rollouts_0_every_2_every_and_no_other():
    model, settings = make_model(0), make_settings(value_every=3, total_frames=8 * N * T)
    phases = daac_phases(model, settings)
    phases[0].losses[1].double()
    rows = train(model, phases, settings)
    assert ["loss/critic" in row for row in rows] == [i in (0, 3, 6) for i in range(8)]
    assert all("loss/objective" in row for row in rows)


def test_partners_are_of_the_same_level_and_not_all_the_sample_itself():
    model, settings = make_model(0), make_settings()
    phase = idaac_phases(model, settings)[0]
    for loss in (phase.losses[1], phase.adversary.losses[0]):
        loss.double()
    kept = keep_rollouts(phase)
    train(model, [phase], settings)
    level, partner = kept[0]["level_seed"].squeeze(-1), kept[0]["partner"]
    assert torch.equal(partner["observation"][:, 0].long(), level)  # the observation's first feature is the level
    assert 0 < level.sum() < len(level)
    same_frame = (partner["observation"] == kept[0]["observation"]).all(-1)
    assert same_frame.float().mean() < 0.5


def test_the_adversarial_gradient_reaches_the_encoder_and_not_the_classifier():
    settings = make_settings(order_coeff=1.0)
    model = make_model(0)
    phase = idaac_phases(model, settings)[0]
    classifier, order = phase.adversary.losses[0].double().classifier_network, phase.losses[2]
    phase.adversary, phase.loss = None, order
    phase.optimizer = torch.optim.SGD([*phase.parameters(), *classifier.parameters()], lr=0.1)
    before, encoder = parameters_of(classifier), parameters_of(model.module["policy"])
    train(model, [phase], settings)
    assert all(torch.equal(a, b) for a, b in zip(parameters_of(classifier), before, strict=True))
    after = parameters_of(model.module["policy"])
    assert not any(torch.equal(a, b) for a, b in zip(after, encoder, strict=True))


# ------------------------------------------------------------------------------------------------ a user's own phase


def test_an_own_phase_runs_with_no_subclass_and_its_outputs_are_logged():
    model, settings = make_model(), make_settings(total_frames=3 * N * T)
    own = watching(every=2, epochs=2)
    kept = keep_rollouts(own)
    rows = train(model, [*ppo_phases(model, settings), own], settings)
    assert ["loss/watched" in row for row in rows] == [True, False, True]
    weight, errors = 0.0, []
    for batch in kept:
        target = batch["observation"].mean().item()
        for _ in range(2):
            errors.append(weight - target)
            weight -= 0.1 * max(-0.5, min(0.5, 2 * (weight - target)))  # the default max_grad_norm is 0.5
    assert own.losses[0].weight.item() == pytest.approx(weight, rel=1e-5)
    assert rows[0]["watch/error"] == pytest.approx(sum(errors[:2]) / 2)


def test_minibatches_are_as_many_as_asked_for_where_they_do_not_divide_the_rollout():
    sizes = []
    phase = watching(minibatches=5)
    phase.losses[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    train(make_model(), [phase], make_settings(rollout_steps=3, total_frames=12))
    assert sizes == [3, 3, 2, 2, 2]


@pytest.mark.parametrize("limit", [None, 0.5])
def test_gradients_are_clipped_at_max_grad_norm_or_not_at_all(limit: float | None):
    phase = watching(max_grad_norm=limit)
    kept = keep_rollouts(phase)
    phase.optimizer.param_groups[0]["lr"] = 1.0
    phase.losses[0].weight.data.fill_(10.0)
    (row,) = train(make_model(), [phase], make_settings())
    gradient = 2 * (10 - kept[0]["observation"].mean().item())
    assert row["grad_norm/watch"] == pytest.approx(gradient)
    assert phase.losses[0].weight.item() == pytest.approx(10 - (limit or gradient), rel=1e-5)


def test_a_phase_refuses_settings_out_of_range_by_name():
    for name in ("epochs", "every", "minibatches"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1; got 0"):
            watching(**{name: 0})
    with pytest.raises(ValueError, match=r"max_grad_norm must be positive, or None for no clipping; got 0"):
        watching(max_grad_norm=0)


# --------------------------------------------------------------------------------------------------------- the loop


def test_frames_are_rounded_up_to_whole_iterations():
    frames = []
    model, settings = make_model(), make_settings(total_frames=2 * N * T + 1)
    total = train_on_policy(corridor(), model, [], settings, log=lambda _, count: frames.append(count))
    assert frames == [N * T, 2 * N * T, 3 * N * T]
    assert total == 3 * N * T


def test_evaluations_come_every_evaluate_every_iterations_from_the_first_and_after_the_last():
    asked = []

    def evaluation(iteration: int) -> dict[str, float]:
        asked.append(iteration)
        return {"eval/number": float(iteration)}

    settings = make_settings(total_frames=8 * N * T, evaluate_every=3)
    rows = train(make_model(), [], settings, evaluate=evaluation)
    assert asked == [0, 3, 6, 7]
    assert [row.get("eval/number") for row in rows] == [0, None, None, 3, None, None, 6, 7]


def test_checkpoints_come_at_the_start_every_checkpoint_every_iterations_and_at_the_end(tmp_path):
    seen = []
    path = tmp_path / "checkpoint.pt"
    settings = make_settings(total_frames=5 * N * T, checkpoint_every=2)
    log = lambda row, frames: seen.append((frames // (N * T), path.exists()))  # noqa: E731
    train_on_policy(
        corridor(), make_model(), [], settings, log=log, checkpoint=path, on_checkpoint=lambda: seen.append("saved")
    )
    # The first is written before the first iteration, so that a folder with a table always says what run it holds.
    assert seen == [(1, True), (2, True), "saved", (3, True), (4, True), "saved", (5, True), "saved"]


def test_progress_names_what_is_under_way_and_how_much_of_it_is_done():
    calls = []
    model, settings = make_model(), make_settings(epochs=1)
    train(model, ppo_phases(model, settings), settings, progress=lambda *call: calls.append(call))
    assert calls == [
        ("collecting, frames", 0, N * T),
        ("collecting, frames", N * T, N * T),
        ("joint phase, minibatches", 1, 2),
        ("joint phase, minibatches", 2, 2),
    ]


def without_clock(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def run(seed: int, algorithm: str, **options: Any) -> tuple[list[dict[str, float]], list[Tensor]]:
    torch.manual_seed(seed)
    model, settings = make_model(2), make_settings(algorithm=algorithm, total_frames=3 * N * T)
    phases = ALGORITHMS[algorithm](model, settings)
    for phase in phases:
        for loss in [*phase.losses, *(phase.adversary.losses if phase.adversary else [])]:
            loss.double()
    if options.pop("evaluating", False):
        policy = model.get_policy_operator()
        options["evaluate"] = lambda iteration: evaluate(policy, {"train": lambda *_: corridor()}, episodes=1, seed=9)
    rows = train(model, phases, settings, **options)
    return rows, parameters_of(model)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_seed_decides_metrics_and_parameters_and_evaluating_changes_neither(algorithm: str):
    rows, parameters = run(0, algorithm)
    for other, evaluating in ((0, False), (0, True), (1, False)):
        other_rows, other_parameters = run(other, algorithm, evaluating=evaluating)
        equal = all(torch.equal(a, b) for a, b in zip(parameters, other_parameters, strict=True))
        assert equal == (other == 0)
        assert any("eval/train_return" in row for row in other_rows) == evaluating
        kept = [{name: row[name] for name in row if not name.startswith("eval/")} for row in other_rows]
        assert (without_clock(kept) == without_clock(rows)) == (other == 0)


def test_bf16_runs_the_network_lower_and_keeps_parameters_losses_and_log_probabilities_in_fp32():
    kept = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model, settings = make_model(2, torch.float32), make_settings(precision=precision)
        phases = ppo_phases(model, settings)
        env = TransformedEnv(FloatCorridor(), Compose(RewardSum(), StepCounter()))
        batches = keep_rollouts(phases[0])
        train(model, phases, settings, env)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert batches[0]["state_value"].dtype == batches[0]["action_log_prob"].dtype == torch.float32
        kept[precision] = batches[0]["state_value"][0].item()
    assert kept["bf16"] != kept["fp32"]
    assert kept["bf16"] == pytest.approx(kept["fp32"], rel=0.1, abs=0.05)


class FloatCorridor(Corridor):
    def __init__(self) -> None:
        super().__init__()
        spec = Unbounded((N, OBSERVED))
        self.observation_spec = Composite(observation=spec, level_seed=self.observation_spec["level_seed"], shape=[N])
        self.reward_spec = Unbounded((N, 1))

    def frame(self, step: Tensor, episode: Tensor) -> dict[str, Tensor]:
        return {key: v.float() if key == "observation" else v for key, v in super().frame(step, episode).items()}

    @staticmethod
    def reward(step: Tensor, episode: Tensor, action: Tensor) -> Tensor:
        return Corridor.reward(step, episode, action).float()


def test_an_unbatched_environment_is_refused():
    class Unbatched:
        batch_size = torch.Size([])

    with pytest.raises(ValueError, match="env must be"):
        train_on_policy(Unbatched(), make_model(), [], make_settings(), log=print)  # type: ignore[arg-type]


def test_more_minibatches_than_frames_are_refused_before_a_frame_is_collected():
    with pytest.raises(ValueError, match="minibatches must be at most the 32 frames of a rollout; got 33"):
        train(make_model(), [watching(minibatches=33)], make_settings())


# --------------------------------------------------------------------------------------------------------- settings


def test_the_defaults_are_the_studys():
    expected = {
        **{"rollout_steps": 256, "gamma": 0.999, "gae_lambda": 0.95, "total_frames": 25_000_000},
        **{"learning_rate": 5e-4, "adam_epsilon": 1e-5, "max_grad_norm": 0.5, "clip_epsilon": 0.2, "clip_value": 0.2},
        **{"value_coeff": 0.5, "entropy_coeff": 0.01, "advantage_coeff": 0.25, "order_coeff": 0.001},
        **{"minibatches": 8, "epochs": 3, "policy_epochs": 1, "value_epochs": 9, "value_every": 1},
        **{"evaluate_every": 10, "algorithm": "ppo", "precision": "fp32"},
    }
    settings = OnPolicySettings()
    assert {name: getattr(settings, name) for name in expected} == expected


WHOLE = (
    *("total_frames", "rollout_steps", "minibatches", "epochs", "policy_epochs", "value_epochs", "value_every"),
    *("micro_batch", "evaluate_every", "checkpoint_every", "order_width"),
)
POSITIVE = ("learning_rate", "adam_epsilon", "max_grad_norm", "clip_epsilon")
WEIGHTS = ("value_coeff", "entropy_coeff", "advantage_coeff", "order_coeff")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *((name, value, "a whole number, at least 1") for name in WHOLE for value in (0, -1, 2.5, True, "many")),
        *((name, value, r"in \[0, 1\]") for name in ("gamma", "gae_lambda") for value in (-0.1, 1.1, math.nan, "x")),
        *((name, value, "positive and finite") for name in POSITIVE for value in (0, -1.0, math.inf, math.nan, None)),
        *((name, value, "at least 0 and finite") for name in WEIGHTS for value in (-0.1, math.inf, math.nan, None)),
        *(("clip_value", value, "positive and finite") for value in (0, -1.0, math.inf, math.nan, "auto")),
        ("algorithm", "a2c", r"one of \['daac', 'dcpg', 'ddcpg', 'dna', 'idaac', 'ppg', 'ppo'\]"),
        ("precision", "fp16", "fp32 or bf16"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name_what_is_allowed_and_what_came(name, value, says):
    with pytest.raises(ValueError, match=f"^{name} must be {says}(, or None)?; got {value!r}$"):
        OnPolicySettings(**{name: value})


def test_the_ends_of_the_ranges_are_allowed():
    OnPolicySettings(clip_value=None, gamma=0, gae_lambda=1, **dict.fromkeys(WEIGHTS, 0), **dict.fromkeys(WHOLE, 1))


def test_a_learned_corridor_pays_more_than_chance():
    """Action 2 pays 1 a step, action 0 nothing: PPO finds it."""
    torch.manual_seed(0)
    settings = make_settings(total_frames=60 * N * T, learning_rate=0.01, entropy_coeff=0.0, gamma=0.5)
    model = make_model(2)
    phase = ppo_phases(model, settings)
    kept = keep_rollouts(phase[0])
    train(model, phase, settings)
    share = [(batch["action"] == 2).double().mean().item() for batch in kept]
    assert sum(share[:3]) / 3 < 0.6
    assert sum(share[-3:]) / 3 > 0.9


# --- phases beyond those of this package


def test_two_losses_of_a_phase_with_one_output_name_are_refused():
    model = make_model()
    value = ValueLoss(model.get_value_head())
    phase = Phase([value, value], torch.optim.Adam(model.parameters()), features=model.get_features(["value_hidden"]))
    with pytest.raises(ValueError, match=r"loss must give each output a name of its own; two of joint give '"):
        train(model, [phase], make_settings(total_frames=N * T))


def test_what_two_phases_log_under_one_name_is_kept_apart():
    model = make_model()
    rows = train(model, ppo_phases(model, make_settings()) * 2, make_settings(total_frames=N * T))
    assert {"loss/critic", "loss/critic_joint"} <= rows[0].keys()


@pytest.mark.parametrize("wrong", [{"epochs": 2}, {"every": 2}, {"prepare": print}])
def test_an_adversary_with_a_schedule_of_its_own_is_refused(wrong):
    loss = Watched()
    optimizer = torch.optim.Adam(loss.parameters())
    with pytest.raises(ValueError, match="adversary must have"):
        Phase(loss, optimizer, adversary=Phase(loss, optimizer, **wrong))


def test_gradients_at_the_cut_do_not_depend_on_the_micro_batch():
    found = []
    for micro_batch in (1, 3, N * T):
        torch.manual_seed(0)
        model = make_model(2)
        settings = make_settings(total_frames=N * T, epochs=1, minibatches=2, micro_batch=micro_batch)
        (row,) = train(model, ppo_phases(model, settings), settings)
        found.append([row[f"cut/joint_{name}"] for name in ("policy_norm", "value_norm", "cosine")])
    assert found[0] == pytest.approx(found[2], rel=1e-4)
    assert found[1] == pytest.approx(found[2], rel=1e-4)
    assert min(found[2][:2]) > 0


def test_idaac_reads_whatever_keys_the_policy_reads():
    sizes = [8, 8, 6]
    network = separate(mlp_blocks(OBSERVED, sizes), mlp_blocks(OBSERVED, sizes), at=0)
    model = actor_value(network, Categorical(ACTIONS), observation_key="state").double()
    env = corridor().append_transform(RenameTransform(["observation"], ["state"]))
    (row,) = train(model, idaac_phases(model, make_settings()), make_settings(), env=env)
    assert {"loss/order", "order/accuracy"} <= row.keys()


# --- what is not finite


class Broken(Corridor):
    """Its 13th step, counted over all episodes, gives the third of its games a reward or an observation of `value`."""

    where, value, steps = "reward", math.nan, 0

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        answer = super()._step(tensordict)
        self.steps += 1
        if self.steps == 13:
            answer[self.where] = answer[self.where].clone()
            answer[self.where][2, 0] = self.value
        return answer


def broken(where: str, value: float) -> TransformedEnv:
    env = Broken()
    env.where, env.value = where, value
    return TransformedEnv(env, Compose(RewardSum(), StepCounter()))


@pytest.mark.parametrize("make_phases", [ppo_phases, daac_phases, idaac_phases])
@pytest.mark.parametrize(
    ("where", "value"),
    [("reward", math.nan), ("reward", -math.inf), ("observation", math.inf), ("observation", math.nan)],
)
def test_an_agent_alone_ends_with_an_error_that_names_what_is_not_finite_and_when(tmp_path, make_phases, where, value):
    """13 steps of 4 games are 52 frames. What a policy draws from nan breaks off before: the error says so too."""
    torch.manual_seed(0)
    model, settings = make_model(0), make_settings(total_frames=4 * N * T, checkpoint_every=1)
    failed = FailedSeeds([7], "corridor")
    options = {"failed": failed, "checkpoint": tmp_path / "checkpoint.pt"}
    at = "after frame 32" if where == "observation" and math.isnan(value) else "at frame 52"
    with pytest.raises(NotFiniteError, match=f"^corridor, seed 7: {where} is {value} {at}$"):
        train(model, make_phases(model, settings), settings, broken(where, value), **options)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["iteration"] == 1 and all(value.isfinite().all() for value in state["model"].values())


def test_a_checkpoint_of_a_model_that_is_not_finite_is_not_gone_on_with(tmp_path):
    """As a version that did not look may have left it."""
    model, settings = make_model(), make_settings(total_frames=N * T)
    file = tmp_path / "checkpoint.pt"
    train(model, ppo_phases(model, settings), settings, checkpoint=file)
    state = load_checkpoint(file)
    name = "module.value_head.module.weight"
    state["model"][name][0, 1] = math.nan
    del state["failed"]
    save_checkpoint(file, state)
    settings = make_settings(total_frames=2 * N * T)
    with pytest.raises(NotFiniteError, match=rf"^parameter {name} is nan in {file}$"):
        train(model, ppo_phases(model, settings), settings, checkpoint=file)


def test_a_rollout_of_one_frame_is_refused():
    """Its advantages have no standard deviation."""
    model, settings = make_model(), make_settings(rollout_steps=1, minibatches=1)
    env = TransformedEnv(Corridor(lengths=(3,)), Compose(RewardSum(), StepCounter()))
    with pytest.raises(ValueError, match=r"rollout_steps must be at least 2 with one environment: .*; got 1"):
        train(model, ppo_phases(model, settings), settings, env)


def test_what_would_be_faster_is_measured_and_leaves_the_threads_as_they_were(monkeypatch):
    """Each setting by itself, beside the seconds of the present ones; those that gain little are not named."""
    seconds = {("fp32", 1): 4.0, ("bf16", 1): 2.0, ("fp32", 3): 3.6, ("bf16", 3): 1.0}
    monkeypatch.setattr(estimating, "fast_bf16", lambda device: True)
    monkeypatch.setattr(estimating.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    measured = lambda collector, phases, how: seconds[how.precision, torch.get_num_threads()]  # noqa: E731
    monkeypatch.setattr(estimating, "seconds_per_iteration", measured)
    how = Performance(torch_threads=1)
    assert faster_settings(4.0, None, [], how) == {"precision=bf16": 2.0}
    assert faster_settings(2.0, None, [], replace(how, precision="bf16")) == {"torch_threads=3": 2.0}
    assert faster_settings(4.0, None, [], how, other_precision=False) == {}  # a run that goes on keeps its precision
    assert torch.get_num_threads() == 1


def test_the_share_of_the_peak_is_of_operations_counted_by_hand(monkeypatch):
    model, settings, shares = make_model(), make_settings(), []
    monkeypatch.setattr(training, "seconds_per_iteration", lambda *_: 0.5)
    monkeypatch.setattr(training, "LONG_S", 0.0)
    monkeypatch.setattr(estimating, "_peak", lambda how: 1e6)  # operations per second
    how = Performance(collector="preallocated")
    how_much = {"peak_share": shares.append, "performance": how}
    train(model, ppo_phases(model, settings), settings, **how_much)
    forward = 2 * (OBSERVED * 8 + 8 * 8 + 2 * 8 * 6)  # operations of one frame: the trunk of two blocks, and two of 6
    back = 2 * forward - 2 * OBSERVED * 8  # without the observation's gradient
    assert shares == [pytest.approx(N * T * (forward + settings.epochs * (forward + back)) / 0.5 / 1e6)]
    monkeypatch.setattr(training, "LONG_S", 30.0)  # a run that is over sooner is not measured further
    train(make_model(), ppo_phases(model, settings), settings, **how_much)
    assert len(shares) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_estimate_of_the_time_changes_nothing(algorithm, monkeypatch):
    """By a micro-batch before the first rollout or, with TorchRL's collector, by watching the first iterations."""
    monkeypatch.setattr(estimating.TimeLeft, "ITERATIONS_S", 0.0)
    monkeypatch.setattr(training, "LONG_S", 0.0)
    found, told, shares, faster = [], [], [], []
    settings = make_settings(total_frames=4 * N * T, rollout_steps=T)
    for expect, share, name in ((None, None, None), (told.append, shares.append, faster.append)):
        torch.manual_seed(0)
        model = make_model()
        phases = ALGORITHMS[algorithm](model, settings)
        how = Performance(collector="preallocated")
        rows = train(model, phases, settings, expect=expect, peak_share=share, faster=name, performance=how)
        kept = {name: value for name, value in rows[-1].items() if not name.startswith("time/")}
        found.append([kept, model.state_dict(), [phase.state_dict() for phase in phases]])
    assert_same(*found)
    assert len(told) == len(shares) == len(faster) == 1 and 0 < told[0] < 60 and 0 < shares[0] < 1
    told.clear()
    torch.manual_seed(0)
    model, watched = make_model(), []
    phases = ALGORITHMS[algorithm](model, settings)
    progress = lambda what, done, total: watched.append(what)  # noqa: E731
    options = {"performance": Performance(collector="torchrl"), "expect": told.append, "progress": progress}
    train(model, phases, settings, **options)
    assert len(told) == 1 and 0 < told[0] < 60 and watched[0].startswith("collecting")
