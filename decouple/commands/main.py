"""The console command `decouple`: each of its commands is a script of `experiments/`.

decouple procgen separation=late        # python experiments/procgen.py separation=late
decouple --help
"""

from __future__ import annotations

import difflib
import importlib
import sys

from decouple.commands.help import show
from decouple.commands.start import begin
from decouple.version import VERSION

__all__ = ["COMMANDS", "main"]

COMMANDS = {  # name: module in this room, and what it does
    "procgen": ("procgen", "train PPO, DAAC, PPG, ... on a Procgen game, policy and value separated at any block"),
    "representation": ("representation", "analyse what the two networks of a Procgen run have learned"),
    "report": ("report", "figures, tables and a recommendation from runs on Procgen"),
    "control": ("control", "train actors and critics of any sizes on a control task or a game, several seeds at once"),
    "pixels": ("pixels", "train agents that read pictures, on any environment, with training and test levels"),
    "toy": ("toy", "train a one-neuron actor beside critics of five sizes"),
    "separation": (
        "separation",
        "where should policy and value separate on a task? train every k, and write a page",
    ),
    "smallest-actor": ("smallest_actor", "search for the smallest actor that still does the job"),
    "distill": ("distill", "teach a small actor by a trained one, or search for the smallest that can be taught"),
    "size-report": ("size_report", "tables and pictures of the searches so far"),
    "compare": ("compare", "draw the curves of any runs side by side"),
    "watch": ("watch", "draw one trained agent at play, as GIF and MP4"),
    "export": ("export", "write one trained actor to a file (ONNX, C, PT2, a page), checked against the run"),
}


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
