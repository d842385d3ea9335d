"""The card of an exported actor, `actor.onnx.md` beside the file: what it reads and gives, its cost, how good it is.

    card = card_path(Path("actor.onnx"))
    card.write_text(actor_card(Path("actor.onnx"), report.metadata))    # each fact that is not known is left out

The same facts are in the file's metadata. A task of Gymnasium comes with a script that plays it from the file alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decouple.deploy.plain_c import c_name

__all__ = ["actor_card", "card_path"]

MEMORY = {"flash_bytes": "code and constants", "stack_bytes": "stack"}
ENCODED = {"Discrete": "an index, one-hot", "MultiDiscrete": "indices, each one-hot"}  # kinds of spaces in a vector

ONNX_SCRIPT = '''\
"""pip install onnxruntime gymnasium; python play.py"""
import gymnasium, numpy, onnxruntime

session = onnxruntime.InferenceSession({name!r})
env = gymnasium.make({task!r}{options})
{bounds}returns = []
for episode in range({episodes}):
    seed = int(numpy.random.SeedSequence([{seed}, episode]).generate_state(1)[0])  # the episodes of the card
    observation, _ = env.reset(seed=seed)
    {begins}total, over = 0.0, False
    while not over:
        batch = numpy.asarray(observation, numpy.{dtype}).reshape(1, -1)
        {acts}
        observation, reward, terminated, truncated, _ = env.step({action})
        total, over = total + float(reward), terminated or truncated
    returns.append(total)
error = 1.96 * numpy.std(returns, ddof=1) / len(returns) ** 0.5
print(f"return {{numpy.mean(returns):.6g}} +- {{error:.3g}} (95 %) over {{len(returns)}} episodes")
'''
C_SCRIPT = '''\
"""cc -O2 -shared -fPIC -o actor.so {name} -lm; pip install gymnasium; python play.py"""
import ctypes, gymnasium, numpy

library = ctypes.CDLL("./actor.so")
env = gymnasium.make({task!r}{options})
{bounds}output = numpy.zeros({outputs}, numpy.{kind})
returns = []
for episode in range({episodes}):
    seed = int(numpy.random.SeedSequence([{seed}, episode]).generate_state(1)[0])  # the episodes of the card
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        numbers = numpy.asarray(observation, numpy.float32).ravel()
        assert numbers.size == {inputs}, "the actor reads {inputs} numbers"
        library.{prefix}_act(ctypes.c_void_p(numbers.ctypes.data), ctypes.c_void_p(output.ctypes.data))
        observation, reward, terminated, truncated, _ = env.step({action})
        total, over = total + float(reward), terminated or truncated
    returns.append(total)
error = 1.96 * numpy.std(returns, ddof=1) / len(returns) ** 0.5
print(f"return {{numpy.mean(returns):.6g}} +- {{error:.3g}} (95 %) over {{len(returns)}} episodes")
'''
CALLS = {
    ".onnx": """\
import numpy, onnxruntime
session = onnxruntime.InferenceSession({name!r})
inputs = {{"observation": numpy.zeros({shape}, numpy.{dtype}){others}}}
{outputs} = session.run([{named}], inputs)
""",
    ".pt2": """\
import torch
actor = torch.export.load({name!r}).module()
{outputs} = actor(torch.zeros({shape}, dtype=torch.{dtype}){others})
""",
}


def card_path(path: Path) -> Path:
    """Where the card of an exported file is: each format of an actor has its own."""
    return path.with_name(f"{path.name}.md")


def actor_card(path: Path, facts: Mapping[str, Any]) -> str:
    """The card's text.

    Args:
        path: the exported file; its name alone is in the card.
        facts: the file's metadata, as `ExportReport.metadata`.
    """
    lines = [f"# {', '.join(_title(facts)) or 'An actor'}", ""]
    lines += [f"`{path.name}`, an actor without its critic.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in _rows(facts) if value is not None]
    lines += ["", "## Observation", "", *_components(facts, "observation"), "", *_prepared(facts), *_scaling(facts)]
    lines += ["", "## Action", "", *_components(facts, "action"), "", *_noise(facts), *_in_the_task(facts)]
    if "state" in facts:
        shape = facts["state"]["shape"][1:]
        lines += [
            "",
            "## Memory",
            "",
            f"The input `state`, float32 {shape}, is zeros where an episode begins, and the output",
        ]
        lines += ["`next_state` of the step before elsewhere."]
    return "\n".join([*lines, "", "## Run it", "", *_script(path, facts), ""])


def _title(facts: Mapping[str, Any]) -> list[str]:
    seed = [f"seed {facts['seed']}"] if "seed" in facts else []
    return [str(facts[name]) for name in ("task", "algorithm") if name in facts] + seed


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    played, own, latency = facts.get("return"), facts.get("return_of_model"), facts.get("latency_us")
    memory = [f"{facts[key]:,} bytes of {what}" for key, what in MEMORY.items() if key in facts]
    on = f", on {facts['played_on']}" if "played_on" in facts else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    trained = [str(facts["algorithm"])] if "algorithm" in facts else []
    trained += [f"{facts['frames']:,} frames"] if "frames" in facts else []
    trained += [f"by a teacher, {_teacher(facts['teacher'])}"] if "teacher" in facts else []
    trained += [f"separation {facts['separation']}"] if "separation" in facts else []
    critic = "x".join(map(str, facts["critic"])) or "linear" if "critic" in facts else None
    size = [f"|{'x'.join(map(str, facts['actor'])) or 'linear'}|"] if "actor" in facts else []
    return [
        ("task", facts.get("task")),
        (f"return through this file{on}", _return(played) if played else None),
        ("return of the PyTorch actor, same episodes", f"{own['mean']:.6g}" if own else None),
        ("bound of the search", f"{facts['bound']:.6g}" if "bound" in facts else None),
        ("size", ", ".join([*size, f"{facts['parameters']:,} parameters"])),
        ("multiply-adds an action", f"{facts['multiply_adds']:,}"),
        ("precision", facts.get("precision")),
        ("memory, compiled with -Os here, without libm", ", ".join(memory) or None),
        ("latency at batch 1, one thread, here", _latency(latency) if latency else None),
        ("how trained", ", ".join(trained) or None),
        ("critic beside it in training", critic),
        ("checked", facts.get("checked")),
        ("versions", versions),
        ("commit of the training", _commit(facts)),
        ("licence of the task and its assets", facts.get("layout", {}).get("assets")),
    ]


def _commit(facts: Mapping[str, Any]) -> str | None:
    changed = " and changes that were not committed" if facts.get("uncommitted_changes") else ""
    return f"{facts['commit']}{changed}" if "commit" in facts else None


def _teacher(facts: Mapping[str, Any]) -> str:
    size = [f"|{'x'.join(map(str, facts['actor'])) or 'linear'}|"] if "actor" in facts else []
    return ", ".join([str(facts["algorithm"]), *size, f"seed {facts['seed']}", f"{facts['frames']:,} frames"])


def _return(played: Mapping[str, Any]) -> str:
    interval = "" if played["low"] is None else f", 95 % interval [{played['low']:.6g}, {played['high']:.6g}]"
    return f"{played['mean']:.6g}{interval} over {played['episodes']} episodes"


def _latency(latency: Mapping[str, Any]) -> str:
    return f"median {latency['median']:.3g} us, 99th percentile {latency['p99']:.3g} us ({latency['processor']})"


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _components(facts: Mapping[str, Any], name: str) -> list[str]:
    """The layout of an observation or an action, a row for each number where its names or bounds are known."""
    told, names = facts[name], facts.get("layout", {}).get(name)
    shape = told.get("shape", ["batch"])[1:]
    what = f"{told['dtype']} {shape}" if name == "observation" else _action_text(told)
    bounds = facts.get("observation_bounds") if name == "observation" else told
    if name == "action" and "low" not in told:
        bounds = facts.get("task_action")  # what the task clips to
    low, high = ((bounds or {}).get(side, []) for side in ("low", "high"))
    count = len(low) or len(names or [])
    if not 0 < count <= 64 or (names and len(names) != count):
        return [f"{what}."]
    if names and not low:
        return [f"{what}:", "", *(f"{index}. {name}" for index, name in enumerate(names))]
    rows = [
        f"| {index} | {names[index] if names else ''} | {_bound(low[index])} | {_bound(high[index])} |"
        for index in range(count)
    ]
    return [f"{what}:", "", "| index | what | lowest | highest |", "|---|---|---|---|", *rows]


def _bound(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _prepared(facts: Mapping[str, Any]) -> list[str]:
    """What lies between the task and the actor's observation, but for the scaling that is inside."""
    lines = []
    if wrappers := facts.get("wrappers"):
        lines += ["The task is seen through Gymnasium's wrappers, from the inside out:", ""]
        lines += [*(f"- `{wrapper}`" for wrapper in wrappers), ""]
    if count := facts.get("frame_stack"):
        told = f"It is the observations of the last {count} steps, the oldest first; where an episode begins the first"
        lines += [f"{told} one stands for those before it.", ""]
    if keys := facts.get("privileged"):
        lines += [f"The keys that only the critic read are left out: {', '.join(f'`{key}`' for key in keys)}.", ""]
    if parts := facts.get("observation_parts"):
        lines += ["Its parts, each row by row:", "", "| numbers | part | shape |", "|---|---|---|"]
        for part in parts:
            size, kind = math.prod(part["shape"]), ENCODED.get(part["kind"], "")
            where = f"{part['first']} to {part['first'] + size - 1}"
            lines.append(f"| {where} | {', '.join(filter(None, (part['name'], kind)))} | {part['shape']} |")
        lines.append("")
    return lines


def _in_the_task(facts: Mapping[str, Any]) -> list[str]:
    """What the task does with the actor's action, which whoever else runs it has to do too."""
    told, lines = facts.get("task_action", {}), []
    if "low" in told and "low" not in facts["action"]:
        lines.append("It may lie beyond the bounds: the task clips it to them, and what else runs the actor must too.")
    if "start" in told:
        lines.append(f"The task counts from another number: add {told['start']} to what the actor gives.")
    if "shape" in told:
        lines.append(f"The task's own action has the shape {told['shape']}, filled row by row.")
    if facts.get("frame_skip", 1) > 1:
        lines.append(f"Each action holds for {facts['frame_skip']} frames of the game.")
    return ["", *lines] if lines else []


def _action_text(told: Mapping[str, Any]) -> str:
    if told["kind"] == "continuous":
        return "A number, float32" if told["size"] == 1 else f"{told['size']} numbers, float32"
    if told["kind"] == "indices":
        return f"{len(told['choices'])} indices, of {', '.join(map(str, told['choices']))} actions"
    return f"{'An index' if told['kind'] == 'index' else 'One-hot'}, of {told['actions']} actions"


def _scaling(facts: Mapping[str, Any]) -> list[str]:
    scaling = facts.get("observation_scaling")
    if scaling is None:
        return ["Observations are read as they are; do not normalise them."]
    clip = "" if scaling["clip"] is None else f", clipped at {scaling['clip']:g}"
    return [f"Normalisation is inside: `(observation - mean) / std`{clip}. Give observations that are not normalised."]


def _noise(facts: Mapping[str, Any]) -> list[str]:
    if "noise" not in facts:
        return ["It is the distribution's mode, without random numbers."]
    noise, which = facts["noise"], "third" if "state" in facts else "second"
    told = f"{noise['distribution']} noise, {noise['dtype']} {noise['shape'][1:]}"
    return [f"It is sampled: the {which} input is {told}."]


def _script(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """A script that plays the task from the file alone, or else a call."""
    known = facts.get("layout", {}).get("gymnasium")
    vector = len(facts["observation"].get("shape", ["batch", 0])) == 2
    if known and vector and "noise" not in facts and path.suffix in (".onnx", ".c"):
        return ["```python", _play(path, facts, known).rstrip(), "```"]
    if path.suffix == ".html":
        return ["Open the file in a browser: it plays, and loads nothing. `#seed=3` behind its address sets the seed."]
    if path.suffix == ".c":
        prefix = c_name(path.stem)
        kind = "float" if facts["action"]["kind"] == "continuous" else "int32_t"
        noise = f", noise[{prefix.upper()}_NOISE]" if "noise" in facts else ""
        sizes = f"float observation[{prefix.upper()}_OBSERVATIONS]{noise};"
        call = f"{prefix}_act(observation, {'noise, ' if noise else ''}action);"
        return ["```c", f'#include "{path.stem}.h"', sizes, f"{kind} action[{prefix.upper()}_ACTIONS];", call, "```"]
    told = facts["observation"]
    shape = [1, *told["shape"][1:]]
    onnx = path.suffix == ".onnx"
    library, others = "numpy" if onnx else "torch", ""
    for name in ("state", "noise"):
        if name in facts:
            zeros = f"{library}.zeros({[1, *facts[name]['shape'][1:]]}, dtype={library}.float32)"
            others += f", {f'{name!r}: ' if onnx else ''}{zeros}"
    names = ["action", *["next_state"] * ("state" in facts)]
    outputs = ", ".join(names) + "," * (onnx and len(names) == 1)
    named = ", ".join(map(repr, names))
    options = {"shape": shape, "dtype": told["dtype"], "others": others, "outputs": outputs, "named": named}
    return ["```python", CALLS[path.suffix].format(name=path.name, **options).rstrip(), "```"]


def _play(path: Path, facts: Mapping[str, Any], known: Sequence[Any]) -> str:
    task, options = known
    action, continuous = facts["action"], facts["action"]["kind"] == "continuous"
    given = "output" if path.suffix == ".c" else "action[0]"
    if continuous:  # an action without bounds is the normal's, which a task clips
        given = f"numpy.clip({given}.reshape(env.action_space.shape), *bounds)"
    elif action["kind"] == "index":
        given = f"{'int(output[0])' if path.suffix == '.c' else 'int(action[0])'} + int(env.action_space.start)"
    outputs = {"index": 1, "indices": len(action.get("choices", []))}.get(action["kind"], action.get("size"))
    played, memory = facts.get("return", {}), "state" in facts
    size = facts["state"]["shape"][1] if memory else 0
    acts = '(action,) = session.run(["action"], {"observation": batch})'
    if memory:
        acts = 'action, state = session.run(["action", "next_state"], {"observation": batch, "state": state})'
    return (C_SCRIPT if path.suffix == ".c" else ONNX_SCRIPT).format(
        name=path.name,
        prefix=c_name(path.stem),
        task=task,
        bounds="bounds = env.action_space.low, env.action_space.high\n" if continuous else "",
        options="".join(f", {name}={value!r}" for name, value in {**options, **facts.get("env_kwargs", {})}.items()),
        episodes=played.get("episodes", 100),
        seed=played.get("seed", 0),
        inputs=facts["observation"].get("shape", ["batch", 0])[-1],
        outputs=outputs,
        kind="float32" if continuous else "int32",
        dtype=facts["observation"]["dtype"],
        action=given,
        begins=f"state = numpy.zeros((1, {size}), numpy.float32)\n    " if memory else "",
        acts=acts,
    )
