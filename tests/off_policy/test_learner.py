"""learner.py and torchrl_learner.py: one against the other, against plain torch, and each seed against itself alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pairwise import grid
from torch import Tensor, nn
from torch.nn import functional
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import TanhNormal
from torchrl.objectives import DDPGLoss

from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.blocks import mlp_blocks
from decouple.networks.distributions import squashed_normal
from decouple.networks.separation import separate
from decouple.off_policy.learner import Learner
from decouple.off_policy.replay import Transition
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings, TD3Settings
from decouple.off_policy.torchrl_learner import TorchRLLearner
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint
from decouple.seeding import SeedNoise

OBSERVATION, ACTION, ACTIONS, BATCH, WIDTH = 3, 2, 4, 16, 4
LOW, HIGH = torch.tensor([-2.0, 1.0]), torch.tensor([2.0, 5.0])  # half the range is 2 in both, the middle 0 and 3
EXAMPLE = {"observation": torch.zeros(OBSERVATION), "action": torch.zeros(ACTION)}

SETTINGS: dict[str, type[OffPolicySettings]] = {
    "sac": SACSettings,
    "discrete_sac": SACSettings,
    "td3": TD3Settings,
    "ddpg": DDPGSettings,
}
each_algorithm = pytest.mark.parametrize("algorithm", SETTINGS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small take longer to hand to a second thread than to compute, many times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(
    algorithm: str,
    k: int = 0,
    seed: int = 0,
    *,
    policy_gradient: float = 0.0,
    value_gradient: float = 1.0,
    fill: Callable[[ActorQValue], None] | None = None,
    spec: Bounded | None = None,
    **keywords: Any,
) -> ActorQValue:
    """Actor |4,4,4|, critics |5,5| after the cut."""
    discrete, width = algorithm == "discrete_sac", OBSERVATION if k == 0 else WIDTH
    torch.manual_seed(seed)

    def value_blocks() -> list[nn.Module]:
        dropped = mlp_blocks(OBSERVATION, [WIDTH] * k) if k else []  # by separate, which takes the policy's
        return [*dropped, *mlp_blocks(width + (0 if discrete else ACTION), [5, 5])]

    keys: list[str] = [] if discrete else ["action"]
    blocks = mlp_blocks(OBSERVATION, [WIDTH] * 3), value_blocks()
    scales = {"policy_gradient": policy_gradient, "value_gradient": value_gradient}
    network = separate(*blocks, at=k, value_keys=keys, example=EXAMPLE, **scales)
    twin = None if algorithm == "ddpg" else value_blocks()
    of_task = Categorical(ACTIONS) if discrete else spec or Bounded(LOW, HIGH)
    deterministic = algorithm in ("td3", "ddpg")
    model = actor_qvalue(network, of_task, twin_blocks=twin, deterministic=deterministic, **keywords)
    if fill is not None:
        fill(model)
    return model


def make_settings(algorithm: str, **departures: Any) -> Any:
    """Fast enough that targets and online networks differ, and a few updates tell a mistake."""
    return SETTINGS[algorithm](**{"learning_rate": 1e-2, "tau": 0.1, **departures})


def make_batch(algorithm: str, step: int, seeds: int = 1) -> Transition:
    generators = [torch.Generator().manual_seed(100 * step + seed) for seed in range(seeds)]

    def normal(size: int) -> Tensor:
        return torch.stack([torch.randn(BATCH, size, generator=g) for g in generators])

    if algorithm == "discrete_sac":
        draws = [torch.randint(0, ACTIONS, (BATCH, 1), generator=g) for g in generators]
        action = torch.stack(draws).float()
    else:
        action = normal(ACTION).tanh()  # as a replay gives them, whatever the task's bounds
    return Transition(normal(OBSERVATION), action, normal(1), (normal(1) > 1).float(), normal(OBSERVATION))


class GlobalNoise:
    """Draws from torch's global generator, as TorchRL's losses do, in place of SeedNoise."""

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(1, *shape)


class GivenNoise:
    """Gives the numbers that the plain references were given, in their order."""

    def __init__(self, numbers: Sequence[Tensor]):
        self.numbers = list(numbers)

    def normal(self, *shape: int) -> Tensor:
        number = self.numbers.pop(0)
        assert number.shape == shape
        return number[None]


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], *, rtol: float = 1e-4, atol: float = 2e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def parameters_of(model: ActorQValue) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def part_of(name: str) -> str:
    """The part of a model, as `trunk` or `twin_head`, that a parameter's name lies in."""
    return name.split(".")[1]


def targets_of(learner: Learner | TorchRLLearner) -> dict[str, Tensor]:
    """The target networks of a learner of one seed, named as the model's own parameters; SAC has no target policy."""
    twin = copy.deepcopy(learner)
    with torch.no_grad():
        if isinstance(twin, Learner):
            pairs = zip(twin.online.parameters(), twin.target.parameters(), strict=True)
        else:
            networks = ["value_network" if isinstance(twin.loss, DDPGLoss) else "qvalue_network"]
            networks += ["actor_network"] if twin.model.deterministic else []
            pairs = list(zip(twin.trunk.parameters(), twin.target_trunk.parameters(), strict=True))
            for network in networks:
                own, target = (getattr(twin.loss, f"{prefix}{network}_params") for prefix in ("", "target_"))
                pairs += [(own[key], target[key]) for key in own.keys(True, True)]
        for own, target in pairs:
            own.copy_(target)
    parameters = parameters_of(twin.models()[0])
    deterministic = (twin.like if isinstance(twin, Learner) else twin.model).deterministic
    return {name: value for name, value in parameters.items() if deterministic or "policy" not in part_of(name)}


# ------------------------------------------------------------------------------------ Learner against TorchRL's losses


def constant_critics(model: ActorQValue) -> None:
    """Critics of an initialisation that no sampler gives, each of its own."""
    for name, value in (("value", 0.05), ("twin", -0.1)):
        for part in (name, f"{name}_head"):
            if part in model.module:
                for index, parameter in enumerate(model.module[part].parameters()):
                    nn.init.constant_(parameter, value * (1 + index))


def compare(algorithm: str, model: ActorQValue, settings: Any, updates: int = 10) -> tuple[Learner, TorchRLLearner]:
    ours, theirs = Learner([model], settings), TorchRLLearner(model, settings)
    for step in range(updates):
        batch = make_batch(algorithm, step)
        torch.manual_seed(step)
        metrics = ours.update(batch, GlobalNoise())  # pyright: ignore[reportArgumentType]
        torch.manual_seed(step)
        of_torchrl = theirs.update(batch)
        assert all(value.shape == (1,) for value in (*metrics.values(), *of_torchrl.values()))
        assert_same(metrics, of_torchrl)
    assert_same(parameters_of(ours.models()[0]), parameters_of(theirs.models()[0]))
    return ours, theirs


@grid(algorithm=list(SETTINGS), k=[0, 1, 2], scales=[(0.0, 1.0), (1.0, 1.0), (0.5, 0.25), (1.0, 0.0)])
def test_updates_are_those_of_torchrls_losses(algorithm: str, k: int, scales: tuple[float, float]) -> None:
    policy_gradient, value_gradient = scales
    model = make_model(algorithm, k, policy_gradient=policy_gradient, value_gradient=value_gradient)
    ours, theirs = compare(algorithm, model, make_settings(algorithm), updates=16)

    targets, online = targets_of(ours), parameters_of(ours.models()[0])
    assert_same(targets, targets_of(theirs))
    lags = {name: (online[name] - value).abs().max().item() > 1e-3 for name, value in targets.items()}
    untrained = {"trunk"} if value_gradient == 0 == policy_gradient else set()
    assert {part_of(name) for name, lag in lags.items() if not lag} == untrained
    if algorithm in ("sac", "discrete_sac"):
        torch.testing.assert_close(ours.log_alpha.view(()), theirs.loss.log_alpha)  # pyright: ignore
        assert ours.log_alpha.item() != 0  # pyright: ignore


@each_algorithm
@pytest.mark.parametrize("k", [0, 1])
def test_critics_keep_an_initialisation_of_their_own(algorithm: str, k: int) -> None:
    model = make_model(algorithm, k, fill=constant_critics)
    settings = make_settings(algorithm)
    for learner in (Learner([model], settings), TorchRLLearner(model, settings)):
        assert_same(parameters_of(learner.models()[0]), parameters_of(model), rtol=0, atol=0)
    compare(algorithm, model, settings, updates=8)


@each_algorithm
def test_clipping_delay_and_a_fixed_temperature_as_torchrl(algorithm: str) -> None:
    departures = {"alpha": 0.3} if "sac" in algorithm else {"exploration_noise": 0.3}
    settings = make_settings(algorithm, max_grad_norm=0.05, policy_delay=3, gamma=0.9, adam_epsilon=1e-3, **departures)
    ours, theirs = compare(algorithm, make_model(algorithm, 1), settings, updates=9)
    assert ours.updates == theirs.updates == 9
    assert ours.alpha_optimizer is None and theirs.alpha_optimizer is None


@each_algorithm
def test_both_learners_act_alike(algorithm: str) -> None:
    model, settings = make_model(algorithm, 1), make_settings(algorithm)
    ours, theirs = Learner([model], settings), TorchRLLearner(model, settings)
    observation = torch.randn(1, 7, OBSERVATION)
    for act in (lambda learner: learner.act(observation), lambda learner: learner.act(observation, SeedNoise([3]))):
        torch.testing.assert_close(act(ours), act(theirs))
    drawn = [learner.random_actions(5, SeedNoise([3])) for learner in (ours, theirs)]
    torch.testing.assert_close(*drawn)
    assert ours.seeds == theirs.seeds == 1


@each_algorithm
def test_a_torchrl_learner_is_copied_and_restored_exactly(algorithm: str, tmp_path: Path) -> None:
    settings = make_settings(algorithm)
    learner = TorchRLLearner(make_model(algorithm, 1, policy_gradient=1.0), settings)
    for step in range(3):
        learner.update(make_batch(algorithm, step))
    twin = copy.deepcopy(learner)
    save_checkpoint(tmp_path / "one.pt", {"learner": learner.state_dict()})
    fresh = TorchRLLearner(make_model(algorithm, 1, seed=9, policy_gradient=1.0), settings)
    fresh.load_state_dict(load_checkpoint(tmp_path / "one.pt")["learner"])
    before = parameters_of(twin.models()[0])
    go_on = []
    for each in (learner, fresh):
        torch.manual_seed(7)
        go_on.append([each.update(make_batch(algorithm, step)) for step in range(3, 7)])
    assert_same(parameters_of(twin.models()[0]), before, rtol=0, atol=0)  # the copy is its own
    torch.manual_seed(7)
    go_on.append([twin.update(make_batch(algorithm, step)) for step in range(3, 7)])
    for metrics, *others in zip(*go_on, strict=True):
        for other in others:
            assert_same(metrics, other, rtol=0, atol=0)
    for other in (fresh, twin):
        assert_same(parameters_of(learner.models()[0]), parameters_of(other.models()[0]), rtol=0, atol=0)
        assert other.updates == 7


class Pixels(nn.Module):
    """(*B, 1, 6, 6) -> (*B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        out = torch.tanh(self.convolution(pixels.float().reshape(-1, 1, 6, 6)))
        return out.reshape(*pixels.shape[:-3], 8)


@pytest.mark.parametrize("k", [0, 1])
@each_algorithm
def test_convolutions_learn_with_torchrl(algorithm: str, k: int) -> None:
    discrete = algorithm == "discrete_sac"

    def value_blocks() -> list[nn.Module]:
        return [Pixels(), *mlp_blocks(8 + (0 if discrete else ACTION), [5])]

    pixels = torch.zeros(1, 6, 6, dtype=torch.uint8)
    network = separate(
        [Pixels(), *mlp_blocks(8, [4])],
        value_blocks(),
        at=k,
        policy_gradient=0.0,
        value_keys=[] if discrete else ["action"],
        example={"observation": pixels, "action": torch.zeros(ACTION)},
    )
    model = actor_qvalue(
        network,
        OneHot(ACTIONS) if discrete else Bounded(LOW, HIGH),
        twin_blocks=None if algorithm == "ddpg" else value_blocks(),
        deterministic=algorithm in ("td3", "ddpg"),
    )
    settings = make_settings(algorithm)
    learner = TorchRLLearner(model, settings)
    rows = torch.randint(0, 256, (1, BATCH, 36)).float()  # as the replay gives frames: flat and float
    batch = make_batch(algorithm, 0)._replace(observation=rows, next_observation=rows.flip(1))
    learner.update(batch)
    learner.update(batch)
    assert learner.act(rows, SeedNoise([0])).shape == (1, BATCH, 1 if discrete else ACTION)
    before, after = parameters_of(model), parameters_of(learner.models()[0])
    assert all((before[name] != after[name]).any() for name in before)


# --------------------------------------------------------------------------------------- Learner against plain torch


class Plain:
    """SAC and TD3 of one agent, as a reader would write them, with networks of nn.Sequential and torch.optim.Adam.

    Its batches hold actions in the task's units, between `bounds`, and its critics read them in [-1, 1]. It has the
    model's own precision.
    """

    def __init__(self, model: ActorQValue, settings: Any, k: int, policy_gradient: float, bounds=(LOW, HIGH)):
        self.low, self.high = bounds

        def stack(size: int, widths: Sequence[int], out: int | None) -> nn.Sequential:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Linear(size, width), nn.Tanh()]
                size = width
            return nn.Sequential(*layers, *([] if out is None else [nn.Linear(size, out)]))

        width = OBSERVATION if k == 0 else WIDTH
        self.trunk = stack(OBSERVATION, [WIDTH] * k, None)
        self.policy = stack(width, [WIDTH] * (3 - k), ACTION if model.deterministic else 2 * ACTION)
        self.q1, self.q2 = (stack(width + ACTION, [5, 5], 1) for _ in range(2))
        nets = nn.ModuleList([self.trunk, self.policy, self.q1, self.q2]).to(next(model.parameters()).dtype)
        for own, parameter in zip(nets.parameters(), model.parameters(), strict=True):
            own.data.copy_(parameter.data)
        self.nets = nets
        self.t_trunk, self.t_policy, self.t_q1, self.t_q2 = copy.deepcopy(nets)
        self.policy_gradient = policy_gradient
        self.settings = settings
        self.log_alpha = torch.zeros((), requires_grad=True, dtype=next(model.parameters()).dtype)
        trunk, values = [*self.trunk.parameters()], [*self.q1.parameters(), *self.q2.parameters()]
        self.critic_optimizer = self.adam(trunk=trunk, value=values)
        self.policy_optimizer = self.adam(trunk=trunk if policy_gradient else [], policy=[*self.policy.parameters()])
        self.alpha_optimizer = self.adam(temperature=[self.log_alpha])
        self.updates = 0

    def adam(self, **parts: list[Tensor]) -> torch.optim.Adam:
        own, all_alike = self.settings.learning_rates, self.settings.learning_rate
        groups = [{"params": p, "lr": own.get(name, all_alike), "name": name} for name, p in parts.items() if p]
        return torch.optim.Adam(groups)

    def fall(self, left: float, parts: Sequence[str]) -> None:
        """Set the rates of these parts to a share `left` of what they were at first."""
        for optimizer in (self.critic_optimizer, self.policy_optimizer, self.alpha_optimizer):
            for group in optimizer.param_groups:
                first = self.settings.learning_rates.get(group["name"], self.settings.learning_rate)
                group["lr"] = first * (left if group["name"] in parts else 1)

    def sample(self, hidden: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.policy(hidden).chunk(2, -1)
        normal = torch.distributions.Normal(loc, log_scale.clamp(-20, 2).exp())
        u = loc + normal.scale * eps
        log_prob = normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)  # the density of tanh u, in (-1, 1)
        return torch.tanh(u), log_prob.sum(-1, keepdim=True)

    def together(self, one: Tensor, other: Tensor) -> Tensor:
        """Two numbers' quantile q lies at q of the way from the lesser to the greater."""
        share = {"min": 0.0, "mean": 0.5}.get(self.settings.target_aggregation, self.settings.target_aggregation)
        return (1 - share) * torch.minimum(one, other) + share * torch.maximum(one, other)

    def update(self, batch: Transition, noise: Sequence[Tensor]) -> dict[str, float]:
        deterministic, s = isinstance(self.settings, TD3Settings), self.settings
        obs, action, reward, terminated, next_obs = (part[0] for part in batch)
        unit_action = (action - (self.low + self.high) / 2) / ((self.high - self.low) / 2)
        noise = list(noise)
        with torch.no_grad():
            target_hidden = self.t_trunk(next_obs)
            if deterministic:
                smoothing = (s.target_noise * noise.pop(0)).clamp(-s.target_noise_clip, s.target_noise_clip)
                next_action = (torch.tanh(self.t_policy(target_hidden)) + smoothing).clamp(-1, 1)
                entropy_bonus = 0.0
            else:
                next_action, log_prob = self.sample(self.trunk(next_obs), noise.pop(0))
                entropy_bonus = -self.log_alpha.exp() * log_prob
            x = torch.cat([target_hidden, next_action], -1)
            value = self.together(self.t_q1(x), self.t_q2(x)) + entropy_bonus
            target = reward + s.gamma * (1 - terminated) * value
        hidden = self.trunk(obs)
        x = torch.cat([hidden, unit_action], -1)
        q1, q2 = self.q1(x), self.q2(x)
        loss = functional.mse_loss(q1, target) + functional.mse_loss(q2, target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        metrics = {"loss/critic": loss.item(), "value/mean": (q1.mean() + q2.mean()).item() / 2}
        self.updates += 1
        if self.updates % s.policy_delay:
            return metrics

        hidden = self.trunk(obs)  # after the critic's step, as in SAC-AE and DrQ
        reads = self.policy_gradient * hidden + (1 - self.policy_gradient) * hidden.detach()
        if deterministic:
            actor_loss = -self.q1(torch.cat([hidden.detach(), torch.tanh(self.policy(reads))], -1)).mean()
        else:
            new_action, log_prob = self.sample(reads, noise.pop(0))
            x = torch.cat([hidden.detach(), new_action], -1)
            actor_loss = (self.log_alpha.exp().detach() * log_prob - torch.minimum(self.q1(x), self.q2(x))).mean()
            metrics |= {"policy/entropy": -log_prob.mean().item(), "policy/alpha": self.log_alpha.exp().item()}
        self.policy_optimizer.zero_grad()
        actor_loss.backward()
        self.policy_optimizer.step()
        metrics["loss/actor"] = actor_loss.item()
        if not deterministic:
            alpha_loss = -(self.log_alpha * (log_prob.detach() - ACTION)).mean()  # the target entropy is -A
            self.alpha_optimizer.zero_grad()
            alpha_loss.backward()
            self.alpha_optimizer.step()
        targets = [self.t_trunk, self.t_q1, self.t_q2, *([self.t_policy] if deterministic else [])]
        online = [self.trunk, self.q1, self.q2, *([self.policy] if deterministic else [])]
        with torch.no_grad():
            for target_net, net in zip(targets, online, strict=True):
                for t, p in zip(target_net.parameters(), net.parameters(), strict=True):
                    t.copy_((1 - s.tau) * t + s.tau * p)
        assert not noise
        return metrics


def compare_with_plain(
    learner: Learner, plain: Plain, algorithm: str, *, rtol: float = 1e-4, atol: float = 2e-6
) -> None:
    """Eight updates of both, from one start and with the same noise: metrics, parameters and targets."""
    dtype = next(plain.nets.parameters()).dtype
    for step in range(8):
        draws = 2 if algorithm == "sac" else 1
        noise = [torch.randn(BATCH, ACTION, dtype=dtype) for _ in range(draws)]
        # TD3 draws no noise at its policy's step
        batch = Transition(*(part.to(dtype) for part in make_batch(algorithm, step)))
        in_the_task = (plain.low + plain.high) / 2 + (plain.high - plain.low) / 2 * batch.action
        expected = plain.update(batch._replace(action=in_the_task), noise)
        metrics = learner.update(batch, GivenNoise(noise))  # pyright: ignore[reportArgumentType]
        assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
            expected, rel=rtol, abs=5 * atol
        )
    own = list(parameters_of(learner.models()[0]).values())
    for parameter, reference in zip(own, plain.nets.parameters(), strict=True):
        torch.testing.assert_close(parameter, reference.detach(), rtol=rtol, atol=atol)
    # Target networks are polyak averages, the trunk's too; SAC has no target policy.
    policy = [plain.t_policy] if algorithm == "td3" else []
    nets = nn.ModuleList([plain.t_trunk, *policy, plain.t_q1, plain.t_q2])
    for parameter, reference in zip(targets_of(learner).values(), nets.parameters(), strict=True):
        torch.testing.assert_close(parameter, reference.detach(), rtol=rtol, atol=atol)


@grid(algorithm=["sac", "td3"], k=[0, 1, 2], policy_gradient=[0.0, 0.5, 1.0])
def test_updates_are_those_of_plain_torch(algorithm: str, k: int, policy_gradient: float) -> None:
    model, settings = make_model(algorithm, k, policy_gradient=policy_gradient), make_settings(algorithm)
    compare_with_plain(Learner([model], settings), Plain(model, settings, k, policy_gradient), algorithm)


OWN_RATES = {"trunk": 3e-3, "policy": 2e-2, "value": 5e-3}


@grid(
    kind=[Learner, TorchRLLearner],
    algorithm=["sac", "td3"],
    cut=[(0, 1.0), (1, 0.0), (2, 1.0)],
    falls=[(), ("policy",), ("trunk", "policy", "value", "temperature")],
)
def test_each_part_learns_at_its_own_rate_as_in_plain_torch(
    kind: type, algorithm: str, cut: tuple[int, float], falls: Sequence[str]
) -> None:
    k, policy_gradient = cut
    rates = {**OWN_RATES, "temperature": 0.1} if algorithm == "sac" else OWN_RATES
    schedules = dict.fromkeys(set(falls) & set(rates), "linear")
    settings = make_settings(algorithm, learning_rates=rates, schedules=schedules)
    # TorchRLLearner casts observations to the example's type, float32.
    dtype, near = (torch.float64, 1e-10) if kind is Learner else (torch.float32, 2e-5)
    low, high = LOW.to(dtype), HIGH.to(dtype)
    model = make_model(algorithm, k, policy_gradient=policy_gradient, spec=Bounded(low, high)).to(dtype)
    learner = Learner([model], settings) if kind is Learner else TorchRLLearner(model, settings)
    plain = Plain(model, settings, k, policy_gradient, (low, high))
    for step in range(6):
        learner.anneal(1 - step / 8)
        plain.fall(1 - step / 8, falls)
        batch = Transition(*(part.to(dtype) for part in make_batch(algorithm, step)))
        in_the_task = batch._replace(action=(low + high) / 2 + (high - low) / 2 * batch.action)
        torch.manual_seed(step)
        noise = [torch.randn(BATCH, ACTION, dtype=dtype) for _ in range(2 if algorithm == "sac" else 1)]
        plain.update(in_the_task, noise)
        torch.manual_seed(step)  # TorchRL's losses draw from torch's generator
        learner.update(batch, GivenNoise(noise))  # pyright: ignore[reportArgumentType]
    for parameter, reference in zip(parameters_of(learner.models()[0]).values(), plain.nets.parameters(), strict=True):
        torch.testing.assert_close(parameter, reference.detach(), rtol=10 * near, atol=near)
    if algorithm == "sac":
        alpha = learner.log_alpha if isinstance(learner, Learner) else learner.loss.log_alpha
        torch.testing.assert_close(alpha.detach().view(()), plain.log_alpha.detach(), rtol=10 * near, atol=near)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("policy_gradient", [0.0, 1.0])
@pytest.mark.parametrize("bounds", [([-0.1, -0.1], [0.3, 0.3]), ([-0.01, 2.0], [0.01, 102.0])], ids=str)
def test_updates_in_small_and_mixed_units_are_those_of_plain_torch_in_float64(
    algorithm: str, k: int, policy_gradient: float, bounds: tuple[list[float], list[float]]
) -> None:
    low, high = (torch.tensor(side, dtype=torch.float64) for side in bounds)
    spec = Bounded(low, high)
    model = make_model(algorithm, k, policy_gradient=policy_gradient, spec=spec).double()
    settings = make_settings(algorithm)
    plain = Plain(model, settings, k, policy_gradient, (low, high))
    compare_with_plain(Learner([model], settings), plain, algorithm, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("policy_gradient", [0.0, 1.0])
def test_torchrls_losses_on_a_shared_trunk_are_plain_torch(algorithm: str, k: int, policy_gradient: float) -> None:
    model, settings = make_model(algorithm, k, policy_gradient=policy_gradient), make_settings(algorithm)
    learner, plain = TorchRLLearner(model, settings), Plain(model, settings, k, policy_gradient)
    for step in range(8):
        batch = make_batch(algorithm, step)
        torch.manual_seed(step)
        learner.update(batch)
        torch.manual_seed(step)
        draws = 2 if algorithm == "sac" else 1
        noise = [torch.randn(BATCH, ACTION) for _ in range(draws)]
        plain.update(batch._replace(action=(LOW + HIGH) / 2 + (HIGH - LOW) / 2 * batch.action), noise)
    own = list(parameters_of(learner.models()[0]).values())
    for parameter, reference in zip(own, plain.nets.parameters(), strict=True):
        torch.testing.assert_close(parameter, reference.detach(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
@pytest.mark.parametrize("aggregation", ["mean", 0.0, 0.25, 1])
def test_target_critics_are_aggregated_as_asked(algorithm: str, aggregation: str | float) -> None:
    model, settings = make_model(algorithm), make_settings(algorithm, target_aggregation=aggregation)
    compare_with_plain(Learner([model], settings), Plain(model, settings, 0, 0.0), algorithm)


def test_discrete_target_critics_are_aggregated_as_asked() -> None:
    low, high, mean = (
        Learner([make_model("discrete_sac")], make_settings("discrete_sac", target_aggregation=how))
        for how in ("min", 1.0, "mean")
    )
    targets = [each._target(make_batch("discrete_sac", 0), SeedNoise([0])) for each in (low, high, mean)]
    # The expectation over actions is linear, so the mean of the critics lies half-way; a step's end has no bootstrap.
    torch.testing.assert_close(targets[2], (targets[0] + targets[1]) / 2)
    assert (targets[0] < targets[1]).any() and (targets[0] <= targets[1]).all()


@each_algorithm
@pytest.mark.parametrize("kind", [Learner, TorchRLLearner])
def test_the_critics_loss_without_learning_is_that_of_an_update(algorithm: str, kind: type) -> None:
    learner = build(kind, make_model(algorithm), make_settings(algorithm))
    before = parameters_of(learner.models()[0])
    torch.manual_seed(0)
    loss = learner.critic_loss(make_batch(algorithm, 0), SeedNoise([0]))
    assert_same(parameters_of(learner.models()[0]), before, rtol=0, atol=0)
    torch.manual_seed(0)
    torch.testing.assert_close(loss, learner.update(make_batch(algorithm, 0), SeedNoise([0]))["loss/critic"])


# --------------------------------------------------------------------------------------------------- seeds as an axis


@grid(algorithm=list(SETTINGS), k=[0, 1], policy_gradient=[0.0, 1.0])
def test_each_seed_learns_as_it_would_alone(algorithm: str, k: int, policy_gradient: float) -> None:
    seeds = [5, 6, 7, 8]
    settings = make_settings(algorithm, max_grad_norm=0.1, policy_delay=2)
    models = [make_model(algorithm, k, seed, policy_gradient=policy_gradient) for seed in seeds]
    together, noise = Learner(models, settings), SeedNoise(seeds)
    alone = [(Learner([model], settings), SeedNoise([seed])) for model, seed in zip(models, seeds, strict=True)]
    for step in range(8):
        batch = make_batch(algorithm, step, seeds=4)
        batch.reward.mul_(
            torch.tensor([0.1, 1.0, 10.0, 100.0])[:, None, None]
        )  # each seed's gradient of a size of its own
        metrics = together.update(batch, noise)
        assert all(value.shape == (4,) for value in metrics.values())
        for s, (learner, own_noise) in enumerate(alone):
            own = learner.update(Transition(*(part[s : s + 1] for part in batch)), own_noise)
            assert_same({name: value[s : s + 1] for name, value in metrics.items()}, own, rtol=1e-3, atol=1e-5)
    for s, model in enumerate(together.models()):
        assert_same(parameters_of(model), parameters_of(alone[s][0].models()[0]), rtol=1e-3, atol=1e-5)
    if "sac" in algorithm:
        temperatures = together.log_alpha.detach().view(-1)  # pyright: ignore
        torch.testing.assert_close(temperatures, torch.cat([a.log_alpha.detach().view(-1) for a, _ in alone]))
        assert len(set(temperatures.tolist())) == 4
    observation = torch.randn(4, 6, OBSERVATION)
    acted = together.act(observation, noise)
    for s, (learner, own_noise) in enumerate(alone):
        torch.testing.assert_close(
            acted[s : s + 1], learner.act(observation[s : s + 1], own_noise), rtol=1e-3, atol=1e-4
        )


def test_a_seed_is_clipped_by_its_own_norm() -> None:
    # One Adam step says nothing of a gradient's size, so a large epsilon makes it one of gradient descent: lr g / eps.
    settings = make_settings("ddpg", max_grad_norm=0.1, adam_epsilon=1e4, learning_rate=1e4)
    models = [make_model("ddpg", 0, seed) for seed in range(2)]
    learner = Learner(models, settings)
    batch = make_batch("ddpg", 0, seeds=2)
    batch.reward.mul_(torch.tensor([1000.0, 0.0])[:, None, None])
    before = [torch.cat([p.flatten() for n, p in parameters_of(m).items() if "value" in n]) for m in learner.models()]
    learner.update(batch, SeedNoise([0, 1]))
    after = [torch.cat([p.flatten() for n, p in parameters_of(m).items() if "value" in n]) for m in learner.models()]
    steps = [(new - old).norm().item() for new, old in zip(after, before, strict=True)]
    assert steps[0] == pytest.approx(0.1, rel=1e-3)
    assert 1e-3 < steps[1] <= 0.1001


# ------------------------------------------------------------------------------------------- what goes out and comes in


@each_algorithm
def test_a_checkpoint_goes_on_identically(algorithm: str, tmp_path: Path) -> None:
    settings, seeds = make_settings(algorithm), [1, 2]
    learner = Learner([make_model(algorithm, 1, seed, policy_gradient=1.0) for seed in seeds], settings)
    noise = SeedNoise(seeds)
    for step in range(3):
        learner.update(make_batch(algorithm, step, 2), noise)
    save_checkpoint(tmp_path / "one.pt", {"learner": learner.state_dict(), "noise": noise.state_dict()})
    twin, twin_noise = copy.deepcopy(learner), copy.deepcopy(noise.state_dict())
    fresh = Learner([make_model(algorithm, 1, 50 + seed, policy_gradient=1.0) for seed in seeds], settings)
    state = load_checkpoint(tmp_path / "one.pt")
    fresh.load_state_dict(state["learner"])
    fresh_noise = SeedNoise([0, 0])
    fresh_noise.load_state_dict(state["noise"])

    before = [parameters_of(model) for model in twin.models()]
    expected = [learner.update(make_batch(algorithm, step, 2), noise) for step in range(3, 8)]
    for model, own in zip(twin.models(), before, strict=True):
        assert_same(parameters_of(model), own, rtol=0, atol=0)  # the copy is its own
    noise.load_state_dict(twin_noise)
    for other, other_noise in ((fresh, fresh_noise), (twin, noise)):
        for step in range(3, 8):
            metrics = other.update(make_batch(algorithm, step, 2), other_noise)
            assert_same(metrics, expected[step - 3], rtol=0, atol=0)
        assert other.updates == 8
        for a, b in zip(other.models(), learner.models(), strict=True):
            assert_same(parameters_of(a), parameters_of(b), rtol=0, atol=0)


def test_a_state_is_a_copy_or_survives_the_next_update(tmp_path: Path) -> None:
    learner = Learner([make_model("sac")], make_settings("sac"))
    save_checkpoint(tmp_path / "one.pt", learner.state_dict())
    start = parameters_of(learner.models()[0])
    learner.update(make_batch("sac", 0), SeedNoise([0]))
    learner.load_state_dict(load_checkpoint(tmp_path / "one.pt"))
    assert_same(parameters_of(learner.models()[0]), start, rtol=0, atol=0)
    assert learner.log_alpha.item() == 0 and learner.updates == 0  # pyright: ignore


@each_algorithm
@pytest.mark.parametrize("k", [0, 2])
def test_models_compute_what_the_stacked_networks_do(algorithm: str, k: int) -> None:
    learner = Learner([make_model(algorithm, k, seed) for seed in range(3)], make_settings(algorithm))
    for step in range(4):
        learner.update(make_batch(algorithm, step, 3), SeedNoise(range(3)))
    observation, discrete = torch.randn(3, 6, OBSERVATION), algorithm == "discrete_sac"
    action = None if discrete else learner.random_actions(6, SeedNoise(range(3)))
    hidden = learner.trunk(observation)
    inputs = [hidden] if action is None else [hidden, (action - (LOW + HIGH) / 2) / ((HIGH - LOW) / 2)]
    rows = [x.repeat(learner.critics, 1, 1) for x in inputs]
    values = learner.critic_head(learner.critic_body(*rows)).unflatten(0, (learner.critics, 3))
    modes = learner.act(observation)
    for s, model in enumerate(learner.models()):
        assert isinstance(model, ActorQValue)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            out = model.get_policy_operator()(observation=observation[s])
        chosen = (out if isinstance(out, Tensor) else out[0]).detach()
        torch.testing.assert_close(chosen[:, None] if discrete else chosen, modes[s])
        given = {"observation": observation[s]} | ({} if action is None else {"action": action[s]})
        for q, operator in enumerate(model.get_qvalue_operators()):
            torch.testing.assert_close(operator(**given), values[q, s])


def test_learning_leaves_the_models_it_was_given_as_they_were() -> None:
    model = make_model("sac", 1, policy_gradient=1.0)
    before = copy.deepcopy(parameters_of(model))
    for learner in (Learner([model], make_settings("sac")), TorchRLLearner(model, make_settings("sac"))):
        learner.update(make_batch("sac", 0), SeedNoise([0]))
    assert_same(parameters_of(model), before, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------------- acting


def test_log_probability_is_that_of_torchrls_tanh_normal() -> None:
    loc, log_scale, eps = torch.randn(3, 50, 2, dtype=torch.float64)
    loc.requires_grad_()
    action, log_prob = squashed_normal(loc, log_scale.exp(), eps)
    assert action.shape == (50, 2) and log_prob.shape == (50, 1)
    assert (action.abs() < 1).all()
    expected = TanhNormal(loc, log_scale.exp()).log_prob(action)
    torch.testing.assert_close(log_prob[:, 0], expected, rtol=1e-6, atol=1e-6)
    # In other units the log-probability is less by the logarithms of half the ranges.
    low, high = torch.tensor([-2.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 9.0], dtype=torch.float64)
    there = TanhNormal(loc, log_scale.exp(), low=low, high=high).log_prob((low + high) / 2 + (high - low) / 2 * action)
    torch.testing.assert_close(log_prob[:, 0] - math.log(1.25 * 4), there, rtol=1e-6, atol=1e-6)
    # With the noise held fixed the gradient flows through the action too.
    (gradient,) = torch.autograd.grad(log_prob.sum(), loc)
    torch.testing.assert_close(gradient, 2 * torch.tanh(loc + log_scale.exp() * eps).detach())


def test_log_probability_stays_finite_where_the_tanh_saturates() -> None:
    loc = torch.tensor([[40.0, -40.0]], requires_grad=True)
    action, log_prob = squashed_normal(loc, torch.ones(1, 2), torch.zeros(1, 2))
    assert action.tolist() == [[1.0, -1.0]]
    # -log sqrt(2 pi) of each, and log(1 - tanh^2 u) = 2 (log 2 - |u|)
    expected = 2 * (-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 40))
    assert log_prob.item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.grad(log_prob.sum(), loc)[0].isfinite().all()


def set_logits(model: ActorQValue, logits: Sequence[float]) -> None:
    weight, bias = model.policy_layer.parameters()
    nn.init.zeros_(weight)
    with torch.no_grad():
        bias.copy_(torch.tensor(logits))


@pytest.mark.parametrize("kind", [Learner, TorchRLLearner])
def test_discrete_actions_come_as_often_as_the_policy_says(kind: type) -> None:
    model = make_model("discrete_sac")
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    set_logits(model, (probabilities.log() + 3).tolist())
    learner = kind([model] if kind is Learner else model, make_settings("discrete_sac"))
    count = 40_000
    actions = learner.act(torch.zeros(1, count, OBSERVATION), SeedNoise([0]))
    assert actions.shape == (1, count, 1) and actions.dtype == torch.int64
    frequencies = torch.bincount(actions.flatten(), minlength=4) / count
    deviation = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequencies - probabilities).abs() < 4 * deviation).all()
    assert (learner.act(torch.zeros(1, 5, OBSERVATION)) == 3).all()  # the mode


def test_sampled_actions_have_the_moments_of_the_policy() -> None:
    model = make_model("sac")
    set_logits(model, [0.5, -0.5, math.log(0.3), math.log(0.9)])
    learner = Learner([model], make_settings("sac"))
    actions = learner.act(torch.zeros(1, 40_000, OBSERVATION), SeedNoise([0]))
    u = torch.atanh((actions[0] - torch.tensor([0.0, 3.0])) / 2)
    torch.testing.assert_close(u.mean(0), torch.tensor([0.5, -0.5]), rtol=0, atol=0.05)
    torch.testing.assert_close(u.std(0), torch.tensor([0.3, 0.9]), rtol=0.03, atol=0)
    mode = learner.act(torch.zeros(1, 1, OBSERVATION))[0, 0]
    torch.testing.assert_close(mode, torch.tensor([2 * math.tanh(0.5), 3 - 2 * math.tanh(0.5)]))


@pytest.mark.parametrize("algorithm", ["td3", "ddpg"])
def test_exploration_stays_within_the_bounds_and_has_its_scale(algorithm: str) -> None:
    model = make_model(algorithm)
    set_logits(model, [0.0, 0.0])  # the middle: 0 and 3
    learner = Learner([model], make_settings(algorithm, exploration_noise=0.1))
    observation = torch.zeros(1, 20_000, OBSERVATION)
    explored = learner.act(observation, SeedNoise([0]))[0]
    torch.testing.assert_close(explored.mean(0), torch.tensor([0.0, 3.0]), rtol=0, atol=0.01)
    torch.testing.assert_close(explored.std(0), torch.tensor([0.2, 0.2]), rtol=0.03, atol=0)  # 0.1 of half the range, 2
    learner = Learner([model], make_settings(algorithm, exploration_noise=5.0))
    explored = learner.act(observation, SeedNoise([0]))[0]
    assert (explored >= LOW).all() and (explored <= HIGH).all()
    assert (explored == HIGH).any(0).all() and (explored == LOW).any(0).all()
    torch.testing.assert_close(learner.act(observation)[0], torch.tensor([0.0, 3.0]).expand(20_000, 2))


@each_algorithm
def test_random_actions_fill_the_space(algorithm: str) -> None:
    learner = Learner([make_model(algorithm, 0, seed) for seed in range(2)], make_settings(algorithm))
    actions = learner.random_actions(20_000, SeedNoise([0, 1]))
    if algorithm == "discrete_sac":
        assert actions.shape == (2, 20_000, 1)
        assert torch.bincount(actions.flatten()).tolist() == pytest.approx([10_000] * 4, rel=0.05)
    else:
        assert actions.shape == (2, 20_000, ACTION)
        torch.testing.assert_close(actions.amin((0, 1)), LOW, rtol=0, atol=0.01)
        torch.testing.assert_close(actions.amax((0, 1)), HIGH, rtol=0, atol=0.01)
    assert (actions[0] != actions[1]).any()


# ----------------------------------------------------------------------------------------------------- the shared trunk


def count_passes(module: nn.Module) -> list[int]:
    passes: list[int] = []
    module.register_forward_hook(lambda *_: passes.append(1))
    return passes


@each_algorithm
@pytest.mark.parametrize("policy_gradient", [0.0, 1.0])
@pytest.mark.parametrize("kind", [Learner, TorchRLLearner])
def test_the_trunk_runs_once_per_need(algorithm: str, policy_gradient: float, kind: type) -> None:
    model = make_model(algorithm, 1, policy_gradient=policy_gradient)
    settings = make_settings(algorithm, policy_delay=1)
    learner = kind([model] if kind is Learner else model, settings)
    online = count_passes(learner.trunk)
    target = count_passes(learner.target["trunk"] if kind is Learner else learner.target_trunk)
    learner.update(make_batch(algorithm, 0), SeedNoise([0]))
    assert len(target) == 1
    # The observation; for SAC, the next one, where today's policy acts; and again after the critic's step.
    assert len(online) == 1 + ("sac" in algorithm) + 1
    # A trunk that nothing trains gives the same features again, and is not run for them.
    model = make_model(algorithm, 1, policy_gradient=0.0, value_gradient=0.0)
    learner = kind([model] if kind is Learner else model, settings)
    online = count_passes(learner.trunk)
    learner.update(make_batch(algorithm, 0), SeedNoise([0]))
    assert len(online) == 1 + ("sac" in algorithm)


@each_algorithm
@pytest.mark.parametrize("kind", [Learner, TorchRLLearner])
def test_who_trains_the_trunk(algorithm: str, kind: type) -> None:
    def moved(policy_gradient: float, value_gradient: float, delay: int) -> bool:
        model = make_model(algorithm, 1, policy_gradient=policy_gradient, value_gradient=value_gradient)
        learner = kind([model] if kind is Learner else model, make_settings(algorithm, policy_delay=delay))
        learner.update(make_batch(algorithm, 0), SeedNoise([0]))
        before, after = parameters_of(model), parameters_of(learner.models()[0])
        return any((before[name] != after[name]).any() for name in before if part_of(name) == "trunk")

    assert moved(0.0, 1.0, delay=2)  # the critic alone
    assert not moved(1.0, 0.0, delay=2)  # the policy, but not at its step yet
    assert moved(1.0, 0.0, delay=1)  # the policy alone
    assert not moved(0.0, 0.0, delay=1)


@each_algorithm
def test_the_policys_part_of_the_trunks_gradient_is_scaled(algorithm: str) -> None:
    # A large epsilon makes Adam's first step lr g / eps, so what the policy adds is proportional to its scale.
    def step(scale: float) -> Tensor:
        model = make_model(algorithm, 1, policy_gradient=scale, value_gradient=0.0)
        learner = Learner([model], make_settings(algorithm, adam_epsilon=1e4, learning_rate=1e4, policy_delay=1))
        learner.update(make_batch(algorithm, 0), SeedNoise([0]))
        after = parameters_of(learner.models()[0])
        moved = [after[name] - value for name, value in parameters_of(model).items() if part_of(name) == "trunk"]
        return torch.cat([part.flatten() for part in moved])

    full, half = step(1.0), step(0.5)
    assert full.abs().max() > 1e-4
    torch.testing.assert_close(half, full / 2, rtol=1e-2, atol=1e-6)


@each_algorithm
def test_the_target_trunk_is_a_polyak_average(algorithm: str) -> None:
    settings = make_settings(algorithm, tau=0.25, policy_delay=2)
    learner = Learner([make_model(algorithm, 2)], settings)
    expected = {name: value.clone() for name, value in learner.trunk.state_dict().items()}
    for step in range(6):
        learner.update(make_batch(algorithm, step), SeedNoise([step]))
        if step % 2:  # the second, fourth and sixth update are the policy's
            for name, online in learner.trunk.state_dict().items():
                expected[name] = 0.75 * expected[name] + 0.25 * online
    assert_same(dict(learner.target["trunk"].state_dict()), expected, rtol=1e-5, atol=1e-7)
    assert any((expected[name] - online).abs().max() > 1e-3 for name, online in learner.trunk.state_dict().items())


# --------------------------------------------------------------------------------------------------------------- errors


def build(kind: type, model: ActorQValue, settings: OffPolicySettings) -> Any:
    return kind([model] if kind is Learner else model, settings)


@pytest.mark.parametrize("kind", [Learner, TorchRLLearner])
@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("td3", "sac", "stochastic policy"),
        ("ddpg", "td3", "twin critic"),
        ("sac", "td3", "deterministic policy"),
        ("sac", "ddpg", "deterministic policy"),
        ("discrete_sac", "td3", "deterministic policy"),
    ],
)
def test_a_model_of_another_algorithm_is_refused(kind: type, model: str, settings: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"model must have .*{message}"):
        build(kind, make_model(model), make_settings(settings))


@pytest.mark.parametrize("kind", [Learner, TorchRLLearner])
@pytest.mark.parametrize("side", ["policy", "value"])
def test_further_keys_are_refused(kind: type, side: str) -> None:
    sizes = {"policy": 3 if side == "policy" else 0, "value": 3 if side == "value" else 0}
    network = separate(
        mlp_blocks(OBSERVATION + sizes["policy"], [4]),
        mlp_blocks(OBSERVATION + ACTION + sizes["value"], [4]),
        at=0,
        policy_keys=["goal"] if side == "policy" else [],
        value_keys=["action", "goal"] if side == "value" else ["action"],
        example=EXAMPLE | {"goal": torch.zeros(3)},
    )
    model = actor_qvalue(network, Bounded(LOW, HIGH), deterministic=True)
    with pytest.raises(ValueError, match=r"must .*read the observation.*goal"):
        build(kind, model, DDPGSettings())


def test_models_that_do_not_go_together_are_refused() -> None:
    settings = make_settings("sac")
    with pytest.raises(ValueError, match="at least one"):
        Learner([], settings)
    with pytest.raises(ValueError, match="one architecture"):
        Learner([make_model("sac", 1), make_model("sac", 2)], settings)
    with pytest.raises(ValueError, match="twin critic"):
        Learner([make_model("td3"), make_model("ddpg")], make_settings("td3"))


def test_twin_critics_of_two_architectures_are_refused() -> None:
    network = separate(
        mlp_blocks(OBSERVATION, [4]),
        mlp_blocks(OBSERVATION + ACTION, [4]),
        at=0,
        value_keys=["action"],
        example=EXAMPLE,
    )
    model = actor_qvalue(network, Bounded(LOW, HIGH), twin_blocks=mlp_blocks(OBSERVATION + ACTION, [6]))
    for kind in (Learner, TorchRLLearner):
        with pytest.raises(ValueError, match="one architecture"):
            build(kind, model, SACSettings())


def test_what_torchrls_losses_cannot_do_is_refused() -> None:
    def deterministic(twin: bool, spec: Bounded) -> ActorQValue:
        blocks = mlp_blocks(OBSERVATION, [4]), mlp_blocks(OBSERVATION + ACTION, [4])
        network = separate(*blocks, at=0, value_keys=["action"], example=EXAMPLE)
        twin_blocks = mlp_blocks(OBSERVATION + ACTION, [4]) if twin else None
        return actor_qvalue(network, spec, twin_blocks=twin_blocks, deterministic=True)

    with pytest.raises(ValueError, match="one critic"):
        TorchRLLearner(deterministic(True, Bounded(LOW, HIGH)), DDPGSettings())
    with pytest.raises(ValueError, match=r"target_noise=0\.2"):
        TorchRLLearner(deterministic(False, Bounded(LOW, HIGH)), DDPGSettings(target_noise=0.2))
    with pytest.raises(ValueError, match="target_aggregation must be min in TorchRL's losses; got 'mean'"):
        TorchRLLearner(make_model("td3"), TD3Settings(target_aggregation="mean"))
    with pytest.raises(ValueError, match="settings must be SACSettings, TD3Settings or DDPGSettings"):
        TorchRLLearner(make_model("sac"), OffPolicySettings())
