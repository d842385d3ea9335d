"""A separated network with action values: actor and critics of SAC, TD3 and DDPG, as TorchRL operators.

    network = separate(mlp_blocks(3, [4, 4]), mlp_blocks(3 + 1, [16, 16]), at=0, value_keys=["action"], example=...)
    model = actor_qvalue(network, env.action_spec, twin_blocks=mlp_blocks(3 + 1, [16, 16]))
    policy, critics = model.get_policy_operator(), model.get_qvalue_operators()

Keys: `observation -> hidden -> (cut, policy), (cut, value) -> policy_hidden -> loc, scale -> action -> unit_action` and
`(cut, value), unit_action -> value_hidden -> state_action_value`, for a discrete action `(cut, value) -> value_hidden
-> action_value`. The twin critic writes (`twin`, ...). Where networks share a trunk (k > 0), an off-policy loss must
not own a copy of it: run `get_features()` once, online and target, and give the loss `get_policy_branch()` and
`get_qvalue_branches()`.

`action` is in the task's units, for the environment; `unit_action` is the same action in [-1, 1], for the critics. It
is left out where the task's own bounds are [-1, 1]. `model.unit()` holds the same networks for a task in [-1, 1], so
that entropy and TD3's noise are measured in that unit, as in `decouple.off_policy.learner`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import nn
from torchrl.data import Bounded, TensorSpec

from decouple.checks import at_least, checked
from decouple.networks.fitting import example_inputs
from decouple.networks.heads import (
    ActionUnit,
    Head,
    bounded_space,
    deterministic_head,
    squashed_actor,
    stochastic_head,
    tanh_actor,
)
from decouple.networks.recurrence import RecurrentBlock
from decouple.networks.separation import SeparatedNetwork, part, separate

__all__ = ["ActorQValue", "actor_qvalue"]


@checked(policy_gain=at_least(0), value_gain=at_least(0))
def actor_qvalue(
    network: SeparatedNetwork,
    action_spec: TensorSpec,
    *,
    twin_blocks: Sequence[nn.Module] | None = None,
    deterministic: bool = False,
    observation_key: NestedKey = "observation",
    policy_gain: float | None = None,
    value_gain: float | None = None,
) -> ActorQValue:
    """Put a policy head and action-value heads on a separated network.

    Args:
        network: a network from `separate`. For a continuous action its value branch reads the action after the cut
            (`value_keys=["action"]`), each component in [-1, 1] whatever the task's units are. For a discrete action it
            does not read the action, and the head gives a value for each action.
        action_spec: the action spec of TorchRL's environment, batched or not: Categorical, OneHot or Bounded.
        twin_blocks: the second critic's blocks, a whole stack like `value_blocks` of `separate`: the first k are
            dropped. They keep their own initialisation. None for one critic (DDPG).
        deterministic: True for a tanh between the action's bounds (DDPG, TD3); False for a tanh-squashed normal whose
            scale depends on the features, or a categorical (SAC).
        observation_key: key of the trunk's input.
        policy_gain: gain of the policy head's orthogonal initialisation; None keeps PyTorch's own.
        value_gain: the same for the value heads.

    Returns:
        The model; `model(tensordict)` writes `action` and each critic's value of it.

    Raises:
        ValueError: an action space of another kind or without finite bounds; a network whose feature sizes are not
            known; recurrent blocks; a value branch that reads a discrete action, or does not read a continuous one; a
            twin that does not fit; a deterministic policy for a discrete action.
    """
    if network.policy_size is None or network.value_size is None:
        raise ValueError("network must know its feature sizes: pass separate(..., example=<one observation>)")
    given = [network, *(twin_blocks or ())]
    if any(isinstance(module, RecurrentBlock) for each in given for module in each.modules()):
        raise ValueError(
            "network must have no recurrent blocks for SAC, TD3 and DDPG, whose replay keeps single steps; PPO, DAAC "
            "and TRPO take them, with actor_value()"
        )
    space = bounded_space(action_spec, "SAC, TD3 and DDPG")
    reads_action = "action" in network.value.keys
    if reads_action == space.discrete:
        needed = "value_keys=[] (a value of each action)" if space.discrete else 'value_keys=["action"]'
        raise ValueError(f"network must be separated with {needed}; got value_keys={list(network.value.keys)}")
    size = network.policy_size
    if deterministic:
        policy_head = deterministic_head(size, action_spec, policy_gain)
    else:
        policy_head = stochastic_head(size, action_spec, policy_gain, state_dependent_scale=True)
    critics = [network] if twin_blocks is None else [network, _twin(network, twin_blocks)]
    outputs = space.size if space.discrete else 1
    heads = [Head(critic.value_size, outputs, value_gain) for critic in critics]
    return ActorQValue(
        network,
        policy_head,
        [(critic.value, head) for critic, head in zip(critics, heads, strict=True)],
        action_spec=action_spec,
        observation_key=observation_key,
        deterministic=deterministic,
    )


class ActorQValue(TensorDictSequential):
    """A separated network with a policy head and action values; made by `actor_qvalue`.

    Attributes:
        trunk, cut, policy, value: the network's parts as plain modules; the twin critic is not among them.
        example: shape and type of one observation and of every further key, as tensors on the device `meta`.
        action_space: the actions that the policy chooses from.
        deterministic: True where the action depends on the observation alone.
    """

    trunk, cut, policy, value = map(part, ("trunk", "cut", "policy", "value"))

    def __init__(
        self,
        network: SeparatedNetwork,
        policy_head: TensorDictModuleBase,
        critics: Sequence[Sequence[nn.Module]],
        *,
        action_spec: TensorSpec,
        observation_key: str = "observation",
        deterministic: bool = False,
    ):
        space = bounded_space(action_spec, "SAC, TD3 and DDPG")
        scaled = {} if space.in_unit else {"action": "unit_action"}
        value_keys = [("cut", "value"), *(scaled.get(key, key) for key in network.value.keys)]
        modules = OrderedDict(
            trunk=TensorDictModule(network.trunk, [observation_key], ["hidden"]),
            cut=TensorDictModule(network.cut, ["hidden"], [("cut", "policy"), ("cut", "value")]),
            policy=TensorDictModule(network.policy, [("cut", "policy"), *network.policy.keys], ["policy_hidden"]),
            policy_head=policy_head,
        )
        if scaled:
            modules["action_unit"] = TensorDictModule(ActionUnit(space), ["action"], ["unit_action"])
        value_key = "action_value" if space.discrete else "state_action_value"
        for name, (branch, head) in zip(("value", "twin"), critics, strict=False):
            keys = [(name, key) if name == "twin" else key for key in ("value_hidden", value_key)]
            modules[name] = TensorDictModule(branch, value_keys, [keys[0]])
            modules[f"{name}_head"] = TensorDictModule(head, [keys[0]], [keys[1]])
        super().__init__(modules)
        self.example = dict(network.example)
        self.action_space = space
        self.deterministic = deterministic
        self.value_key = value_key
        self.critics = len(critics)

    @property
    def at(self) -> int:
        """The separation point k."""
        return len(self.trunk)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Per part, the module that computes its features and then its head; the twin critic is a part of its own."""
        return {"trunk": [self.trunk], "policy": [self.policy, self.policy_layer], **self.critic_parts()}

    def critic_parts(self) -> dict[str, list[nn.Module]]:
        """Branch and head of each critic, under `value` and, with two critics, `twin`."""
        return {name: [self.module[name].module, self.module[f"{name}_head"].module] for name in self._names()}

    def unit(self) -> ActorQValue:
        """The model on the same networks and parameters, with actions in [-1, 1]; a discrete model returns itself.

        Its policy writes, and its critics read, `action` in [-1, 1]: for losses whose entropy, noise or bounds are in
        that unit. In the task's units the policy's entropy is larger by `sum_i log half_i`, with `half_i` half the
        range of component i.
        """
        space = self.action_space.unit()
        if space.low is None or space.high is None:
            return self
        network = SeparatedNetwork(self.trunk, self.cut, self.policy, self.value)
        network.example = self.example
        bounded = tanh_actor if self.deterministic else squashed_actor
        return ActorQValue(
            network,
            bounded(self.module["policy_head"][0], space),
            list(self.critic_parts().values()),
            action_spec=Bounded(space.low, space.high),
            observation_key=self.module["trunk"].in_keys[0],
            deterministic=self.deterministic,
        )

    @property
    def policy_layer(self) -> nn.Module:
        """The policy head's module: features (*B, F) -> the distribution's parameters, before sampling and tanh."""
        return self.module["policy_head"][0].module

    def get_features(self) -> TensorDictSequential:
        """Observation -> (`cut`, `policy`) and (`cut`, `value`): one pass of the trunk for all branches."""
        return TensorDictSequential(self.module["trunk"], self.module["cut"])

    def get_policy_branch(self) -> TensorDictSequential:
        """(`cut`, `policy`) -> `action`: the actor for an off-policy loss where the trunk runs outside the loss.

        Operators and branches take and give actions in the task's units; those of `unit()` use [-1, 1].
        """
        return self._policy(self.module["policy"])

    def get_qvalue_branches(self) -> list[TensorDictSequential]:
        """For each critic, (`cut`, `value`), `action` -> `state_action_value`; all write the same key."""
        return [self._critic(name) for name in self._names()]

    def get_policy_operator(self) -> TensorDictSequential:
        """Observation -> `action`, without running the critics."""
        operator = self._policy(self.module["trunk"], self.module["cut"], self.module["policy"])
        return operator.select_out_keys(*(key for key in ("action", "action_log_prob") if key in operator.out_keys))

    def get_qvalue_operators(self) -> list[TensorDictSequential]:
        """For each critic, observation, `action` -> `state_action_value` (*B, 1); discrete: `action_value` (*B, n).

        Pass the whole list to TorchRL's SACLoss, DiscreteSACLoss or TD3Loss. Given one critic, these losses copy it
        and initialise every copy anew: at k > 0 the trunk would no longer be shared, and the operator raises
        ValueError.
        """
        features = (self.module["trunk"], self.module["cut"])
        operators = [self._critic(name, *features).select_out_keys(self.value_key) for name in self._names()]
        for operator in operators if self.at else []:
            operator.register_buffer("shared_trunk", torch.zeros(()).as_subclass(SharedTrunk), persistent=False)
        return operators

    def _names(self) -> list[str]:
        return ["value", "twin"][: self.critics]

    def _policy(self, *modules: TensorDictModule) -> TensorDictSequential:
        head = self.module["policy_head"]
        if isinstance(head, ProbabilisticTensorDictSequential):
            return ProbabilisticTensorDictSequential(*modules, *head.module)
        return TensorDictSequential(*modules, *head.module)

    def _critic(self, name: str, *features: TensorDictModule) -> TensorDictSequential:
        branch, head = self.module[name], self.module[f"{name}_head"]
        unit = [] if self.action_space.in_unit else [self.module["action_unit"]]
        return TensorDictSequential(
            *features,
            *unit,
            TensorDictModule(branch.module, branch.in_keys, ["value_hidden"]),
            TensorDictModule(head.module, ["value_hidden"], [self.value_key]),
        )


class SharedTrunk(torch.Tensor):
    """A mark on a critic that shares its trunk with the policy: a loss that copies the critic raises an error.

    It is a buffer that no computation reads. To make N critics from one, TorchRL's `LossModule.convert_to_functional`
    calls `expand` on all tensors of the one before it initialises the copies; it stacks the tensors of a list. Deep
    copies and target networks do not call `expand`.
    """

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.expand:
            raise ValueError(
                "qvalue_network must be the whole list get_qvalue_operators() where critics share a trunk with the "
                "policy; got one critic: the loss would copy it and initialise the copy's trunk anew. Or run "
                "get_features() outside the loss and give it the branches, as TorchRLLearner does"
            )
        return super().__torch_function__(func, types, args, kwargs or {})

    def __deepcopy__(self, memo: dict) -> SharedTrunk:
        return torch.zeros((), device=self.device).as_subclass(SharedTrunk)


def _twin(network: SeparatedNetwork, blocks: Sequence[nn.Module]) -> SeparatedNetwork:
    """The network with the twin's value branch, checked as `separate` checks the first."""
    try:
        twin = separate(
            [*network.trunk, *network.policy],
            blocks,
            at=network.at,
            policy_keys=network.policy.keys,
            value_keys=network.value.keys,
            example={key: batch[0] for key, batch in (example_inputs(network, None) or {}).items()},
        )
    except ValueError as error:
        raise ValueError(f"twin_blocks must fit as value_blocks did: {error}") from error
    if {id(p) for p in twin.value.parameters()} & {id(p) for p in network.value.parameters()}:
        raise ValueError("twin_blocks must have parameters of their own; they share some with value_blocks")
    return twin
