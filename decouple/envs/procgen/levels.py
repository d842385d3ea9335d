"""Repeated levels of Procgen, and the test episodes whose levels repeat no training level.

    seen = training_fingerprints("coinrun", num_levels=200)
    unseen = unseen_episodes("coinrun", 100, seed=0, seen=seen)         # bool (100,)

A level is identified by its first frame with the whole level in view (`center_agent=False`), as in
https://github.com/openai/procgen/issues/100. There, 24% of further levels of coinrun, and 20% of maze, have the first
frame of one of 100,000 levels. With `told_by="frame"` the same layout before another background is another level. With
`"layout"`, the frame with plain backgrounds, one theme and monochrome assets, it is the same level, and far more levels
repeat.

Some games add objects later (bigfish, bossfight, dodgeball, leaper, plunder, starpilot) or scroll (fruitbot): the first
frame shows little of a level. Levels with equal first layouts may then differ later, so that too many episodes are left
out, never too few.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Generator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from decouple.checks import SEED, at_least, check_setting, checked
from decouple.envs.procgen.games import ProcgenGamesEnv

__all__ = ["LOOKS", "first_frames", "training_fingerprints", "unseen_episodes"]

LOOKS: dict[str, dict[str, bool]] = {  # value of `told_by`: the game's options with which the first frame is drawn
    "frame": {},
    "layout": {"use_backgrounds": False, "restrict_themes": True, "use_monochrome_assets": True},
}
NO_OP = 4


@checked(num_envs=at_least(1))
def first_frames(
    game: str, num_envs: int, *, told_by: str = "layout", **options: Any
) -> Generator[tuple[int, bytes], None, None]:
    """Yield level seed and fingerprint of the first frame of one episode after another, without end, games in turn.

    The first `num_envs` are the levels of the first episodes of `ProcgenGamesEnv(game, num_envs, **options)`.

    Args:
        game: one of `GAMES`.
        num_envs: number of games in lockstep.
        told_by: `layout` or `frame`: the view whose equality makes fingerprints equal.
        **options: options of `ProcgenGamesEnv` that choose levels, and `num_threads`, `backend`.

    Yields:
        The level's seed, and a fingerprint of 16 bytes, equal for equal levels.
    """
    check_setting("told_by", told_by, LOOKS.__contains__, " or ".join(LOOKS))
    env = ProcgenGamesEnv(game, num_envs, center_agent=False, **LOOKS[told_by], **options)
    try:
        while True:
            shown = env.reset()
            levels, frames = shown["level_seed"].reshape(-1).tolist(), shown["observation"].cpu().numpy()
            for level, frame in zip(levels, frames, strict=True):
                yield level, hashlib.blake2b(frame.tobytes(), digest_size=16).digest()
            env.step(shown.set("action", torch.full(env.batch_size, NO_OP)))
    finally:
        env.close()


@checked(num_levels=at_least(1), start_level=at_least(0))
def training_fingerprints(
    game: str,
    num_levels: int,
    start_level: int = 0,
    *,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> frozenset[bytes]:
    """Fingerprints of all levels in [start_level, start_level + num_levels).

    Games draw their levels at random, so that n levels take about n log n episode starts: 200 take about a second.

    Args:
        game: one of `GAMES`.
        num_levels: number of levels, at least 1.
        start_level: first level.
        progress: function called with the number of levels found so far and `num_levels`.
        **options: `told_by`, `distribution_mode`, `num_threads`, `backend`, as for `first_frames`.

    Returns:
        Set of at most `num_levels` fingerprints: training levels may repeat one another.
    """
    levels = {"num_levels": num_levels, "start_level": start_level}
    found: dict[int, bytes] = {}
    with contextlib.closing(first_frames(game, min(num_levels, 64), **levels, **options)) as starts:
        while len(found) < num_levels:
            level, fingerprint = next(starts)
            found[level] = fingerprint
            if progress:
                progress(len(found), num_levels)
    return frozenset(found.values())


@checked(num_envs=at_least(1), seed=SEED)
def unseen_episodes(game: str, num_envs: int, seed: int, seen: Collection[bytes], **options: Any) -> Tensor:
    """A mask of the games whose first episode, drawn from all levels, has a level whose fingerprint is not in `seen`.

    Args:
        game: one of `GAMES`.
        num_envs: N, number of games in the environment that plays the episodes.
        seed: seed of that environment, which determines its levels.
        seen: fingerprints from `training_fingerprints`.
        **options: options as for `training_fingerprints`.

    Returns:
        Bool (N,), for the first episode of each game of `ProcgenGamesEnv(game, num_envs, seed=seed)`.
    """
    with contextlib.closing(first_frames(game, num_envs, seed=seed, **options)) as starts:
        return torch.tensor([fingerprint not in seen for _, fingerprint in islice(starts, num_envs)])
