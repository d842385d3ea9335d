"""Frames of an agent's own episodes, with action, reward and return to go, on which its features are measured.

recording = record_episodes(env, model.get_policy_operator(), frames=2048, gamma=0.999)
recording["observation"], recording["return"], recording["episode"]     # (n, ...), (n,), (n,)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type

from decouple.checks import PROBABILITY, SEED, at_least, check_setting, checked, positive_whole
from decouple.networks.fitting import evaluating
from decouple.networks.recurrence import with_memory

__all__ = ["record_episodes"]


@checked(frames=at_least(1), gamma=PROBABILITY, seed=SEED, max_steps=at_least(1))
def record_episodes(
    env: EnvBase,
    policy: nn.Module,
    *,
    frames: int,
    gamma: float,
    seed: int = 0,
    keys: Sequence[str] = (),
    max_steps: int = 100_000,
    progress: Callable[[int, int], object] | None = None,
) -> TensorDict:
    """Draw equally many frames from the first episode of each environment, uniformly over its steps.

    Whole episodes are played with sampled actions, but only the drawn frames are kept (reservoir sampling, Vitter
    1985), so memory does not grow with the episodes' length. An episode's last frame, which no frame follows, is not
    drawn. An episode with fewer frames than its share gives all of them.

    Args:
        env: batched environment (N,), without reward scaling; its actions have no axis of their own.
        policy: module that reads the observation and writes `action`.
        frames: number of frames in all, at least N; rounded down to a multiple of N.
        gamma: discount of the return to go.
        seed: seed of the draw of frames. Actions are drawn from torch's global generator.
        keys: further observation keys to record, integers (N, 1), as `level_seed`.
        max_steps: most steps of an episode; a longer one is an error and is never cut off.
        progress: called with the episodes finished and N.

    Returns:
        On the CPU, episode by episode, n at most `frames`: `observation` and `next_observation` (n, ...), `action`
        (n,), `reward` float64 (n,), `return`, sum_i gamma^i r_(t+i) to the episode's end, float64 (n,), `episode` and
        `step` int64 (n,), and `keys`, (n,).

    Raises:
        RuntimeError: an episode did not end within `max_steps`, or none had a second step.
    """
    count = env.batch_size.numel()
    shown = [key for key in keys if key not in env.observation_spec.keys()]
    check_setting("keys", shown, lambda unknown: not unknown, f"among env's keys {list(env.observation_spec.keys())}")
    check_setting("frames", frames, lambda n: positive_whole(n) and n >= count, f"at least {count}, one per episode")
    env = with_memory(env, policy)
    drawn = _Drawn(count, frames // count, keys, seed)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM), evaluating(policy):
        state = env.reset()
        for step in range(max_steps):
            transition, following = env.step_and_maybe_reset(policy(state))
            drawn.see(step, transition.cpu())
            running = int(drawn.running.sum())
            if progress:
                progress(count - running, count)
            if not running:
                return drawn.recording(gamma)
            state = following
    raise RuntimeError(f"{int(drawn.running.sum())} of {count} episodes did not end within max_steps={max_steps}")


class _Drawn:
    """The frames drawn from each environment's first episode, and all of its rewards.

    Args:
        episodes: number of environments.
        share: frames to draw from each episode.
        keys: further observation keys to keep.
        seed: seed of the draw.
    """

    def __init__(self, episodes: int, share: int, keys: Sequence[str], seed: int):
        self.share, self.keys, self.draw = share, keys, np.random.default_rng(seed)
        self.kept: list[list[dict[str, Tensor]]] = [[] for _ in range(episodes)]
        self.rewards: list[list[float]] = [[] for _ in range(episodes)]
        self.running = np.ones(episodes, dtype=bool)

    def see(self, step: int, transition: TensorDictBase) -> None:
        """Take in one step (N,) of the episodes that still run."""
        reward, done = (transition["next", key].reshape(-1).numpy() for key in ("reward", "done"))
        for index in np.flatnonzero(self.running):
            self.rewards[index].append(float(reward[index]))
            place = step if step < self.share else int(self.draw.integers(step + 1))
            if place < self.share and not done[index]:  # replaces an earlier frame once there are `share` of them
                frame = _frame(transition[int(index)], int(index), step, self.keys)
                self.kept[index][place : place + 1] = [frame]
        self.running &= ~done

    def recording(self, gamma: float) -> TensorDict:
        """The frames (n,), episode by episode, each with its return to go."""
        to_go = [_returns_to_go(of_episode, gamma) for of_episode in self.rewards]
        rows = [
            frame | {"return": torch.tensor(to_go[index][int(frame["step"])], dtype=torch.float64)}
            for index, own in enumerate(self.kept)
            for frame in own
        ]
        if not rows:
            raise RuntimeError("no frame was recorded: no episode went on beyond its first step")
        return TensorDict({key: torch.stack([row[key] for row in rows]) for key in rows[0]}, [len(rows)])


def _frame(transition: TensorDictBase, episode: int, step: int, keys: Sequence[str]) -> dict[str, Tensor]:
    """The recorded tensors of one step of one environment."""
    return {
        "observation": transition["observation"].clone(),
        "next_observation": transition["next", "observation"].clone(),
        "action": transition["action"].clone(),
        "reward": transition["next", "reward"].double().squeeze(-1),
        "episode": torch.tensor(episode),
        "step": torch.tensor(step),
        **{key: transition[key].squeeze(-1).clone() for key in keys},
    }


def _returns_to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    total, returns = 0.0, []
    for reward in reversed(rewards):
        total = reward + gamma * total
        returns.append(total)
    return returns[::-1]
