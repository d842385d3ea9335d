"""What a command needs before it imports anything else. Importing this file does it; nothing here imports PyTorch.

Imports make some 600,000 objects that stay to the end. Python's garbage collector would look through them again and
again, for a second; it waits until `run_command` of `decouple/commands/running.py`.

Gym, which procgen and TorchRL import, prints four lines about its age to stderr; its table of notices is emptied.

`--help` prints the settings out of the source and ends, before anything else is imported.

Ctrl-C, and SIGTERM as Slurm sends it, end a command with one line instead of a stack while it still imports;
`decouple/commands/interrupts.py` takes over from there.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from pathlib import Path

from decouple.commands.help import PARTS, help_text, show

__all__ = ["end_at_once"]

gc.disable()


def end_at_once(number: int, _: object) -> None:
    """Handle a signal: print one line and exit without cleaning up. A run on the disk is whole at every moment."""
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    os.write(2, f"stopped by {name}; the same command goes on from what is on the disk\n".encode())
    os._exit(128 + number)


for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup's SIG_IGN stays
        signal.signal(number, end_at_once)

command = Path(sys.argv[0]).stem if sys.argv else ""  # the script, or what `main` has put there
if command in PARTS and {"-h", "--help"} & set(sys.argv[1:]):
    show(help_text(command))
    sys.exit()

with contextlib.suppress(ImportError):
    from gym_notices import notices

    notices.notices.clear()
