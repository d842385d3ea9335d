"""What `--help` prints: every setting of a command with its default and its sentence, out of the source.

    print(help_text("control"))

A setting's sentence is the comment at its field. The files are read as text, without an import of PyTorch, so that help
is there at once.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from decouple.commands.folders import CONFIGS, PACKAGE

__all__ = ["COMMANDS", "Part", "help_text", "show"]

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

ROOM = "studies/actor_size"


class Part(NamedTuple):
    """Settings of a command: their heading, the dataclass that has them, and its file below decouple/."""

    heading: str
    file: str
    name: str
    prefix: str = ""  # before each setting's name on the command line
    without: tuple[str, ...] = ()  # fields that are no settings of the command
    default: str | None = None  # what stands for every default; None: each field's own


LEARNING = (
    Part("sac, td3 and ddpg", "off_policy/settings.py", "OffPolicySettings"),
    Part("sac", "off_policy/settings.py", "SACSettings"),
    Part("td3 and ddpg", "off_policy/settings.py", "DDPGSettings"),
    Part("on-policy algorithms", "on_policy/settings.py", "OnPolicySettings", without=("algorithm",)),
    Part("trpo", "on_policy/algorithms/trpo.py", "TRPOSettings"),
)
RECORD = Part("record", "runs/loggers.py", "Tracking")
CONTROL = (Part("", f"{ROOM}/settings.py", "ControlSettings"), RECORD, *LEARNING)
PARTS = {
    "control": CONTROL,
    "pixels": CONTROL,
    "smallest_actor": (
        Part("the search", f"{ROOM}/smallest_actor.py", "SearchSettings", "search."),
        Part("its workers", f"{ROOM}/engines.py", "WorkerSettings", "search."),
        *CONTROL,
    ),
    "separation": (
        Part("the study", "studies/any_task/study.py", "TaskStudy", "study."),
        Part("its workers", f"{ROOM}/engines.py", "WorkerSettings", "study."),
        *CONTROL,
    ),
    "toy": (Part("", f"{ROOM}/toy.py", "ToyStudy"),),
    "distill": (
        Part("", "studies/distillation/settings.py", "DistillationSettings"),
        Part("the students' learning", "studies/distillation/settings.py", "DistillationLearning"),
        RECORD,
        Part("the search, of sizes=search", f"{ROOM}/smallest_actor.py", "SearchSettings", "search."),
        Part("its workers", f"{ROOM}/engines.py", "WorkerSettings", "search."),
    ),
    "size_report": (Part("", f"{ROOM}/report.py", "SizeReport"),),
    "procgen": (
        Part("", "studies/separation/settings.py", "ProcgenExperiment"),
        RECORD,
        Part("learning", "on_policy/settings.py", "OnPolicySettings", without=("precision", "micro_batch")),
        Part("how the run is computed", "runs/performance.py", "Performance", default="null"),
    ),
    "report": (Part("", "studies/separation/report.py", "Report"),),
    "representation": (Part("", "studies/separation/representation.py", "Representation"),),
    "export": (Part("", "studies/export.py", "Export"),),
    "compare": (Part("", "runs/comparison.py", "Compare"),),
    "watch": (Part("", "studies/watch.py", "Watch"),),
}
PAGES = {"procgen": {"env": "env"}}  # settings whose values are pages below configs/, which no sentence lists
NOTES = {
    "control": "+sweep=hyperparameters -m searches for an algorithm's settings.",
    "procgen": "tuned=daac or tuned=idaac: the settings that its authors published for each game.",
}
SOURCES = "Where a default comes from: SB3, Stable-Baselines3; zoo, its RL Baselines3 Zoo; SU, OpenAI's Spinning Up."
EXAMPLES = {
    "control": "env=pendulum algorithm=td3 actor=[4,4] critic=[64,64] seeds=2",
    "pixels": "env=my_tasks:make algorithm=ppo",
    "procgen": "separation=late env=starpilot total_frames=1000000",
    "separation": "env=CartPole-v1",
    "smallest_actor": "env=pendulum algorithm=td3",
    "toy": "",
    "distill": "checkpoint=<a run's folder> actor=[4,4]",
    "watch": "checkpoint=<a run's folder>",
    "export": "checkpoint=<a run's folder>",
    "representation": "checkpoint=<a run's folder>",
    "compare": "runs=[<a folder of runs>]",
    "report": "runs=runs/procgen",
    "size_report": "run_dir=runs/smallest_actor",
}
EACH = "A {} may have other defaults: --cfg job prints the settings of a command."
DEPARTURES = dict.fromkeys(("control", "pixels", "separation", "smallest_actor"), EACH.format("task or an algorithm"))
DEPARTURES["procgen"] = EACH.format("protocol")


def help_text(command: str, width: int | None = None) -> str:
    """The help of a command.

    Args:
        command: the command's module in this room, as `smallest_actor`.
        width: columns of the text, 20 to 1000; None: the terminal's.

    Raises:
        ValueError: no such command, or a width out of range.
    """
    if not isinstance(command, str) or command not in PARTS:
        raise ValueError(f"command must be one of {', '.join(PARTS)}; got {command!r}")
    if width is not None and (type(width) is not int or not 20 <= width <= 1000):  # no `checked`: it imports PyTorch
        raise ValueError(f"width must be a whole number in [20, 1000], or None; got {width!r}")
    width = width or min(120, shutil.get_terminal_size((100, 24)).columns)
    name, does = next((name, does) for name, (module, does) in COMMANDS.items() if module == command)
    lines = [
        f"usage: decouple {name} [setting=value ...]",
        f"   or: python experiments/{command}.py [setting=value ...]",
    ]
    lines += ["", *textwrap.wrap(f"{does[0].upper()}{does[1:]}.", width)]
    lines += [f"For example: decouple {name} {EXAMPLES[command]}".rstrip(), ""]
    pages = PAGES.get(command, {})
    for part in PARTS[command]:
        lines += [f"{part.heading}:", ""] if part.heading else []
        for name, default, sentence in _settings(part):
            names = sorted(page.stem for page in (CONFIGS / pages[name]).glob("*.yaml")) if name in pages else []
            says = f"{sentence}: {', '.join(names)}" if names else sentence
            lines.append(f"  {part.prefix}{name}={default}")
            lines += textwrap.wrap(says, width, initial_indent=8 * " ", subsequent_indent=8 * " ")
        lines.append("")
    lines += [SOURCES] if LEARNING[0] in PARTS[command] else []
    lines += [notes[command] for notes in (NOTES, DEPARTURES) if command in notes]
    return "\n".join([*lines, "-m runs every combination of setting=a,b,c; --hydra-help lists Hydra's own options."])


def show(text: str) -> None:
    """Print, and end quietly where the reader ends first, as `head` does."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(text)


def _settings(part: Part) -> Iterator[tuple[str, str, str]]:
    """Name, default and sentence of each setting of a part."""
    source = (PACKAGE / part.file).read_text()
    lines = source.splitlines()
    (found,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == part.name]
    for decorator in found.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "with_defaults":
            for given in decorator.keywords:
                yield str(given.arg), _shown(given.value), "as above, with another default"
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            continue
        name = node.target.id
        made = node.value.func if isinstance(node.value, ast.Call) else None
        if name not in part.without and not (isinstance(made, ast.Name) and made.id == "part"):
            yield name, part.default or _shown(node.value), _sentence(lines, node)


def _shown(value: ast.expr) -> str:
    """A default as the command line takes it, as null, true or [256,256]; `...` where the source computes it."""
    if isinstance(value, ast.Call):  # field(default_factory=...)
        made = value.keywords[0].value
        empty = ast.List([]) if isinstance(made, ast.Name) and made.id == "list" else ast.Dict([], [])
        value = made.body if isinstance(made, ast.Lambda) else empty
    try:
        found = ast.literal_eval(value)
    except ValueError:
        return "..."
    return found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))


def _sentence(lines: list[str], node: ast.AnnAssign) -> str:
    """The comment behind a field, or the lines of comment before it."""
    own = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :].partition("# ")[2]
    before: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("# "):
            break
        before.insert(0, line.strip()[2:])
    return re.sub(r"\bNone\b", "null", " ".join([*before, own]).strip())
