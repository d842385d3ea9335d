"""Import this first in every script of this folder: it mends two things that later imports would meet.

`python experiments/procgen.py` puts this folder first on `sys.path`, where `import procgen` then finds the script in
place of the games: in the script, in TorchRL (which imports procgen where it is installed), and in worker processes,
which inherit the path. Nothing else here is imported by name, so the folder leaves the path for good.

And gym, which procgen and TorchRL import, prints four lines to stderr about its age: a notice from a table, emptied.
"""

import contextlib
import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

with contextlib.suppress(ImportError):
    from gym_notices import notices

    notices.notices.clear()
