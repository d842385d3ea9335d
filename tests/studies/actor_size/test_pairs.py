"""Every observation space with every action space and every algorithm: it trains, or one error says what it takes."""

from __future__ import annotations

from typing import Any

import pytest
from pairwise import grid

from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents

gymnasium = pytest.importorskip("gymnasium")
import odd_spaces  # noqa: E402

OBSERVATIONS = {
    "Box": odd_spaces.BOX,
    **{name: space for name, (space, _) in odd_spaces.READ_OBSERVATIONS.items() if name != "Integers"},
    "Words": odd_spaces.REFUSED_OBSERVATIONS["Words"][0],
}
ON_POLICY = ("Unbounded", "MultiDiscrete", "MultiBinary")
ACTIONS = {
    **{name: odd_spaces.PLAYED_SPACES[name] for name in ("StartAtThree", "Unequal")},
    **{name: odd_spaces.ON_POLICY_SPACES[name] for name in ON_POLICY},
}
REFUSED = {  # by what the error says of the actions
    "sac": ON_POLICY,
    "td3": ("StartAtThree", *ON_POLICY),
    "ddpg": ("StartAtThree", *ON_POLICY),
    "ppo": (),
    "trpo": (),
}
SAME: dict[str, Any] = {
    **{"actor": [4], "critic": [4], "evaluate_episodes": 1, "final_episodes": 1, "show_progress": False},
    **{"total_frames": 16, "num_threads": 1, "evaluate_every": 16, "checkpoint_every": 16},
}
OFF_POLICY: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 20, "log_every": 8}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("sac", "td3", "ddpg"), OFF_POLICY),
    "ppo": {"rollout_steps": 16, "minibatches": 1, "epochs": 1, "separation": 1},
    "trpo": {"rollout_steps": 16},
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    for seen, observations in OBSERVATIONS.items():
        for done, actions in ACTIONS.items():
            odd_spaces.PLAYED[f"{done} {seen}"] = []
            gymnasium.register(
                f"Pair/{done}{seen}-v0",
                lambda name=f"{done} {seen}", actions=actions, seen=observations: odd_spaces.Odd(name, actions, seen),
            )


@grid(seen=list(OBSERVATIONS), done=list(ACTIONS), algorithm=list(REFUSED))
def test_a_pair_of_spaces_trains_or_is_refused_with_what_is_supported(seen, done, algorithm, tmp_path):
    make = CONTROL_ALGORITHMS[algorithm]
    config = make(env=f"Pair/{done}{seen}-v0", run_dir=str(tmp_path / "run"), **SAME, **OWN[algorithm])
    says = None
    if seen == "Words":
        says = r"name must be a task whose observations are numbers .*: a Box, Discrete, .*; got Text\("
    elif done in REFUSED[algorithm]:
        says = r"action_spec must be .*(PPO, DAAC, IDAAC and TRPO take).*; got (Categorical|Unbounded|Multi)"
    if says is None:
        train_agents(config)
        assert len(odd_spaces.PLAYED[f"{done} {seen}"]) >= 16
        return
    with pytest.raises(ValueError, match=says):
        train_agents(config)
    assert not (tmp_path / "run").exists()
