"""An actor as plain C: a header and a source file in C99, with the weights as constants.

    files = c_files(actor_constants(actor), "actor", facts)        # {"actor.h": "...", "actor.c": "..."}

The code allocates nothing, keeps no state between calls and calls no library but libm. `actor_act` reads one
observation as the task gives it, and noise where actions are sampled, and writes one action as the task takes it.
Layers are written input by input, so that a compiler can vectorise over outputs without changing the order of a sum.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from decouple.checks import check_setting
from decouple.deploy.constants import ActorConstants, LinearLayer
from decouple.deploy.quantization import Int8Layer
from decouple.networks.heads import MAX_LOG_SCALE, MIN_LOG_SCALE

__all__ = ["c_files", "c_name", "c_prototype"]

AT_ONCE = 4  # inputs that a pass over the outputs adds
ACTIVATIONS = {
    "relu": "{x} < 0.0f ? 0.0f : {x}",  # NaN stays NaN, as in PyTorch
    "tanh": "tanhf({x})",
    "elu": "{x} > 0.0f ? {x} : {slope} * expm1f({x})",
    "silu": "{x} / (1.0f + expf(-{x}))",
    "leaky_relu": "{x} > 0.0f ? {x} : {slope} * {x}",
}
QUANTIZED = """\
/* The nearest whole number of steps, at most 127 of them to either side. */
static int8_t quantized(float x, float steps)
{
    const float scaled = x * steps;
    const float inside = scaled > 127.0f ? 127.0f : scaled > -127.0f ? scaled : -127.0f;

    return (int8_t)(inside + (inside < 0.0f ? -0.5f : 0.5f));
}
"""


def c_name(stem: str) -> str:
    """The prefix of an actor's names in C, from its file's stem: `actor_seed3` for `actor-seed3`."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return name if re.match(r"[A-Za-z]", name) else f"actor_{name}"


def c_files(
    constants: ActorConstants,
    stem: str,
    facts: Mapping[str, Any],
    quantized: Sequence[Int8Layer] | None = None,
) -> dict[str, str]:
    """File name -> text, of the header and of the source.

    Args:
        constants: the actor.
        stem: the files' name without its ending, from which the names in C are made.
        facts: what the header's comment tells.
        quantized: the layers in int8, from `quantized_layers`; None: in float32.
    """
    check_setting("path", stem, lambda v: re.fullmatch(r"[\w .+-]+", v), "a file name of letters, digits and . _ + -")
    name = c_name(stem)
    return {f"{stem}.h": _header(constants, name, facts), f"{stem}.c": _source(constants, name, stem, quantized)}


def c_prototype(constants: ActorConstants, name: str) -> str:
    """The function's declaration, without the semicolon."""
    noise = "const float *noise, " if constants.sample else ""
    action = "int32_t" if constants.discrete else "float"
    return f"void {name}_act(const float *observation, {noise}{action} *action)"


def _header(constants: ActorConstants, name: str, facts: Mapping[str, Any]) -> str:
    told = [f" * {key}: {json.dumps(value)}" for key, value in facts.items()]
    comment = "\n".join(told).replace("*/", "* /").replace("/*", "/ *")
    upper = name.upper()
    sizes = {"OBSERVATIONS": constants.inputs, "ACTIONS": constants.action_size}
    if constants.sample:
        sizes["NOISE"] = constants.size
    defines = "\n".join(f"#define {upper}_{key} {value}" for key, value in sizes.items())
    reads = f"observation[{upper}_OBSERVATIONS]" + (f" and noise[{upper}_NOISE]" if constants.sample else "")
    return f"""\
/* A trained actor, without its critic.
{comment}
 */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

{defines}

#ifdef __cplusplus
extern "C" {{
#endif

/* Reads {reads}; writes action[{upper}_ACTIONS]. */
{c_prototype(constants, name)};

#ifdef __cplusplus
}}
#endif

#endif
"""


def _source(constants: ActorConstants, name: str, stem: str, quantized: Sequence[Int8Layer] | None) -> str:
    layers: Sequence[LinearLayer | Int8Layer] = quantized or constants.layers
    scaling = {"mean": constants.mean, "std": constants.std}
    tables = [_table(key, value) for key, value in scaling.items() if value is not None]
    tables += [line for index, layer in enumerate(layers) for line in _tables(index, layer)]
    tables += [_table(key, values) for key, values in _action_tables(constants).items()]
    helper = [QUANTIZED] if quantized else []
    needs_j = quantized or constants.discrete or any(len(layer.weight.T) > 2 * AT_ONCE for layer in layers)
    body = [*_buffers(constants, layers), f"    int i{', j' if needs_j else ''};", *_scaling(constants)]
    reads = "observation" if constants.mean is None else "scaled"
    for index, layer in enumerate(layers):
        writes = "ab"[index % 2]  # layer i reads the buffer that layer i - 1 has written
        body += ["", f"    /* {layer.weight.shape[1]} -> {len(layer.weight)}, {layer.activation} */"]
        if isinstance(layer, Int8Layer):
            body += _int8_layer(index, layer, reads, writes)
        else:
            body += _layer(index, layer, reads, writes)
        if layer.activation != "linear":
            value = ACTIVATIONS[layer.activation].format(x=f"{writes}[i]", slope=_number(layer.slope))
            body += _over("i", len(layer.weight), f"{writes}[i] = {value};")
        reads = writes
    body += ["", *_action(constants, reads), *(_not_a_number(constants) if quantized else [])]
    includes = [f'#include "{stem}.h"', "", "#include <math.h>", ""]
    return "\n".join([*includes, *tables, "", *helper, c_prototype(constants, name), "{", *body, "}", ""])


def _buffers(constants: ActorConstants, layers: Sequence[LinearLayer | Int8Layer]) -> list[str]:
    """The local arrays: two for the layers' outputs in turn, and those for what is scaled or in whole numbers."""
    widths = [len(layer.weight) for layer in layers]
    lines = [f"    float {'ab'[turn]}[{max(widths[turn::2])}];" for turn in (0, 1) if widths[turn::2]]
    if constants.mean is not None:
        lines.append(f"    float scaled[{constants.inputs}];")
    if isinstance(layers[0], Int8Layer):
        lines.append(f"    int8_t q[{max(layer.weight.shape[1] for layer in layers)}];")
    return lines


def _scaling(constants: ActorConstants) -> list[str]:
    if constants.mean is None:
        return []
    lines = ["scaled[i] = (observation[i] - mean[i]) / std[i];"]
    if constants.clip is not None:
        lines.append(f"scaled[i] = {_between('scaled[i]', _number(-constants.clip), _number(constants.clip))};")
    return ["", *_over("i", constants.inputs, *lines)]


def _layer(index: int, layer: LinearLayer, reads: str, writes: str) -> list[str]:
    outputs, inputs = layer.weight.shape
    first = inputs if inputs <= 2 * AT_ONCE else AT_ONCE + inputs % AT_ONCE
    lines = _over("i", outputs, _sum(f"bias_{index}[i]", index, reads, writes, map(str, range(first))))
    if first < inputs:
        places = ["j" if not step else f"j + {step}" for step in range(AT_ONCE)]
        inner = _sum(f"{writes}[i]", index, reads, writes, places)
        head = f"    for (j = {first}; j < {inputs}; j += {AT_ONCE})"
        lines += [head, *(f"    {line}" for line in _over("i", outputs, inner))]
    return lines


def _sum(start: str, index: int, reads: str, writes: str, places: Iterable[str]) -> str:
    """The line that adds these inputs to an output."""
    terms = [f"weight_{index}[{place}][i] * {reads}[{place}]" for place in places]
    return f"{writes}[i] = {start} + " + f"\n{' ' * 16}+ ".join(terms) + ";"


def _int8_layer(index: int, layer: Int8Layer, reads: str, writes: str) -> list[str]:
    outputs, inputs = layer.weight.shape
    return [
        *_over("j", inputs, f"q[j] = quantized({reads}[j], {_number(layer.steps)});"),
        f"    for (i = 0; i < {outputs}; i++) {{",
        "        int32_t sum = 0;",
        "",
        *_over("j", inputs, f"sum += weight_{index}[i][j] * q[j];", indent=8),
        f"        {writes}[i] = (float)sum * {_number(layer.scale)} + bias_{index}[i];",
        "    }",
    ]


def _action(constants: ActorConstants, reads: str) -> list[str]:
    """The lines that write the action from the head's output, the array named `reads`."""
    if constants.discrete:
        return _indices(constants, reads)
    value = f"{reads}[i]"
    lines = []
    if constants.sample:
        scale = "scale[i]"
        if constants.scale is None:
            low, high = _number(MIN_LOG_SCALE), _number(MAX_LOG_SCALE)
            scale = f"expf({_between(f'{reads}[i + {constants.size}]', low, high)})"
        lines.append(f"{value} = {value} + {scale} * noise[i];")
    if constants.bounds:
        lines.append(f"{value} = middle[i] + half_range[i] * tanhf({value});")
        value = _between(value, "low[i]", "high[i]")
    return _over("i", constants.size, *lines, f"action[i] = {value};")


def _indices(constants: ActorConstants, reads: str) -> list[str]:
    lines = _over("i", constants.size, f"{reads}[i] += noise[i];") if constants.sample else []
    if constants.kind == "one-hot":
        return [
            *lines,
            "    j = 0;",
            *_over("i", constants.size, f"if ({reads}[i] > {reads}[j])", "    j = i;"),
            *_over("i", constants.size, "action[i] = i == j;"),
        ]
    first = 0
    for component, count in enumerate(constants.choices):
        lines += [
            f"    j = {first};",
            f"    for (i = {first}; i < {first + count}; i++)",
            f"        if ({reads}[i] > {reads}[j])",
            "            j = i;",
            f"    action[{component}] = j - {first};" if first else f"    action[{component}] = j;",
        ]
        first += count
    return lines


def _not_a_number(constants: ActorConstants) -> list[str]:
    """Whole numbers have no NaN: an observation with one gets the action that it gets in float32."""
    value = "i == 0" if constants.kind == "one-hot" else "0" if constants.discrete else "NAN"
    return [
        "",
        f"    for (j = 0; j < {constants.inputs}; j++)",
        "        if (isnan(observation[j]))",
        *_over("i", constants.action_size, f"action[i] = {value};", indent=12),
    ]


def _tables(index: int, layer: LinearLayer | Int8Layer) -> Iterable[str]:
    if isinstance(layer, Int8Layer):
        yield _table(f"weight_{index}", layer.weight, "int8_t")
    else:
        yield _table(f"weight_{index}", layer.weight.T)  # input by input
    yield _table(f"bias_{index}", layer.bias)


def _action_tables(constants: ActorConstants) -> dict[str, np.ndarray]:
    scale = {} if constants.scale is None else {"scale": constants.scale}
    return scale | constants.bounds


def _table(name: str, values: np.ndarray, kind: str = "float") -> str:
    shape = "".join(f"[{size}]" for size in values.shape)
    rows = [_row(row) for row in np.atleast_2d(values)]
    inner = rows[0] if values.ndim == 1 else "{" + "},\n    {".join(rows) + "}"
    return f"static const {kind} {name}{shape} = {{\n    {inner}\n}};"


def _row(values: np.ndarray) -> str:
    """Numbers, ten a line."""
    texts = [str(value) if values.dtype == np.int8 else _number(value) for value in values.tolist()]
    return ",\n    ".join(", ".join(texts[start : start + 10]) for start in range(0, len(texts), 10))


def _number(value: float) -> str:
    """A float32 constant that reads back as the same number."""
    text = f"{float(np.float32(value)):.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"


def _between(value: str, low: str, high: str) -> str:
    return f"{value} < {low} ? {low} : {value} > {high} ? {high} : {value}"


def _over(name: str, count: int, *lines: str, indent: int = 4) -> list[str]:
    """A loop over `count` numbers."""
    margin = " " * indent
    head = f"{margin}for ({name} = 0; {name} < {count}; {name}++)"
    single = len(lines) == 1
    return [
        head + ("" if single else " {"),
        *(f"{margin}    {line}" for line in lines),
        *([] if single else [margin + "}"]),
    ]
