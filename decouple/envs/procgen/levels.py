"""Which levels of Procgen repeat one another: test episodes on levels that are like none trained on.

    seen = training_fingerprints("coinrun", num_levels=200)
    unseen = unseen_episodes("coinrun", 100, seed=0, seen=seen)         # bool (100,)

A level is told by its first frame with the whole level in view (`center_agent=False`), as in
https://github.com/openai/procgen/issues/100, where of levels beyond 100,000 others 24% show the first frame of one of
them in coinrun and 20% in maze. Told by its `frame`, the same layout before another background is another level; by its
`layout`, the frame with plain backgrounds, one theme and monochrome assets, it is the same, and far more levels repeat.

Games that add what comes later (bigfish, bossfight, dodgeball, leaper, plunder, starpilot) or scroll (fruitbot) show
little of a level at first. There an equal layout need not go on equally: more is left out than repeats, never less.
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

LOOKS: dict[str, dict[str, bool]] = {  # what tells a level: the games' options that its first frame is drawn with
    "frame": {},
    "layout": {"use_backgrounds": False, "restrict_themes": True, "use_monochrome_assets": True},
}
NO_OP = 4


@checked(num_envs=at_least(1))
def first_frames(
    game: str, num_envs: int, *, told_by: str = "layout", **options: Any
) -> Generator[tuple[int, bytes], None, None]:
    """Level seed and fingerprint of one episode's start after another, of all games in turn, without end.

    The first `num_envs` are the levels that the first episodes of `ProcgenGamesEnv(game, num_envs, **options)` play.

    Args:
        game: one of `GAMES`.
        num_envs: games in lockstep.
        told_by: `layout` or `frame`: what is to be equal where fingerprints are.
        **options: those of `ProcgenGamesEnv` that choose levels, and `num_threads`, `backend`.

    Yields:
        The level's seed, and 16 bytes that are equal for equal levels.
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

    Games draw their levels, so about n log n starts are seen for n levels: 200 take about a second.

    Args:
        game: one of `GAMES`.
        num_levels: at least 1.
        start_level: the first.
        progress: called with the levels found and `num_levels`.
        **options: `told_by`, `distribution_mode`, `num_threads`, `backend`, as for `first_frames`.

    Returns:
        At most `num_levels`: training levels may repeat one another.
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
    """Which of the first episodes on all levels play a level whose fingerprint is none of those seen.

    Args:
        game: one of `GAMES`.
        num_envs: of the environment that plays the episodes.
        seed: of that environment, on which its levels depend.
        seen: from `training_fingerprints`.
        **options: as for `training_fingerprints`.

    Returns:
        Bool (N,), for the first episode of each game of `ProcgenGamesEnv(game, num_envs, seed=seed)`.
    """
    with contextlib.closing(first_frames(game, num_envs, seed=seed, **options)) as starts:
        return torch.tensor([fingerprint not in seen for _, fingerprint in islice(starts, num_envs)])
