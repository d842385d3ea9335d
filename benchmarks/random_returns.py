"""What uniform random actions earn on a task: the mean return of whole episodes.

    python benchmarks/random_returns.py CartPole-v1
    python benchmarks/random_returns.py ALE/Freeway-v5 --episodes 20 --games 10 --options '{"frame_stack": 4}'

Each of the games plays as many episodes, so that short ones are not favoured. Unbounded actions are drawn from a normal
distribution, as TorchRL draws them.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from decouple.envs.control.tasks import control_env


def random_returns(name: str, episodes: int = 1000, games: int = 50, **options: Any) -> torch.Tensor:
    """The returns (episodes,) of a task of `control_env`, which also gets the `options`; as many of each game."""
    if episodes % games:
        raise ValueError(f"episodes must be a multiple of games, {games}; got {episodes}")
    torch.manual_seed(0)
    env = control_env(name, [0], games, **options)
    left, returns = [episodes // games] * games, []
    step = env.reset()
    while any(left):
        step["action"] = env.action_spec.rand()
        stepped, step = env.step_and_maybe_reset(step)
        for game in stepped["next", "done"].flatten().nonzero().flatten().tolist():
            if left[game]:
                left[game] -= 1
                returns.append(stepped["next", "episode_reward"].flatten()[game])
    env.close()
    return torch.stack(returns).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--games", type=int, default=50)
    parser.add_argument("--options", type=json.loads, default={}, help="further arguments of control_env, as JSON")
    given = parser.parse_args()
    found = random_returns(given.task, given.episodes, given.games, **given.options)
    error = found.std() / len(found) ** 0.5
    print(
        f"{given.task}: {found.mean():.2f} +- {error:.2f} (standard error), from {found.min():.2f} to {found.max():.2f}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
