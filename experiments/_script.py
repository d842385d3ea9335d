"""Repairs that a script of this folder needs before it imports anything else; each imports this file first.

`python experiments/procgen.py` puts this folder first on `sys.path`, where `import procgen` then finds the script in
place of the games: in the script, in TorchRL (which imports procgen where it is installed), and in worker processes,
which inherit the path. Nothing else here is imported by name, so the folder leaves the path for good.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

try:
    from torchrl_decouple import refuse_others
except ImportError:
    sys.exit("this package is not installed: pip install -e . in the clone")

refuse_others()

from decouple.commands.start import begin  # noqa: E402

begin(Path(sys.argv[0]).stem)
