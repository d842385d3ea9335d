"""Run a command, and print in a line or a few what is wrong with it, or what ended it.

@hydra.main(version_base="1.3", config_path=str(CONFIGS / "control"), config_name="control")
def command(config): ...

def main():  # what experiments/control.py calls
    run_command(command)
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable

from decouple.commands.interrupts import interrupted, plain_interrupts
from decouple.commands.refusals import readable, what_is_wrong

__all__ = ["run_command"]


def run_command(command: Callable[[], object]) -> None:
    """Run a function decorated by `hydra.main`; print in a line or a few what is wrong with it, or what ended it.

    A bug keeps its trace; HYDRA_FULL_ERROR=1 shows the trace of any error.
    """
    gc.freeze()  # what was imported stays, and no collection looks through it, the one at Python's end included
    gc.enable()
    full = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    arguments = sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    with plain_interrupts():
        try:
            command()
        except Exception as error:
            if full or interrupted(error):
                raise
            sys.argv[1:] = arguments
            if (says := what_is_wrong(error, command)) is None:
                raise
            sys.exit(f"{says}\n(HYDRA_FULL_ERROR=1 shows where)")


def quoted(argument: str) -> str:
    """`argument`, its value in quotes where Hydra needs them: for an equals sign, as in a sweep's run folder."""
    key, sign, value = argument.partition("=")
    several = "," in value and {"-m", "--multirun"} & set(sys.argv)
    if argument.startswith("-") or not sign or several or readable(argument):
        return argument
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
    return f"{key}='{escaped}'" if readable(f"{key}='{escaped}'") else argument
