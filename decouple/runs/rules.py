"""What a result rests on: its settings, and the rules that have changed since 0.1, each with its version.

    identity_of(settings, SETTINGS_OF_CONTROL, leave_out={"run_dir"}, unit_actions=lambda: True)
    # {"env": "pong", "gamma": 0.99, ..., "rules": {"pong_limit": 2}}

Two runs of one identity have the same results. It stands in a run's checkpoint and in a cell's key. What was trained
under an old rule is thereby never taken for a result of the new one: a checkpoint is refused by name, a cell is another
cell. Only rules that concern a run enter, and only from version 2 on, so that what 0.1 trained goes on where no rule of
it has changed. A setting that came after 0.1 enters only where it is not at its default, so that a new setting refuses
no checkpoint and loses no cell; a default that changes later needs a rule here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from decouple.checks import Must, checked, has
from decouple.runs.settings import defaults_of, flat
from decouple.version import VERSION, written_by

__all__ = [
    "RULES",
    "SETTINGS_OF_CONTROL",
    "SETTINGS_OF_PROCGEN",
    "Rule",
    "identity_of",
    "outdated",
    "rule_text",
    "rules_of",
]


OFF_POLICY = ("sac", "td3", "ddpg")


@dataclass(frozen=True)
class Rule:
    """A rule that has changed.

    Attributes:
        version: 2 after the first change; what 0.1 wrote is of version 1.
        now: what it says, and what it said before.
        concerns: whether it concerns a run: a function of the run's settings, and of a function that asks the task
            whether all its actions are discrete or bounded by -1 and 1.
    """

    version: int
    now: str
    concerns: Callable[[Mapping[str, Any], Callable[[], bool]], bool]


# A rule that changes, or that others rest on from now on, is one entry here.
RULES: dict[str, Rule] = {
    "pong_limit": Rule(
        2, "a game of Pong is cut after 100,000 frames; in 0.1 after 10,000", lambda s, _: s["env"] == "pong"
    ),
    "action_unit": Rule(
        2,
        "SAC, TD3 and DDPG learn on actions in [-1, 1]; in 0.1 on those in the task's units",
        lambda s, unit_actions: s.get("algorithm") in OFF_POLICY and not unit_actions(),
    ),
    "shared_features": Rule(
        2,
        "off policy, a policy that does not train the shared trunk reads it after the critic's step; in 0.1 before",
        lambda s, _: (
            s.get("algorithm") in OFF_POLICY
            and str(s.get("separation", "full")) not in ("full", "0")
            and s["policy_gradient"] == 0 < s["value_gradient"]
        ),
    ),
}

# What entered an identity in 0.1 and enters it still, whatever its value.
SETTINGS_OF_CONTROL = frozenset(
    """
    actor actor_activation actor_gain actor_head_gain adam_epsilon advantage_coeff algorithm alpha alpha_init backend
    backtrack_coeff backtrack_iters batch_size buffer_size cg_iters checkpoint_every clip_epsilon clip_value critic
    critic_activation critic_gain critic_head_gain damping delta entropy_coeff env epochs exploration_noise file_name
    final_episodes frame_skip gae_lambda gamma held_out_every learning_rate learning_starts log_every max_grad_norm
    minibatches normalize_observation normalize_reward num_envs order_coeff order_width policy_delay policy_epochs
    policy_gradient precision rollout_steps seed seeds separation target_aggregation target_entropy target_noise
    target_noise_clip tau total_frames train_every update updates value_coeff value_epochs value_every value_gradient
    """.split()  # noqa: SIM905  (a list of one name a line would take two pages)
)
SETTINGS_OF_PROCGEN = frozenset(
    """
    adam_epsilon advantage_coeff algorithm attention backend clip_epsilon clip_value distribution_mode entropy_coeff env
    epochs gae_lambda gamma in_place_skip learning_rate max_grad_norm minibatches num_envs num_levels order_coeff
    order_width policy_epochs policy_gradient precision protocol rollout_steps seed separation start_level value_coeff
    value_epochs value_every value_gradient
    """.split()  # noqa: SIM905  (a list of one name a line would take two pages)
)


@checked(settings=Must(dataclasses.is_dataclass, "a dataclass"))
def identity_of(
    settings: Any,
    always: Collection[str],
    *,
    leave_out: Collection[str],
    unit_actions: Callable[[], bool],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings that a result rests on, and under "rules" the versions of rules that have changed, if any.

    Args:
        settings: a run's, a dataclass; those of its parts enter by their flat keys (`decouple.runs.settings`).
        always: names that enter whatever their value; the others enter where they are not at their default.
        leave_out: names that never enter.
        unit_actions: asks the task whether all its actions are discrete or bounded by -1 and 1.
        defaults: the default of each flat key, as `FlatKeys.defaults`; None: those of the dataclasses.
    """
    values, defaults = flat(settings), defaults_of(settings) if defaults is None else defaults
    kept = {
        name: value
        for name, value in values.items()
        if name not in leave_out and (name in always or value != defaults.get(name, dataclasses.MISSING))
    }
    rules = rules_of(values, unit_actions)
    return kept | ({"rules": rules} if rules else {})


@checked(settings=has("env"))
def rules_of(settings: Mapping[str, Any], unit_actions: Callable[[], bool]) -> dict[str, int]:
    """The rules that concern a run of these settings and have changed, with their versions."""
    return {name: rule.version for name, rule in RULES.items() if rule.concerns(settings, unit_actions)}


@checked(settings=has("env"))
def outdated(rules: Mapping[str, int], settings: Mapping[str, Any], unit_actions: Callable[[], bool]) -> list[str]:
    """Each rule that results rest on in another version than this one's, in words; none: they count.

    Args:
        rules: of the results, from their identity.
        settings, unit_actions: of the run, as for `rules_of`.
    """
    here = rules_of(settings, unit_actions)
    return [
        rule_text(name, rules.get(name), here.get(name))
        for name in sorted({*rules, *here})
        if rules.get(name) != here.get(name)
    ]


@checked()
def rule_text(name: str, there: int | None, here: int | None) -> str:
    """What a rule was where a file was written, and what it is here; None: version 1."""
    now = f" ({RULES[name].now})" if name in RULES else ""
    return f"rule {name}: version {there or 1} there, and {here or 1} in {written_by(VERSION)}{now}"
