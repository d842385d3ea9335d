"""The function that makes the learner of these models.

learner = make_learner(models, TD3Settings())                       # S agents at once, compiled where that is possible
learner = make_learner(models, TD3Settings(), update="torchrl")     # one agent, TorchRL's own losses
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decouple.checks import check_setting, checked, one_of
from decouple.networks.actor_qvalue import ActorQValue
from decouple.off_policy.compiled_learner import CompiledLearner, not_compiled
from decouple.off_policy.interfaces import OffPolicyLearner, TrainedAgents  # noqa: F401  (both were here before)
from decouple.off_policy.learner import Learner
from decouple.off_policy.learner_groups import LearnerGroups
from decouple.off_policy.settings import OffPolicySettings
from decouple.off_policy.torchrl_learner import TorchRLLearner

__all__ = ["make_learner"]


@checked(update=one_of("auto", "compiled", "batched", "torchrl"))
def make_learner(
    models: Sequence[ActorQValue], settings: OffPolicySettings | Sequence[OffPolicySettings], update: str = "auto"
) -> OffPolicyLearner:
    """Make the learner of these agents.

    Args:
        models: one model per seed, from `actor_qvalue`. Where their networks differ, neighbours that are alike are
            computed together.
        settings: the algorithm's settings; or one for each model, which may differ in their learning rates.
        update: `compiled` for `CompiledLearner`, kernels for perceptrons on a processor; `batched` for `Learner`, all
            agents at once in torch; `torchrl` for `TorchRLLearner`, one agent with TorchRL's own losses; `auto` for
            `compiled` where that is possible, else `batched`.

    Raises:
        ValueError: models that the algorithm cannot train, that cannot be stacked or, with `compiled`, that kernels do
            not know; several with `torchrl`.
    """
    if not models:
        raise ValueError("models must hold at least one model; got none")
    of_each = [settings] * len(models) if isinstance(settings, OffPolicySettings) else list(settings)
    check_setting("settings", len(of_each), lambda v: v == len(models), f"one for each of {len(models)} models")
    kinds = [(_architecture(model), own) for model, own in zip(models, of_each, strict=True)]
    begins = [index for index, kind in enumerate(kinds) if not index or kind != kinds[index - 1]]
    ends = [*begins[1:], len(kinds)]
    groups = [_learner(models[a:b], of_each[a], update) for a, b in zip(begins, ends, strict=True)]
    return groups[0] if len(groups) == 1 else LearnerGroups(groups)


def _architecture(model: ActorQValue) -> tuple[Any, ...]:
    """What tells models apart that cannot be computed as one batch; `stack` checks the rest."""
    sizes = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    return (
        sizes,
        [type(module) for module in model.modules()],
        model.at,
        (model.cut.policy_gradient, model.cut.value_gradient),
    )


def _learner(models: Sequence[ActorQValue], settings: OffPolicySettings, update: str) -> OffPolicyLearner:
    """The learner of agents that are alike."""
    if update == "torchrl":
        check_setting(
            "update", update, lambda _: len(models) == 1, f"auto, compiled or batched for {len(models)} models"
        )
        return TorchRLLearner(models[0], settings)
    if update == "batched":
        return Learner(models, settings)
    why = not_compiled(models)
    if update == "compiled":
        check_setting("update", update, lambda _: why is None, f"auto or batched here: {why}")
    return CompiledLearner(models, settings) if why is None else Learner(models, settings)
