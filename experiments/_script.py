"""Repairs that a script of this folder needs before it imports anything else; each imports this file first.

`python experiments/procgen.py` puts this folder first on `sys.path`, where `import procgen` then finds the script in
place of the games: in the script, in TorchRL (which imports procgen where it is installed), and in worker processes,
which inherit the path. Nothing else here is imported by name, so the folder leaves the path for good.

Imports make some 600,000 objects that stay to the end. Python's garbage collector would look through them again and
again, for a second; it waits until `run_command` of `decouple/commands/running.py`.

Gym, which procgen and TorchRL import, prints four lines about its age to stderr; its table of notices is emptied.

Ctrl-C, and SIGTERM as Slurm sends it, end a command with one line instead of a stack while it still imports;
`decouple/commands/interrupts.py` takes over from there.
"""

import contextlib
import gc
import os
import signal
import sys
from pathlib import Path

gc.disable()


def end_at_once(number: int, _: object) -> None:
    """Handle a signal: print one line and exit without cleaning up. A run on the disk is whole at every moment."""
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    os.write(2, f"stopped by {name}; the same command goes on from what is on the disk\n".encode())
    os._exit(128 + number)


for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup's SIG_IGN stays
        signal.signal(number, end_at_once)

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

with contextlib.suppress(ImportError):
    from gym_notices import notices

    notices.notices.clear()
