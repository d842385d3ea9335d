"""What every script of this folder needs; import it first, for it mends two things that later imports would meet.

`python experiments/procgen.py` puts this folder first on `sys.path`, where `import procgen` then finds the script in
place of the games: in the script, in TorchRL (which imports procgen where it is installed), and in worker processes,
which inherit the path. Nothing else here is imported by name, so the folder leaves the path for good.

And gym, which procgen and TorchRL import, prints four lines to stderr about its age: a notice from a table, emptied.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

with contextlib.suppress(ImportError):
    from gym_notices import notices

    notices.notices.clear()


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """What is wrong with a command, or with the folder it goes on with, in a line or a few; bugs keep their trace."""
    from decouple.checkpoint import CheckpointError

    try:
        yield
    except (ValueError, ImportError, OSError, CheckpointError) as error:
        if "HYDRA_FULL_ERROR" in os.environ:
            raise
        sys.exit(f"{type(error).__name__}: {error}\n(HYDRA_FULL_ERROR=1 shows where)")


def register_control() -> None:
    """Make the algorithms of control tasks, with all their settings, choices of Hydra's group `algorithm`."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from decouple.control import CONTROL_ALGORITHMS, sizes_name

    for name, settings in CONTROL_ALGORITHMS.items():
        ConfigStore.instance().store(group="algorithm", name=name, node=settings, package="_global_")
    OmegaConf.register_new_resolver("sizes", sizes_name, replace=True)
