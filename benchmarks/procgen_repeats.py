"""The share of Procgen's levels that repeat training levels: the table in docs/procgen.md.

    python benchmarks/procgen_repeats.py --trained 200 --others 2000
    python benchmarks/procgen_repeats.py --games coinrun maze ninja --trained 100000 --others 5000

A level drawn from all levels repeats a training level if both have the same first frame with the whole level in view:
`frame` as it is, `layout` with plain backgrounds and one theme (decouple/envs/procgen/levels.py).
"""

from __future__ import annotations

import argparse
from itertools import islice

from decouple.envs.procgen.levels import LOOKS, first_frames, training_fingerprints
from decouple.envs.procgen.options import GAMES


def repeated(game: str, trained: int, others: int, mode: str, told_by: str) -> float:
    """The share of `others` levels, drawn from all, that repeat one of `trained` levels."""
    options = {"distribution_mode": mode, "num_threads": 1, "told_by": told_by}
    if trained <= 10_000:
        seen = training_fingerprints(game, trained, **options)
    else:  # draw from all levels, which are so many that hardly any comes twice
        seen = {fingerprint for _, fingerprint in islice(first_frames(game, 64, seed=1, **options), trained)}
    starts = islice(first_frames(game, 64, seed=2, **options), others)
    return sum(fingerprint in seen for _, fingerprint in starts) / others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--trained", type=int, nargs="+", default=[200])
    parser.add_argument("--others", type=int, default=2000)
    parser.add_argument("--mode", default="easy")
    arguments = parser.parse_args()
    print(f"| game, {arguments.mode} | levels trained on | {' | '.join(LOOKS)} |\n|---|---|---|---|")
    for game in arguments.games:
        for trained in arguments.trained:
            found = (repeated(game, trained, arguments.others, arguments.mode, told_by) for told_by in LOOKS)
            print(f"| {game} | {trained:,} | " + " | ".join(f"{share:.1%}" for share in found) + " |", flush=True)


if __name__ == "__main__":
    main()
