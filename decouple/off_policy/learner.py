"""S agents of one architecture that learn as one batch: SAC, discrete SAC, TD3 and DDPG in plain torch.

    learner = Learner([make_model(seed) for seed in seeds], SACSettings())
    action = learner.act(observation, noise)                        # (S, N, O) -> (S, N, A)
    losses = learner.update(replay.sample(indices), noise)          # one gradient step of each agent
    actors = learner.models()                                       # each agent as a model of its own

The equations are those of TorchRL's `SACLoss`, `DiscreteSACLoss`, `TD3Loss` and `DDPGLoss`; tests compare each update
with theirs. Losses work on actions in [-1, 1]: critics read them, noise is added to them, and SAC's entropy is measured
in that unit. `act` and its like return actions in the task's units, and a `Replay` converts them to [-1, 1].

Plain tensors save time: no TensorDict per pass, one product for both critics of all agents, no gradients of critics in
the policy's loss. `decouple.off_policy.torchrl_learner` does the same with TorchRL's own losses.

The cut's gradient scales tell which networks train a shared trunk: with 0 for the policy and 1 for the value, as in
SAC-AE and DrQ, the critic alone. An update runs the trunk on the observations, and once more for a policy step, since
the critic's step has changed it (so do SAC-AE and DrQ; DrQ-v2 gives the policy the features from before). The target
trunk runs on the next observations; for SAC the trunk runs on them too.

SAC: Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905. Discrete SAC: Christodoulou 2019,
https://arxiv.org/abs/1910.07207. TD3: Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477. DDPG: Lillicrap et al.
2016, https://arxiv.org/abs/1509.02971. SAC-AE: Yarats et al. 2021, https://arxiv.org/abs/1910.01741. DrQ: Kostrikov et
al. 2021, https://arxiv.org/abs/2004.13649. DrQ-v2: Yarats et al. 2022, https://arxiv.org/abs/2107.09645.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from decouple.checks import checked
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.distributions import squashed_normal
from decouple.networks.stacking import clip_per_seed, stack, unstack
from decouple.off_policy.acting import Acting
from decouple.off_policy.critics import Critics, frozen_rows, policy_network
from decouple.off_policy.flat_adam import FlatAdam, FlatParameters
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings
from decouple.runs.learning_rates import Rate, rate_of
from decouple.seeding import SeedNoise

__all__ = ["Learner"]


class Learner:
    """S agents with their target networks and optimizers.

    Args:
        models: one model per seed, from `actor_qvalue`, of one architecture of linear layers; they are copied.
        settings: the algorithm's settings: `SACSettings`, `TD3Settings` or `DDPGSettings`.

    Raises:
        ValueError: models that the algorithm cannot train or that cannot be stacked.
    """

    @checked()
    def __init__(self, models: Sequence[ActorQValue], settings: OffPolicySettings):
        if not models:
            raise ValueError("models must hold at least one model; got none")
        for model in models:
            settings.check_model(model)
        self.settings, self.seeds = settings, len(models)
        self.like = copy.deepcopy(models[0])
        self.space, self.critics, self.at = self.like.action_space, self.like.critics, self.like.at
        further = {*self.like.policy.keys, *self.like.value.keys} - {"action"}
        if further:
            raise ValueError(f"models must read the observation and the action alone; got {sorted(further)} too")
        self.cut = self.like.cut
        first = next(self.like.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.rated: list[tuple[FlatAdam, list[Rate]]] = []
        self._make_networks(models)
        self._make_temperature()
        explores = settings.exploration_noise if isinstance(settings, DDPGSettings) else None
        self.acting = Acting(self.space, explores, self.device)
        self.ones = torch.ones(self.seeds, device=self.device)
        self.updates = 0

    def _make_networks(self, models: Sequence[ActorQValue]) -> None:
        """Stack the models, copy the target networks, flatten the parameters, make an optimizer per group."""
        self.online = nn.ModuleDict({name: stack(alike) for name, alike in _parts(models).items()})
        self.trunk, self.policy = self.online["trunk"], self.online["policy"]
        self.critic_body, self.critic_head = self.online["body"], self.online["head"]
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        flat, lagging = _flat_groups(self.online), _flat_groups(self.target)
        # TD3 and DDPG read a target policy; SAC uses the current policy.
        followed = [group for group in flat if len(flat[group]) and (group != "policy" or self.like.deterministic)]
        self.follow = [(lagging[group].values.detach(), flat[group].values.detach()) for group in followed]
        self.act_on = policy_network(self.policy)
        self.target_policy = policy_network(self.target["policy"])
        self.critic = Critics(self.critic_body, self.critic_head, self.critics, self.seeds)
        self.target_critic = Critics(self.target["body"], self.target["head"], self.critics, self.seeds)
        climbed = 1 if self.like.deterministic else self.critics  # TD3's policy climbs its first critic
        frozen = (frozen_rows(part, climbed * self.seeds) for part in (self.critic_body, self.critic_head))
        self.frozen_critic = Critics(*frozen, climbed, self.seeds)
        trunk = {"trunk": flat["trunk"]} if self.at else {}
        self.critic_optimizer = self._adam(value=flat["critic"], **(trunk if self.cut.value_gradient > 0 else {}))
        self.policy_optimizer = self._adam(policy=flat["policy"], **(trunk if self.cut.policy_gradient > 0 else {}))
        # Gradients without autograd, where the critic is a plain perceptron that shares no trunk.
        fused = self.critic.fused
        own = not self.at and not self.space.discrete
        self.traces_critic = own and fused is not None and _same(fused.parameters, self.critic_optimizer.parameters)

    def _make_temperature(self) -> None:
        """Make SAC's temperature of each agent and, where it is learned, its Adam."""
        self.log_alpha = self.alpha_optimizer = None
        settings = self.settings
        if not isinstance(settings, SACSettings):
            return
        start = math.log(settings.alpha_init if settings.alpha is None else settings.alpha)
        self.log_alpha = nn.Parameter(torch.full((self.seeds, 1, 1), start, device=self.device, dtype=self.dtype))
        if settings.alpha is None:
            self.alpha_optimizer = self._adam(temperature=FlatParameters([self.log_alpha]))
        self.target_entropy = settings.entropy_target(self.space)

    # ------------------------------------------------------------------------------------------------------- acting

    @torch.no_grad()
    def act(self, observation: Tensor, noise: SeedNoise | None = None) -> Tensor:
        """Actions for the environment (S, N, A), or indices (S, N, 1); sampled with `noise`, the mode without."""
        to_policy, _ = self.cut(self.trunk(observation))
        return self.acting.choose(self.act_on(to_policy), noise)

    def random_actions(self, count: int, noise: SeedNoise) -> Tensor:
        """Uniform actions for the environment (S, count, A), or indices (S, count, 1)."""
        return self.acting.uniform(count, noise)

    @torch.no_grad()
    def judge(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]:
        """The action that the critics' targets assume, its value, and the bonus for its entropy.

        Returns:
            The action for the environment, (S, N, A) or (S, N, 1); the critics' value of it, aggregated as the targets
            are; and `-alpha log pi` for SAC, else 0, both (S, N, 1).
        """
        to_policy, to_value = self.cut(self.trunk(observation))
        action, log_prob = self.acting.draw(self.act_on(to_policy), noise)
        value = self._aggregated(self.critic(to_value, action))
        if self.space.discrete:
            value = value.gather(-1, action)
        entropy = torch.zeros_like(value) if self.log_alpha is None else -self.log_alpha.exp() * log_prob
        return self.acting.to_task(action), value, entropy

    # ------------------------------------------------------------------------------------------------------ learning

    def update(self, batch: Transition, noise: SeedNoise) -> dict[str, Tensor]:
        """One gradient step of every agent's critics; every `policy_delay`-th time also of its policy and the targets.

        Args:
            batch: transitions (S, B, ...), row s for agent s; continuous actions in [-1, 1], as from a `Replay`.
            noise: random numbers for the samples that the losses draw.

        Returns:
            Per seed, (S,): `loss/critic` (summed over critics), `value/mean`; at a policy step also `loss/actor` and,
            for SAC, `policy/entropy` and `policy/alpha`.
        """
        hidden = self.trunk(batch.observation)  # (S, B, H)
        values, pull_back = self._values(batch, hidden)  # (Q, S, B, 1)
        errors = values - self._target(batch, noise)
        self._step(self.critic_optimizer, pull_back(errors * (2 / errors.shape[2])))
        metrics = {"loss/critic": _squared(errors), "value/mean": values.mean((0, 2, 3))}
        self.updates += 1
        if self.updates % self.settings.policy_delay == 0:
            metrics |= self._update_policy(batch, hidden, noise)
            for target, online in self.follow:
                target.lerp_(online, self.settings.tau)
        return metrics

    def learn(self, replay: Replay, indices: Tensor, noise: SeedNoise, sums: MetricSums) -> None:
        """`update` on the replay's transitions at `indices`, (S, B); its metrics are added to `sums`."""
        sums.add(self.update(replay.sample(indices), noise))

    @torch.no_grad()
    def critic_loss(self, batch: Transition, noise: SeedNoise) -> Tensor:
        """Each agent's `loss/critic`, (S,), on these transitions, without learning from them."""
        values, _ = self._values(batch, self.trunk(batch.observation))
        return _squared(values - self._target(batch, noise))

    def _values(self, batch: Transition, hidden: Tensor) -> tuple[Tensor, Callable[[Tensor], Sequence[Any]]]:
        """The actions' values (Q, S, B, 1), and a function from their gradient to the parameters' gradients."""
        _, to_value = self.cut(hidden)
        if self.traces_critic:
            values, pull_back = self.critic.traced(to_value, batch.action)
            return values, lambda gradient: pull_back(gradient)[1]
        values = self.critic(to_value, batch.action)  # (Q, S, B, 1), discrete (Q, S, B, n)
        if self.space.discrete:
            values = values.gather(-1, batch.action.long().expand(self.critics, *batch.action.shape))
        return values.detach(), lambda gradient: torch.autograd.grad(values, self.critic_optimizer.parameters, gradient)

    @torch.no_grad()
    def _target(self, batch: Transition, noise: SeedNoise) -> Tensor:
        """The critics' targets `r + gamma (1 - terminated) V'(s')`, (S, B, 1)."""
        next_hidden = self.target["trunk"](batch.next_observation)  # (S, B, H)
        if self.like.deterministic:
            action = torch.tanh(self.target_policy(next_hidden))
            if self.settings.target_noise:
                clip = self.settings.target_noise_clip
                smoothing = noise.normal(*action.shape[1:]).mul_(self.settings.target_noise).clamp_(-clip, clip)
                action = torch.clamp(action + smoothing, -1, 1)
            value = self._aggregated(self.target_critic(next_hidden, action))
        else:
            out = self.act_on(self.trunk(batch.next_observation) if self.at else next_hidden)
            alpha = self.log_alpha.exp()  # pyright: ignore[reportOptionalMemberAccess]
            if self.space.discrete:
                log_probs = functional.log_softmax(out, -1)  # (S, B, n)
                soft = self._aggregated(self.target_critic(next_hidden)) - alpha * log_probs
                value = (log_probs.exp() * soft).sum(-1, keepdim=True)
            else:
                eps = noise.normal(*out[0].shape[1:])
                action, log_prob = squashed_normal(*out, eps)
                value = self._aggregated(self.target_critic(next_hidden, action)) - alpha * log_prob
        return torch.addcmul(batch.reward, 1 - batch.terminated, value, value=self.settings.gamma)

    def _aggregated(self, values: Tensor) -> Tensor:
        """The target critics' values (Q, ...), aggregated over Q: (...)."""
        how = self.settings.target_aggregation
        if how == "min":
            return values.amin(0)
        return values.mean(0) if how == "mean" else values.quantile(how, 0)

    def _update_policy(self, batch: Transition, hidden: Tensor, noise: SeedNoise) -> dict[str, Tensor]:
        """One step of the policy, with the critics fixed, and of SAC's temperature."""
        if self.at and (self.cut.policy_gradient > 0 or self.cut.value_gradient > 0):
            with torch.set_grad_enabled(self.cut.policy_gradient > 0):
                hidden = self.trunk(batch.observation)  # again, since the critic's step has changed the trunk
        to_policy, _ = self.cut(hidden)
        features = hidden.detach()
        out = self.act_on(to_policy)
        if self.like.deterministic:
            action = torch.tanh(out)
            value, of_action = self._climbed(features, action)  # (S, B, 1), (S, B, A)
            self._step(self.policy_optimizer, torch.autograd.grad(action, self.policy_optimizer.parameters, of_action))
            return {"loss/actor": -value.mean((1, 2))}
        alpha = self.log_alpha.detach().exp()  # pyright: ignore[reportOptionalMemberAccess]
        if self.space.discrete:
            log_probs = functional.log_softmax(out, -1)  # (S, B, n)
            probs = log_probs.exp()
            least = self.frozen_critic(features).amin(0)
            loss = (probs * (alpha * log_probs - least)).sum(-1).mean(1)  # (S,)
            log_prob = (probs * log_probs).detach().sum(-1, keepdim=True)
        else:
            eps = noise.normal(*out[0].shape[1:])
            action, log_prob = squashed_normal(*out, eps)
            least = self.frozen_critic(features, action).amin(0)
            loss = (alpha * log_prob - least).mean((1, 2))  # (S,)
        # The sum of the seeds' losses gives each seed the gradient of its own.
        self._step(self.policy_optimizer, torch.autograd.grad(loss, self.policy_optimizer.parameters, self.ones))
        mean_log_prob = log_prob.detach().mean(1, keepdim=True)  # (S, 1, 1)
        metrics = {
            "loss/actor": loss.detach(),
            "policy/entropy": -mean_log_prob.view(-1),
            "policy/alpha": alpha.view(-1),
        }
        if self.alpha_optimizer is not None:
            # The gradient of L = -log_alpha (log pi + target entropy), the loss of TorchRL and Stable-Baselines3.
            self.alpha_optimizer.step([-(mean_log_prob + self.target_entropy)])
        return metrics

    def _climbed(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The first critic's value of the actions, (S, B, 1), and the gradient of its negative mean, (S, B, A)."""
        if self.traces_critic:
            value, pull_back = self.frozen_critic.traced(features, action.detach())
            of_inputs, _ = pull_back(torch.full_like(value, -1 / value.shape[2]), of_input=True, of_parameters=False)
            assert of_inputs is not None  # since of_input=True
            return value[0], of_inputs[..., -action.shape[-1] :]
        leaf = action.detach().requires_grad_()
        value = self.frozen_critic(features, leaf)[0]
        (of_action,) = torch.autograd.grad(value, leaf, torch.full_like(value, -1 / value.shape[1]))
        return value.detach(), of_action

    def _step(self, optimizer: FlatAdam, gradients: Sequence[Tensor]) -> None:
        """Take an optimizer step on these gradients, each seed's clipped by its own norm if `max_grad_norm` is set."""
        if self.settings.max_grad_norm is not None:
            gradients, _ = clip_per_seed(gradients, self.settings.max_grad_norm, self.seeds)
        optimizer.step(gradients)

    def anneal(self, left: float) -> None:
        """Set scheduled learning rates for a share `left` of the training still to come."""
        for optimizer, rates in self.rated:
            optimizer.learning_rates[:] = [rate.at(left) for rate in rates]

    def _adam(self, **parts: FlatParameters) -> FlatAdam:
        """Adam on these parts' parameters, each by its learning rate."""
        rates = [rate_of(self.settings, part) for part in parts]
        optimizer = FlatAdam(list(parts.values()), [rate.start for rate in rates], self.settings.adam_epsilon)
        self.rated.append((optimizer, rates))
        return optimizer

    # ---------------------------------------------------------------------------------------------- models and state

    def weights(self) -> dict[str, Tensor]:
        """The learned parameters by name, each (C * S, ...) with C networks per agent, network by network."""
        alpha = {} if self.log_alpha is None else {"log_alpha": self.log_alpha}
        return {**dict(self.online.named_parameters()), **alpha}

    def models(self) -> list[ActorQValue]:
        """Each agent as a model of its own, with its current parameters."""
        models = [copy.deepcopy(self.like) for _ in range(self.seeds)]
        for name, alike in _parts(models).items():
            unstack(self.online[name], alike)
        return models

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "online": dict(self.online.state_dict()),
            "target": dict(self.target.state_dict()),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "updates": self.updates,
        }
        if self.log_alpha is not None:
            state["log_alpha"] = self.log_alpha.detach().clone()
        if self.alpha_optimizer is not None:
            state["alpha_optimizer"] = self.alpha_optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.updates = state["updates"]
        if self.log_alpha is not None:
            with torch.no_grad():
                self.log_alpha.copy_(state["log_alpha"])
        if self.alpha_optimizer is not None:
            self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])

    def __deepcopy__(self, memo: dict) -> Learner:
        twin = Learner(self.models(), self.settings)  # a plain copy would detach the fixed critics, which are views
        twin.load_state_dict(copy.deepcopy(self.state_dict(), memo))
        return twin


def _parts(models: Sequence[ActorQValue]) -> dict[str, list[nn.Module]]:
    """The modules to stack: all models' trunks, policies, critics; row q * S + s of critics is critic q of agent s."""
    critics = [model.critic_parts() for model in models]
    bodies, heads = zip(*(parts[name] for name in critics[0] for parts in critics), strict=True)
    return {
        "trunk": [model.trunk for model in models],
        "policy": [nn.Sequential(model.policy, model.policy_layer) for model in models],
        "body": list(bodies),
        "head": list(heads),
    }


def _flat_groups(networks: nn.ModuleDict) -> dict[str, FlatParameters]:
    """The flat parameters of trunk, policy and critic, each stepped by one optimizer and followed by one target."""
    groups = {"trunk": ["trunk"], "policy": ["policy"], "critic": ["body", "head"]}
    return {
        group: FlatParameters(p for n in names for p in networks[n].parameters()) for group, names in groups.items()
    }


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _squared(errors: Tensor) -> Tensor:
    """Mean squared error over the batch, summed over critics: (Q, S, B, 1) -> (S,)."""
    return errors.square().sum((0, 2, 3)) / errors.shape[2]
