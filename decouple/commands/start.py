"""What a command needs before it imports anything else; nothing here imports PyTorch.

begin("control")        # first in a script, before `from decouple.commands.control import main`
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from decouple.commands.help import PARTS, help_text, show
from decouple.runs.notices import drop_gym_notice

__all__ = ["begin", "end_at_once"]


def begin(command: str) -> None:
    """Prepare the process for a command, or print its help and end.

    `--help` prints the settings out of the source, before anything else is imported.

    Imports make some 600,000 objects that stay to the end. Python's garbage collector would look through them again and
    again, for a second; it waits until `run_command` of `decouple/commands/running.py`.

    Ctrl-C, and SIGTERM as Slurm sends it, end a command with one line instead of a stack while it still imports;
    `decouple/commands/interrupts.py` takes over from there.

    Args:
        command: the command's module in this room.
    """
    if command in PARTS and {"-h", "--help"} & set(sys.argv[1:]):
        show(help_text(command))
        sys.exit()
    gc.disable()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup's SIG_IGN stays
            signal.signal(number, end_at_once)
    drop_gym_notice()


def end_at_once(number: int, _: object) -> None:
    """Handle a signal: print one line and exit without cleaning up. A run on the disk is whole at every moment."""
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    os.write(2, f"stopped by {name}; the same command goes on from what is on the disk\n".encode())
    os._exit(128 + number)
