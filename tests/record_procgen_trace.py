"""Record tests/data/procgen_trace.npz anew: ``python tests/record_procgen_trace.py``, with procgen installed.

A change to the file means that the games, or the mapping of the seed to their levels, have changed: say why in the
commit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path[1:1] = [str(Path(__file__).parent / "envs" / "procgen"), str(Path(__file__).parents[1])]

from test_procgen_games import TRACE, TRACE_GAMES, play_trace  # noqa: E402

if __name__ == "__main__":
    columns = {f"{game}_{key}": column for game in TRACE_GAMES for key, column in play_trace(game).items()}
    TRACE.parent.mkdir(exist_ok=True)
    np.savez_compressed(TRACE, **columns)
    print(f"{TRACE}: {TRACE.stat().st_size} bytes, {sorted(columns)}")
