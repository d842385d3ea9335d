"""A separated network with its heads, as TensorDict modules and TorchRL operators.

    network = separate(impala_blocks(), impala_blocks(), at="late")
    model = actor_value(network, env.action_spec)     # trunk -> cut -> branches -> heads, one TensorDictSequential
    collector = Collector(env, model, ...)            # one pass of the trunk writes action and state_value
    loss = ClipPPOLoss(model.get_policy_head(), model.get_value_head())
    loss(model.get_features()(batch))                 # one pass of the trunk for both losses

Every interface is a key: `observation -> hidden -> (cut, policy), (cut, value) -> policy_hidden, value_hidden ->
logits | loc, scale -> action, action_log_prob` and `state_value`. Extra heads, losses and analyses read keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tensordict import NestedKey
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import TensorSpec
from torchrl.modules import IndependentNormal, OneHotCategorical, ProbabilisticActor, ValueOperator

from decouple.checks import SOME, at_least, checked
from decouple.networks.heads import ActionSpace, Distribution, Head, stochastic_head, unbounded
from decouple.networks.recurrence import RecurrentPart, recurrent_blocks
from decouple.networks.separation import SeparatedNetwork, part

__all__ = ["ActorValue", "actor_value"]


@checked(observation_key=SOME, policy_gain=at_least(0), value_gain=at_least(0))
def actor_value(
    network: SeparatedNetwork,
    action_spec: TensorSpec,
    *,
    observation_key: NestedKey = "observation",
    policy_gain: float | None = 0.01,
    value_gain: float | None = 1.0,
    distribution: Distribution = "auto",
) -> ActorValue:
    """Put a policy head and a state-value head on a separated network.

    A discrete action gets a linear head to logits and a categorical distribution, several discrete ones at once a
    categorical each; a continuous one a linear head to `loc`, a state-independent `scale` and a normal, squashed by
    tanh between the bounds where there are any. Heads start orthogonal with the gains given, biases at 0.

    Args:
        network: a network from `separate`, with features as its last axis.
        action_spec: the action spec of TorchRL's environment, batched or not: Categorical, OneHot, MultiCategorical,
            Binary, Bounded or Unbounded.
        observation_key: key of the trunk's input.
        policy_gain: gain of the policy head's orthogonal initialisation (0.01: a nearly uniform first policy); None
            keeps PyTorch's own.
        value_gain: the same for the value head.
        distribution: of a continuous action: squashed_normal; normal, which does not know the bounds, so that the
            environment has to clip actions; auto, squashed_normal where every component is bounded.

    Returns:
        The model; `model(tensordict)` writes `action`, `action_log_prob` and `state_value`.

    Raises:
        ValueError: an action space of another kind, a squashed normal without finite bounds, or a network whose feature
            sizes are not known or whose output has more than one axis of features.
    """
    if network.policy_size is None or network.value_size is None:
        raise ValueError(
            "network must know its feature sizes: pass separate(..., example=<one observation>), and end both stacks "
            "in features with one axis"
        )
    value_head = ValueOperator(Head(network.value_size, 1, value_gain), in_keys=["value_hidden"])
    policy_head = stochastic_head(network.policy_size, action_spec, policy_gain, distribution=distribution)
    return ActorValue(network, policy_head, value_head, observation_key=observation_key)


class ActorValue(TensorDictSequential):
    """A separated network with a policy head and a state-value head; made by `actor_value`.

    Called on a TensorDict it runs the trunk once and writes `action`, `action_log_prob` and `state_value`. Actions are
    sampled unless TorchRL's `set_exploration_type` says otherwise. Its operators, named as those of TorchRL's
    `ActorValueOperator`, share its parameters and run only the modules that they need.

    With recurrent blocks (`decouple.networks.recurrence`) it also reads `is_init` and the blocks' states and writes the
    new states under `next`; `with_memory` gives them to an environment. In `set_recurrent_mode(True)` the last batch
    axis is time.

    Attributes:
        trunk, cut, policy, value: the network's parts as plain modules.
        policy_size: number of features of `policy_hidden`.
        action_size: number of discrete actions, of all components' choices, or of a continuous action's components.
        discrete: True where actions are discrete.
        action_space: the actions that the policy chooses from.
    """

    trunk, cut, policy, value = map(part, ("trunk", "cut", "policy", "value"))

    def __init__(
        self,
        network: SeparatedNetwork,
        policy_head: ProbabilisticActor,
        value_head: TensorDictModule,
        *,
        observation_key: NestedKey = "observation",
    ):
        policy_in, value_in = ([("cut", name), *getattr(network, name).keys] for name in ("policy", "value"))
        gates = [("gated", str(index)) for index in range(getattr(network, "gated", 0))]  # outputs of policy's blocks
        modules = OrderedDict(
            trunk=_part("trunk", network.trunk, [observation_key], "hidden"),
            cut=TensorDictModule(network.cut, ["hidden"], [("cut", "policy"), ("cut", "value")]),
            policy=_part("policy", network.policy, policy_in, "policy_hidden", gates),
            value=_part("value", network.value, [*value_in, *gates], "value_hidden"),
            policy_head=policy_head,
            value_head=value_head,
        )
        super().__init__(modules)
        self.example = dict(network.example)
        head = next(module for module in policy_head.modules() if isinstance(module, nn.Linear))
        self.policy_size, self.action_size = head.in_features, head.out_features
        self.discrete = "logits" in policy_head.out_keys
        self.select_out_keys("action", "action_log_prob", "state_value", *_states(self.module.values()))

    @property
    def recurrent(self) -> bool:
        """True where a block is recurrent: the model then reads `is_init` and states, and writes the next states."""
        return "is_init" in self.in_keys

    @property
    def at(self) -> int:
        """The separation point k."""
        return len(self.trunk)

    @property
    def shares(self) -> bool:
        """True where the value reads blocks of the policy's: those of a trunk, or through gates."""
        return self.at > 0 or self.gated

    @property
    def gated(self) -> bool:
        """True for a model on a network from `gated`, whose separation is learned."""
        return ("gated", "0") in self.module["policy"].out_keys

    @property
    def action_space(self) -> ActionSpace:
        sampled = self.get_policy_head()[-1]
        if sampled.distribution_class is IndependentNormal:
            return unbounded(self.action_size)
        options = sampled.distribution_kwargs  # a squashed normal's low and high, or several indices' choices
        one_hot = issubclass(sampled.distribution_class, OneHotCategorical)
        bounds = options.get("low"), options.get("high")
        return ActionSpace(self.action_size, *bounds, one_hot, tuple(options.get("choices", ())))

    def parts(self) -> dict[str, list[nn.Module]]:
        """Per part, the module that computes its features and then its head."""
        return {
            "trunk": [self.trunk],
            "policy": [self.policy, self.module["policy_head"][0].module],
            "value": [self.value, self.module["value_head"].module],
        }

    def select_subsequence(
        self, in_keys: Iterable[NestedKey] | None = None, out_keys: Iterable[NestedKey] | None = None
    ) -> TensorDictSequential:
        """The modules between these keys, as TensorDictSequential gives them; branches not needed do not run."""
        return TensorDictSequential(OrderedDict(self.module.items())).select_subsequence(in_keys, out_keys)

    @checked()
    def get_features(self, keys: Sequence[str] = ("policy_hidden", "value_hidden")) -> TensorDictSequential:
        """Observation -> `policy_hidden` (*B, F), `value_hidden` (*B, F), or one of them; and (`cut`, ...).

        Losses on heads read these features. Only the branches asked for run.
        """
        if not keys or not set(keys) <= {"policy_hidden", "value_hidden"}:
            raise ValueError(f"keys must be policy_hidden, value_hidden or both; got {list(keys)}")
        return self.select_subsequence(out_keys=list(keys))

    def get_policy_head(self) -> ProbabilisticTensorDictSequential:
        """`policy_hidden` -> distribution parameters, `action`, `action_log_prob`."""
        return self.module["policy_head"]

    def get_value_head(self) -> TensorDictModule:
        """`value_hidden` -> `state_value` (*B, 1)."""
        return self.module["value_head"]

    def get_policy_operator(self) -> ProbabilisticTensorDictSequential:
        """Observation -> `action`, `action_log_prob`, without running the value branch."""
        features = self.get_features(["policy_hidden"]).module.values()
        operator = ProbabilisticTensorDictSequential(*features, *self.get_policy_head().module)
        keys = ["action", "action_log_prob", *_states(features)]
        return operator.select_out_keys(*keys)  # pyright: ignore[reportReturnType]

    def get_value_operator(self) -> TensorDictSequential:
        """Observation -> `state_value` (*B, 1), without running the policy branch."""
        features = self.get_features(["value_hidden"]).module.values()
        return TensorDictSequential(*features, self.get_value_head()).select_out_keys("state_value", *_states(features))


def _part(
    name: str, part: nn.Module, in_keys: list[NestedKey], out_key: str, further: Sequence[NestedKey] = ()
) -> TensorDictModule:
    """A part of the network as a TensorDict module; with recurrent blocks it carries their states."""
    if recurrent_blocks(part, name):
        return RecurrentPart(part, in_keys, [out_key], name)
    return TensorDictModule(part, in_keys, [out_key, *further])


def _states(modules: Iterable[nn.Module]) -> list[NestedKey]:
    """The keys of the new states that these modules write."""
    return [("next", key) for module in modules if isinstance(module, RecurrentPart) for key in module.states]
