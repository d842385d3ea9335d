"""What a decision costs where one process runs one actor, and where it runs many different ones in turn.

    python benchmarks/many_actors.py --record docs/results/honey/study/many_actors.csv
    python benchmarks/many_actors.py --sizes 4,4 64,64 --actors 8 --rounds 3

The paper has "multiple independent AIs" in one game. Many actors do not fit into the processor's caches together, so
each decision may have to wait for its weights. Actors are those of Pendulum's TD3 (3 observed numbers, one action),
with random weights, each with its own; in float32, as plain C (`export.py format=c`, gcc -O2) and in ONNX Runtime, one
observation a call. Times are processor time; sizes and forms take turns, and the median over the rounds counts. The
check of each form: all its actors' actions are those of PyTorch.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from deployed_actors import actor_of, call, in_python

from decouple.deploy.constants import actor_constants
from decouple.deploy.formats import onnx_bytes, onnx_session
from decouple.deploy.plain_actor import PlainActor
from decouple.deploy.plain_c import c_files

OBSERVATION = (0.3, -0.5, 1.0)
COLUMNS = ("date", "machine", "actor", "parameters", "form", "actors", "ns")
MAIN = """\
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
{declared}
static void (*const acts[])(const float *, float *) = {{{names}}};
int main(int count, char **arguments)
{{
    const int actors = atoi(arguments[count - 2]), turns = atoi(arguments[count - 1]);
    float observation[3] = {{{observation}}}, action[1] = {{0.0f}};
    struct timespec before, after;
    int n, i;

    for (i = 0; i < actors; i++) {{
        acts[i](observation, action);
        printf("%.9g ", (double)action[0]);
    }}
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    for (n = 0; n < turns; n++)
        for (i = 0; i < actors; i++) {{
            observation[0] = {first}f + 0.01f * action[0];
            acts[i](observation, action);
        }}
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    printf("%.3f\\n", ((double)(after.tv_sec - before.tv_sec) * 1e9 + (double)(after.tv_nsec - before.tv_nsec))
        / turns / actors);
    return 0;
}}
"""


class PlainC:
    """Actors as one program of plain C."""

    def __init__(self, actors: list[PlainActor], folder: Path) -> None:
        folder.mkdir()
        names = [f"actor{index}" for index in range(len(actors))]
        for name, actor in zip(names, actors, strict=True):
            for file, text in c_files(actor_constants(actor), name, {}, None).items():
                (folder / file).write_text(text)
            call(folder, "gcc", "-O2", "-std=c99", "-c", f"{name}.c")
        words = {
            "declared": "\n".join(f"void {name}_act(const float *observation, float *action);" for name in names),
            "names": ", ".join(f"{name}_act" for name in names),
            "observation": ", ".join(f"{value}f" for value in OBSERVATION),
            "first": OBSERVATION[0],
        }
        (folder / "main.c").write_text(MAIN.format(**words))
        call(folder, "gcc", "-O2", "-std=gnu99", "main.c", *(f"{name}.o" for name in names), "-o", "main", "-lm")
        self.folder = folder

    def __call__(self, actors: int, turns: int) -> tuple[list[float], float]:
        """Actions of the first of the actors, and nanoseconds of a decision where these act in turn."""
        *actions, ns = call(self.folder, "./main", str(actors), str(turns)).split()
        return [float(action) for action in actions], float(ns)


class InONNXRuntime:
    """Actors as sessions of ONNX Runtime."""

    def __init__(self, actors: list[PlainActor]) -> None:
        first = onnx_bytes(actors[0])  # the others' files differ in their weights alone: an export takes seconds
        self.sessions = [onnx_session(first), *(onnx_session(with_weights(first, actor)) for actor in actors[1:])]

    def __call__(self, actors: int, turns: int) -> tuple[list[float], float]:
        """As `PlainC`."""
        sessions, observation = self.sessions[:actors], np.array([OBSERVATION], dtype=np.float32)
        actions = [float(np.asarray(session(observation)).item()) for session in sessions]
        return actions, in_python(lambda: [session(observation) for session in sessions], turns) / actors


def with_weights(file: bytes, actor: PlainActor) -> bytes:
    """The ONNX file of an actor with another's weights."""
    model, weights = onnx.load_from_string(file), actor.state_dict()
    for each in model.graph.initializer:
        if each.name in weights:
            each.CopyFrom(onnx.numpy_helper.from_array(weights.pop(each.name).numpy(), each.name))
    return model.SerializeToString()


def measure(sizes: list[tuple[int, ...]], count: int, rounds: int, decisions: int) -> list[dict[str, Any]]:
    """A row for each size, form, and one actor or all."""
    with tempfile.TemporaryDirectory() as made, torch.inference_mode():
        forms: dict[tuple[tuple[int, ...], str], Any] = {}
        expected, parameters = {}, {}
        for size in sizes:
            actors = [actor_of(size, seed) for seed in range(count)]
            parameters[size] = sum(each.numel() for each in actors[0].parameters())
            expected[size] = [float(np.asarray(actor(torch.tensor([OBSERVATION]))).item()) for actor in actors]
            forms[size, "plain C"] = PlainC(actors, Path(made, "x".join(map(str, size))))
            forms[size, "ONNX Runtime"] = InONNXRuntime(actors)
        times: dict[tuple[tuple[int, ...], str, int], list[float]] = {}
        for _ in range(rounds):
            for (size, form), run in forms.items():
                for actors in (1, count):
                    actions, ns = run(actors, max(1, decisions // actors))
                    np.testing.assert_allclose(actions, expected[size][:actors], rtol=1e-4, atol=1e-5)
                    times.setdefault((size, form, actors), []).append(ns)
    return [
        {
            "actor": "x".join(map(str, s)),
            "parameters": parameters[s],
            "form": f,
            "actors": a,
            "ns": statistics.median(n),
        }
        for (s, f, a), n in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    as_size = lambda text: tuple(map(int, text.split(",")))  # noqa: E731
    parser.add_argument("--sizes", type=as_size, nargs="+", default=[(4, 4), (8, 8), (64, 64), (256, 256), (400, 300)])
    parser.add_argument("--actors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decisions", type=int, default=6400, help="of each form and round")
    parser.add_argument("--machine", default="", help="the processor, in words, for the record")
    parser.add_argument("--record", type=Path, help="a CSV file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.sizes, options.actors, options.rounds, options.decisions)
    for row in rows:
        print(f"|{row['actor']}| {row['form']}, {row['actors']} actors: {row['ns']:,.0f} ns a decision")
    if options.record:
        known = {"date": datetime.now(timezone.utc).date().isoformat(), "machine": options.machine}
        with options.record.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows({**known, **row, "ns": f"{row['ns']:.0f}"} for row in rows)


if __name__ == "__main__":
    main()
