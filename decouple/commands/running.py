"""How a command is run: what is wrong with it, or ends it, is said in a line or a few.

@hydra.main(version_base="1.3", config_path=str(CONFIGS / "control"), config_name="control")
def command(config): ...

def main():  # what experiments/control.py calls
    run_command(command)
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sqlite3
import sys
import traceback
from collections.abc import Callable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from decouple.commands.interrupts import interrupted, plain_interrupts
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.finite import NotFiniteError
from decouple.studies.actor_size.workers import CellError

__all__ = ["run_command"]


def run_command(command: Callable[[], object]) -> None:
    """Run a command, a function that `hydra.main` gave: what is wrong with it, or ends it, is said in a line or a few.

    A bug keeps its trace, and HYDRA_FULL_ERROR=1 shows that of any error.
    """
    full = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on, in place of printing them
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
    """`argument` as Hydra can read it: a value with an equals sign, such as a path of a sweep's run, in quotes."""
    key, sign, value = argument.partition("=")
    several = "," in value and {"-m", "--multirun"} & set(sys.argv)
    if argument.startswith("-") or not sign or several or readable(argument):
        return argument
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
    return f"{key}='{escaped}'" if readable(f"{key}='{escaped}'") else argument


def readable(argument: str) -> bool:
    """Whether it is of Hydra's grammar, https://hydra.cc/docs/1.3/advanced/override_grammar/basic."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def what_is_wrong(error: Exception, command: Callable[[], object]) -> str | None:
    """What an error says of the command, or of the folder that it goes on with; None: it is a bug."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, HydraException):
        unread = [argument for argument in sys.argv[1:] if not argument.startswith("-") and not readable(argument)]
        if unread:
            says = """an argument is setting=value, and quotes within quotes make text of any value: run_dir="'a=b'\""""
            return f"ValueError: {' '.join(unread)} cannot be read ({text.splitlines()[0]}); {says}"
        because = str(error.__cause__).splitlines()[0] if isinstance(error.__cause__, OmegaConfBaseException) else ""
        what = " ".join(text.partition("Config search path:")[0].split())  # on one line, without where Hydra looked
        return f"{name}: {what}" + f": {because}" * bool(because)
    if isinstance(error, OmegaConfBaseException):
        what = " ".join(text.splitlines()[:1])
        return f"{name}: {error.full_key}: {what}" if error.full_key else f"{name}: {what}"
    if any(frame.name == "load_configuration" for frame in traceback.extract_tb(error.__traceback__)):
        return f"{name}: {' '.join(culprits(command))}: {text}"  # Hydra stumbled over it
    known = isinstance(
        error, ValueError | ImportError | OSError | sqlite3.Error | CheckpointError | CellError | NotFiniteError
    )
    return f"{name}: {text}" if known else None


def culprits(command: Callable[[], object]) -> list[str]:
    """The arguments without which the settings can be composed; all, where no single one is to blame."""
    arguments, found = sys.argv[1:], []
    for index, argument in enumerate(arguments):
        sys.argv[1:] = ["--cfg", "job", *arguments[:index], *arguments[index + 1 :]]
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            command()
            found.append(argument)
    return found or arguments
