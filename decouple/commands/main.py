"""The console command `decouple`: each of its commands is a script of `experiments/`.

decouple procgen separation=late        # python experiments/procgen.py separation=late
decouple --help
"""

from __future__ import annotations

import difflib
import importlib
import sys

from decouple.commands.help import COMMANDS, show
from decouple.commands.start import begin
from decouple.version import VERSION

__all__ = ["main"]


def main() -> None:
    """`decouple <command> setting=value ...`, and `decouple --help`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        show(_help())
        return
    if name == "--version":
        print(f"decouple {VERSION}")
        return
    if name.replace("_", "-") not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        sys.exit(f"decouple: the command must be one of {', '.join(COMMANDS)}; got {name!r}{hint}")
    module, _ = COMMANDS[name.replace("_", "-")]
    sys.argv = [module, *arguments]
    begin(module)
    importlib.import_module(f"decouple.commands.{module}").main()


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {does}" for name, (_, does) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: decouple <command> [setting=value ...]",
            "",
            *lines,
            "",
            "decouple <command> --help lists its settings; -m runs every combination of setting=a,b,c.",
        ]
    )
