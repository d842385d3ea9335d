"""One agent of any blocks that learns with TorchRL's own SACLoss, DiscreteSACLoss, TD3Loss or DDPGLoss.

    learner = TorchRLLearner(model, TD3Settings())
    action = learner.act(observation, noise)                        # (1, N, O) -> (1, N, A)
    losses = learner.update(replay.sample(indices), noise)          # one gradient step
    (actor,) = learner.models()

It replaces `decouple.off_policy.learner.Learner` for blocks that cannot be stacked (convolutions, a user's own), and
the tests compare `Learner` with it. The losses hold the branches after the cut; the trunk, online and target, runs
outside them, since TorchRL's losses copy their networks. An update steps the critics, then the policy on the new
critics, the temperature, the targets. The losses get the networks for actions in [-1, 1] (`ActorQValue.unit`), so that
entropy and noise are in that unit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.objectives import DDPGLoss, DiscreteSACLoss, LossModule, SACLoss, SoftUpdate, TD3Loss, ValueEstimators

from decouple.checks import checked
from decouple.networks.actor_qvalue import ActorQValue
from decouple.off_policy.acting import Acting
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings, TD3Settings
from decouple.runs.learning_rates import anneal, rate_groups
from decouple.seeding import SeedNoise

__all__ = ["TorchRLLearner"]

POLICY, VALUE = ("cut", "policy"), ("cut", "value")


class TorchRLLearner:
    """One agent with its target networks and optimizers; takes the place of a `Learner` of one seed.

    Args:
        model: a model from `actor_qvalue`; its blocks may be any that read the observation and, in critics, the action.
            It is copied.
        settings: the algorithm's settings: `SACSettings`, `TD3Settings` or `DDPGSettings`.

    Attributes:
        seeds: 1, the leading axis of all inputs and outputs.
        loss: TorchRL's loss; its parameters are the agent's, without the trunk's.
        updates: number of updates so far.

    Raises:
        ValueError: a model that the algorithm cannot train or that reads further keys; twin critics of different
            architectures; a target aggregation other than min; for DDPG, a twin or target noise.
    """

    seeds = 1

    @checked()
    def __init__(self, model: ActorQValue, settings: OffPolicySettings):
        settings.check_model(model)
        further = {*model.policy.keys, *model.value.keys} - {"action"}
        if further:
            raise ValueError(f"model must read the observation and the action alone; got {sorted(further)} too")
        if settings.target_aggregation != "min":
            raise ValueError(f"target_aggregation must be min in TorchRL's losses; got {settings.target_aggregation!r}")
        self.model, self.settings = copy.deepcopy(model), settings
        self.space, self.at = self.model.action_space, self.model.at
        self.device = next(self.model.parameters()).device
        self.trunk, self.cut = self.model.trunk, self.model.cut
        self.target_trunk = copy.deepcopy(self.trunk).requires_grad_(False)
        self.policy = nn.Sequential(self.model.policy, self.model.policy_layer)
        explores = settings.exploration_noise if isinstance(settings, DDPGSettings) else None
        self.acting = Acting(self.space, explores, self.device)
        self.attach_policy, self.attach_value = Attach(), Attach()
        self.loss: Any = self._loss()  # Any: TorchRL's losses have method names of their own
        self.loss.make_value_estimator(ValueEstimators.TD0, gamma=settings.gamma)
        self.target_updater = SoftUpdate(self.loss, tau=settings.tau)  # copies today's values into the targets
        trunk, cut = list(self.trunk.parameters()), self.cut
        values, policy = self._critic_values().parameters(), self.policy.parameters()
        of_critics = {"value": list(values), "trunk": trunk if cut.value_gradient > 0 else []}
        of_policy = {"policy": list(policy), "trunk": trunk if cut.policy_gradient > 0 else []}
        self.critic_parameters, self.policy_parameters = ([*chain(*of.values())] for of in (of_critics, of_policy))
        self.critic_optimizer, self.policy_optimizer = self._adam(of_critics), self._adam(of_policy)
        learned = isinstance(settings, SACSettings) and settings.alpha is None
        self.alpha_optimizer = self._adam({"temperature": [self.loss.log_alpha]}) if learned else None
        self.updates = 0

    # ------------------------------------------------------------------------------------------------------- acting

    @torch.no_grad()
    def act(self, observation: Tensor, noise: SeedNoise | None = None) -> Tensor:
        """Actions for the environment (1, N, A), or indices (1, N, 1); sampled with `noise`, the mode without."""
        return self.acting.choose(self._policy(self.cut(self.trunk(self._shaped(observation)))[0]), noise)

    def random_actions(self, count: int, noise: SeedNoise) -> Tensor:
        """Uniform actions for the environment (1, count, A), or indices (1, count, 1)."""
        return self.acting.uniform(count, noise)

    @torch.no_grad()
    def judge(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]:
        """`Learner.judge` for one agent: an action, the minimum of its values, its entropy bonus, each (1, N, ...)."""
        to_policy, to_value = self.cut(self.trunk(self._shaped(observation)))
        action, log_prob = self.acting.draw(self._policy(to_policy), noise)
        read = action[0, :, 0] if self.space.discrete else action[0]
        data = TensorDict(action=read, cut=TensorDict(value=to_value), batch_size=[len(read)]).auto_batch_size_(1)
        value = self._values(data).amin(0)[None]  # (1, N, 1)
        sac = isinstance(self.settings, SACSettings)
        return self.acting.to_task(action), value, -self.loss.log_alpha.exp() * log_prob if sac else log_prob

    def _policy(self, features: Tensor) -> Any:
        """The output of the policy's layers, (N, H) -> (1, N, parameters)."""
        out = self.policy(features)
        return tuple(part[None] for part in out) if isinstance(out, tuple) else out[None]

    # ------------------------------------------------------------------------------------------------------ learning

    def update(self, batch: Transition, noise: SeedNoise | None = None) -> dict[str, Tensor]:
        """One gradient step of the critics; every `policy_delay`-th time also of the policy and the targets.

        Args:
            batch: transitions (1, B, width); continuous actions in [-1, 1], as from a `Replay`.
            noise: not used: TorchRL's losses draw from torch's global generator, whose state a checkpoint must hold.

        Returns:
            Each (1,): `loss/critic` (summed over critics), `value/mean`; at a policy step also `loss/actor` and, for
            SAC, `policy/entropy` and `policy/alpha`.
        """
        hidden = self.trunk(self._shaped(batch.observation))  # (B, H)
        data = self._data(batch, hidden)
        self.attach_value.features = data[VALUE]
        loss, values = self._critic_loss(data)
        self.attach_value.features = None
        self._step(self.critic_optimizer, self.critic_parameters, loss)
        metrics = {"loss/critic": loss.detach()[None], "value/mean": values.mean()[None]}
        self.updates += 1
        if self.updates % self.settings.policy_delay == 0:
            if self.at and (self.cut.policy_gradient > 0 or self.cut.value_gradient > 0):
                with torch.set_grad_enabled(self.cut.policy_gradient > 0):
                    hidden = self.trunk(self._shaped(batch.observation))  # again: the critic's step has changed it
            data[POLICY] = self.cut(hidden)[0]
            data[VALUE] = hidden.detach()
            metrics |= self._update_policy(data)
            self.target_updater.step()
            if self.at:
                online = [parameter.detach() for parameter in self.trunk.parameters()]
                torch._foreach_lerp_(list(self.target_trunk.parameters()), online, self.settings.tau)
        return metrics

    def learn(self, replay: Replay, indices: Tensor, noise: SeedNoise, sums: MetricSums) -> None:
        """`update` on the replay's transitions at `indices`, (S, B); its metrics are added to `sums`."""
        sums.add(self.update(replay.sample(indices), noise))

    @torch.no_grad()
    def critic_loss(self, batch: Transition, noise: SeedNoise | None = None) -> Tensor:
        """`loss/critic`, (1,), on these transitions, without learning from them."""
        return self._critic_loss(self._data(batch, self.trunk(self._shaped(batch.observation))))[0][None]

    def _data(self, batch: Transition, hidden: Tensor) -> TensorDict:
        """The input of TorchRL's losses, (B,): features before and after the step, action, reward and termination."""
        to_policy, to_value = self.cut(hidden)
        with torch.no_grad():
            after = self._shaped(batch.next_observation)
            next_to_value = self.target_trunk(after)
            # SAC uses the current policy on the current trunk; TD3 and DDPG use the target policy.
            today = self.at and not self.model.deterministic
            next_to_policy = self.trunk(after) if today else next_to_value
        terminated = batch.terminated[0].bool()  # (B, 1)
        action = batch.action[0]
        return TensorDict(
            action=action[:, 0].long() if self.space.discrete else action,
            cut=TensorDict(policy=to_policy, value=to_value),
            next=TensorDict(
                cut=TensorDict(policy=next_to_policy, value=next_to_value),
                reward=batch.reward[0],
                done=terminated,
                terminated=terminated,
            ),
            batch_size=[len(action)],
        ).auto_batch_size_(1)

    def _critic_loss(self, data: TensorDict) -> tuple[Tensor, Tensor]:
        """TorchRL's critic loss, and the values in it."""
        if isinstance(self.loss, DDPGLoss):
            loss, metadata = self.loss.loss_value(data)
            return loss, metadata["pred_value"].detach()
        if isinstance(self.loss, TD3Loss):
            loss, metadata = self.loss.value_loss(data)
            return loss, metadata["pred_value"]
        loss, _ = self.loss.qvalue_loss(data) if self.space.discrete else self.loss.qvalue_v2_loss(data)
        return loss, self._values(data)  # SACLoss does not return them

    @torch.no_grad()
    def _values(self, data: TensorDict) -> Tensor:
        """Values of the actions in `data` by each critic, (Q, B, 1)."""
        if isinstance(self.loss, DDPGLoss):
            network, parameters = self.loss.value_network, [self.loss.value_network_params.data]
        else:
            network, parameters = self.loss.qvalue_network, self.loss.qvalue_network_params.data.unbind(0)
        values = []
        for each in parameters:
            with each.to_module(network):
                values.append(network(data.select(*network.in_keys))[self.model.value_key])
        if self.space.discrete:
            return torch.stack([value.gather(-1, data["action"][:, None]) for value in values])
        return torch.stack(values)

    def _update_policy(self, data: TensorDict) -> dict[str, Tensor]:
        """One step of the policy, with the critics fixed, and of SAC's temperature."""
        self.attach_policy.features = data[POLICY]
        loss, metadata = self.loss.loss_actor(data) if isinstance(self.loss, DDPGLoss) else self.loss.actor_loss(data)
        self.attach_policy.features = None
        self._step(self.policy_optimizer, self.policy_parameters, loss)
        metrics = {"loss/actor": loss.detach()[None]}
        if isinstance(self.settings, SACSettings):
            log_prob = metadata["log_prob"]  # (B,)
            alpha = self.loss.log_alpha.detach().exp()
            metrics |= {"policy/entropy": -log_prob.mean()[None], "policy/alpha": alpha[None]}
            if self.alpha_optimizer is not None:
                self.alpha_optimizer.zero_grad()
                self.loss.alpha_loss(log_prob).mean().backward()
                self.alpha_optimizer.step()
        return metrics

    def _loss(self) -> LossModule:
        """TorchRL's loss on the branches; critics that it has initialised anew get their own parameters back."""
        unit = self.model.unit()
        actor, critics = unit.get_policy_branch(), unit.get_qvalue_branches()
        settings, twin = self.settings, {"num_qvalue_nets": 2, "loss_function": "l2", "deactivate_vmap": True}
        if isinstance(settings, DDPGSettings) and not isinstance(settings, TD3Settings):
            if len(critics) > 1 or settings.target_noise:
                got = f"{len(critics)} critics, target_noise={settings.target_noise}"
                raise ValueError(
                    f"model must have one critic, and target_noise be 0, for TorchRL's DDPGLoss; got {got}"
                )
            # DDPGLoss detaches its input, so that the trunk would get no gradient.
            actor = TensorDictSequential(TensorDictModule(self.attach_policy, [POLICY], [POLICY]), *actor.module)
            critic = TensorDictSequential(TensorDictModule(self.attach_value, [VALUE], [VALUE]), *critics[0].module)
            return DDPGLoss(actor, critic, loss_function="l2", delay_actor=True)
        shapes = [[(name, p.shape) for name, p in critic.named_parameters()] for critic in critics]
        if shapes[0] != shapes[1]:
            raise ValueError(f"model must have twin critics of one architecture; got {shapes[0]} and {shapes[1]}")
        if isinstance(settings, TD3Settings):
            actor = TensorDictSequential(TensorDictModule(nn.Identity(), [VALUE], [VALUE]), *actor.module)
            # The identity above makes the actor read VALUE: TD3Loss gives the critic only the actor's input keys.
            noise = {"policy_noise": settings.target_noise, "noise_clip": settings.target_noise_clip}
            loss = TD3Loss(actor, critics[0], bounds=(-1.0, 1.0), **noise, **twin)
        elif isinstance(settings, SACSettings):
            fixed = settings.alpha is not None
            temperature = {"alpha_init": settings.alpha if fixed else settings.alpha_init, "fixed_alpha": fixed}
            temperature["target_entropy"] = settings.entropy_target(self.space)
            if self.space.discrete:
                sizes = {"num_actions": self.space.size, "action_space": "categorical"}
                loss = DiscreteSACLoss(actor, critics[0], **sizes, **temperature, **twin)
            else:
                loss = SACLoss(actor, critics[0], **temperature, **twin)
        else:
            raise ValueError(
                f"settings must be SACSettings, TD3Settings or DDPGSettings; got {type(settings).__name__}"
            )
        loss.qvalue_network_params.data.copy_(torch.stack([TensorDict.from_module(c).data for c in critics]))
        return loss

    def _critic_values(self) -> nn.Module:
        return self.loss.value_network_params if isinstance(self.loss, DDPGLoss) else self.loss.qvalue_network_params

    def _shaped(self, observation: Tensor) -> Tensor:
        """An observation (1, B, width) in the model's shape (B, *shape) and type."""
        example = self.model.example["observation"]
        return observation.reshape(-1, *example.shape).to(example.dtype)

    def _step(self, optimizer: torch.optim.Optimizer, parameters: list[Tensor], loss: Tensor) -> None:
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        optimizer.step()

    def anneal(self, left: float) -> None:
        """Set scheduled learning rates for a share `left` of the training still to come."""
        for optimizer in (self.critic_optimizer, self.policy_optimizer, self.alpha_optimizer):
            if optimizer is not None:
                anneal(optimizer, left)

    def _adam(self, parts: Mapping[str, list[Any]]) -> torch.optim.Adam:
        """Adam on these parts' parameters, each by its learning rate."""
        groups = rate_groups(self.settings, ((part, each) for part, own in parts.items() for each in own))
        return torch.optim.Adam(groups, lr=self.settings.learning_rate, eps=self.settings.adam_epsilon, fused=True)

    # ---------------------------------------------------------------------------------------------- models and state

    def weights(self) -> dict[str, Tensor]:
        """The learned parameters, by name."""
        return dict(nn.ModuleDict({"trunk": self.trunk, "loss": self.loss}).named_parameters())

    def models(self) -> list[ActorQValue]:
        """The agent as a model, with its current parameters."""
        model = copy.deepcopy(self.model)
        if not isinstance(self.loss, DDPGLoss):  # DDPGLoss trains the model's own critic
            critics = model.unit().get_qvalue_branches()
            for critic, values in zip(critics, self.loss.qvalue_network_params.data, strict=True):
                TensorDict.from_module(critic).data.copy_(values)
        return [model]

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "trunk": dict(self.trunk.state_dict()),
            "target_trunk": dict(self.target_trunk.state_dict()),
            "loss": dict(self.loss.state_dict()),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "updates": self.updates,
        }
        if self.alpha_optimizer is not None:
            state["alpha_optimizer"] = self.alpha_optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.trunk.load_state_dict(state["trunk"])
        self.target_trunk.load_state_dict(state["target_trunk"])
        self.loss.load_state_dict(state["loss"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.updates = state["updates"]
        if self.alpha_optimizer is not None:
            self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])

    def __deepcopy__(self, memo: dict) -> TorchRLLearner:
        # A plain copy of the loss would hold other parameters than the model.
        twin = TorchRLLearner(self.models()[0], self.settings)
        twin.load_state_dict(copy.deepcopy(self.state_dict(), memo))
        return twin


class Attach(nn.Module):
    """Replaces features (B, H) that a loss has detached by those with their graph: DDPGLoss detaches its input.

    `features` are the features with the graph, or None; an input that shares no memory with them is returned as is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        attached = self.features is not None and self.features.data_ptr() == features.data_ptr()
        return self.features if attached else features  # pyright: ignore[reportReturnType]
