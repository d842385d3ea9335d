"""The identity of a run: the settings that its results depend on, and the rules changed since 0.1, with versions.

    identity_of(settings, SETTINGS_OF_CONTROL, leave_out={"run_dir"}, unit_actions=lambda: True)
    # {"env": "pong", "gamma": 0.99, ..., "rules": {"pong_limit": 2}}

Two runs with the same identity have the same results. The identity is part of a run's checkpoint and of a cell's key,
so that a result of an old rule never counts as one of the new rule: the checkpoint is refused by name, the cell is
another cell. A rule enters only if it concerns the run, and only from version 2 on: runs of 0.1 resume where none of
their rules has changed. A setting added after 0.1 enters only when it is not at its default, so that a new setting
refuses no checkpoint and loses no cell. A default that changes later needs a rule here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from decouple.checks import Must, at_least, checked, has
from decouple.runs.settings import defaults_of, flat
from decouple.version import VERSION, written_by

__all__ = [
    "RULES",
    "SETTINGS_OF_CONTROL",
    "SETTINGS_OF_PROCGEN",
    "Rule",
    "identity_of",
    "idle_settings",
    "outdated",
    "rule_text",
    "rules_of",
]


OFF_POLICY = ("sac", "td3", "ddpg")


@dataclass(frozen=True)
class Rule:
    """A rule that has changed since 0.1.

    Attributes:
        version: number of the rule's version: 1 in 0.1, 2 after the first change.
        now: text of the rule, and of the rule before.
        concerns: a function that returns True for runs that the rule concerns. Its arguments are the run's settings,
            and a function that asks the task whether all its actions are discrete or bounded by -1 and 1.
    """

    version: int
    now: str
    concerns: Callable[[Mapping[str, Any], Callable[[], bool]], bool]


# One entry for each rule that has changed since 0.1.
RULES: dict[str, Rule] = {
    "pong_limit": Rule(
        2, "a game of Pong is cut after 100,000 frames; in 0.1 after 10,000", lambda s, _: s["env"] == "pong"
    ),
    "action_unit": Rule(
        2,
        "SAC, TD3 and DDPG learn on actions in [-1, 1]; in 0.1 on those in the task's units",
        lambda s, unit_actions: s.get("algorithm") in OFF_POLICY and not unit_actions(),
    ),
    "dynamics_loss": Rule(
        2,
        "DDCPG's loss weighs the false next state by one, as the released code; before by half",
        lambda s, _: s.get("algorithm") == "ddcpg",
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

# Settings that were part of an identity in 0.1, and stay part of it at any value.
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
    """The settings that a run's results depend on, and under "rules" the versions of changed rules, if any.

    Args:
        settings: the run's settings, a dataclass; its parts' settings enter by their flat keys
            (`decouple.runs.settings`).
        always: names that enter at any value; the others enter only when they are not at their default.
        leave_out: names that never enter.
        unit_actions: a function that asks the task whether all its actions are discrete or bounded by -1 and 1.
        defaults: default of each flat key, as `FlatKeys.defaults`; None: those of the dataclasses.
    """
    values, defaults = flat(settings), defaults_of(settings) if defaults is None else defaults
    kept = {
        name: value
        for name, value in values.items()
        if name not in leave_out and (name in always or value != defaults.get(name, dataclasses.MISSING))
    }
    rules = rules_of(values, unit_actions)
    return kept | ({"rules": rules} if rules else {})


def idle_settings(settings: Mapping[str, Any]) -> set[str]:
    """The names of settings that change nothing in a run of these settings, so that a checkpoint may hold others.

    They stay in an identity where they are not at their default: cells have their keys from it.
    """
    gated = settings.get("separation", "learned") == "learned"  # without a separation they may be anybody's
    return set() if gated else {"gate_prices", "gate_rate"}


@checked(settings=has("env"))
def rules_of(settings: Mapping[str, Any], unit_actions: Callable[[], bool]) -> dict[str, int]:
    """The changed rules that concern a run of these settings, with their versions."""
    return {name: rule.version for name, rule in RULES.items() if rule.concerns(settings, unit_actions)}


@checked(settings=has("env"))
def outdated(rules: Mapping[str, int], settings: Mapping[str, Any], unit_actions: Callable[[], bool]) -> list[str]:
    """Sentences on each rule under which results were computed in another version than today's; empty: they count.

    Args:
        rules: versions of the rules of the results, from their identity.
        settings, unit_actions: the run's settings and question to its task, as for `rules_of`.
    """
    here = rules_of(settings, unit_actions)
    return [
        rule_text(name, rules.get(name), here.get(name))
        for name in sorted({*rules, *here})
        if rules.get(name) != here.get(name)
    ]


@checked(there=at_least(1), here=at_least(1))
def rule_text(name: str, there: int | None, here: int | None) -> str:
    """A sentence with a rule's version in a file (`there`) and in this program (`here`); None: version 1."""
    now = f" ({RULES[name].now})" if name in RULES else ""
    return f"rule {name}: version {there or 1} there, and {here or 1} in {written_by(VERSION)}{now}"
