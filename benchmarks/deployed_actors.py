"""What an actor costs where it is deployed: plain C in float32 and int8, ONNX Runtime, PyTorch, and RLtools.

    python benchmarks/deployed_actors.py --rltools venv/lib/python3.11/site-packages/rltools/external/rl_tools/include

One observation a call, of 3 numbers, one action between -2 and 2, two hidden layers of ReLU: Pendulum's TD3. Weights
are random, and the same in all forms. Times are processor time of this process, so other load counts little; all forms
take turns, and the median over the rounds is printed. Flash and stack are those of the object file with -Os,
instructions a call are valgrind's with -O2. RLtools (https://rl.tools) is its generic inference out of its headers, of
the wheel `rltools`, compiled with the same flags. Needs gcc, and valgrind for the instructions.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl.data import Bounded

from decouple.deploy.compiled_c import SMALL, STRICT
from decouple.deploy.constants import ActorConstants, actor_constants
from decouple.deploy.formats import onnx_bytes, onnx_session
from decouple.deploy.plain_actor import PlainActor
from decouple.deploy.plain_c import c_files
from decouple.deploy.quantization import quantized_layers
from decouple.networks.actor_qvalue import actor_qvalue
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate

FLAGS = {
    "-O2": ["-O2"],
    "-O3 native": ["-O3", "-march=native"],
    "-O3 native fast-math": ["-O3", "-march=native", "-ffast-math"],
}
MAIN = """\
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef __cplusplus
extern "C" {
#endif
void BEGIN(void);
void ACT(const float *observation, float *action);
#ifdef __cplusplus
}
#endif
int main(int count, char **arguments)
{
    const long calls = atol(arguments[count - 1]);
    float observation[3] = {0.3f, -0.5f, 1.0f}, action[1] = {0.0f}, sum = 0.0f;
    struct timespec before, after;
    long n;

    BEGIN();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    for (n = 0; n < calls; n++) {
        observation[0] = 0.3f + 0.01f * action[0];
        ACT(observation, action);
        sum += action[0];
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    printf("%.3f %.6f\\n", ((double)(after.tv_sec - before.tv_sec) * 1e9 + (double)(after.tv_nsec - before.tv_nsec))
        / (double)calls, (double)sum / (double)calls);
    return 0;
}
"""
RLTOOLS = """\
#include <rl_tools/operations/cpu.h>
#include <rl_tools/nn/operations_generic.h>
#include <rl_tools/nn/layers/dense/operations_generic.h>
#include <rl_tools/nn_models/mlp/operations_generic.h>
#include "weights.h"
namespace rlt = rl_tools;
using DEVICE = rlt::devices::DefaultCPU;
using TI = DEVICE::index_t;
using POLICY = rlt::numeric_types::Policy<float>;
using CONFIG = rlt::nn_models::mlp::Configuration<POLICY, TI, 1, 3, WIDTH,
    rlt::nn::activation_functions::RELU, rlt::nn::activation_functions::TANH>;
using INPUT = rlt::tensor::Shape<TI, 1, 1, 3>;
using OUTPUT = rlt::tensor::Shape<TI, 1, 1, 1>;
using MODEL = rlt::nn_models::mlp::NeuralNetwork<CONFIG, rlt::nn::capability::Forward<false>, INPUT>;
static MODEL model;
static MODEL::Buffer<false> buffer;
static DEVICE device;
static DEVICE::SPEC::RANDOM::ENGINE<> rng;
template <typename LAYER> static void fill(LAYER& layer, const float* weight, const float* bias, TI inputs, TI outputs){
    for(TI i = 0; i < outputs; i++){
        rlt::set(device, layer.biases.parameters, bias[i], i);
        for(TI j = 0; j < inputs; j++) rlt::set(device, layer.weights.parameters, weight[i * inputs + j], i, j);
    }
}
extern "C" void begin(void){
    rlt::init(device, rng, 0);
    fill(model.input_layer, weight_0, bias_0, 3, WIDTH);
    fill(model.hidden_layers[0], weight_1, bias_1, WIDTH, WIDTH);
    fill(model.output_layer, weight_2, bias_2, WIDTH, 1);
}
extern "C" void act(const float* observation, float* action){
    rlt::Tensor<rlt::tensor::Specification<float, TI, INPUT, false>> input;
    rlt::Tensor<rlt::tensor::Specification<float, TI, OUTPUT, false>> output;
    for(TI i = 0; i < 3; i++) rlt::set(device, input, observation[i], 0, 0, i);
    rlt::evaluate(device, model, input, output, buffer, rng);
    action[0] = 2.0f * rlt::get(device, output, 0, 0, 0);
}
"""
NOTHING = "void begin(void);\nvoid begin(void) {}\n"


def actor_of(size: Sequence[int], seed: int = 0) -> PlainActor:
    """An actor with hidden layers of this size and random weights and biases, the same for a seed."""
    torch.manual_seed(seed)
    example = {"observation": torch.zeros(3), "action": torch.zeros(1)}
    policy, critic = mlp_blocks(3, list(size), torch.nn.ReLU), mlp_blocks(4, [8], torch.nn.ReLU)
    network = separate(policy, critic, at=0, value_keys=["action"], example=example)
    model: Any = actor_qvalue(network, Bounded(-2, 2, (1,)), deterministic=True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.5, 0.5)
    return PlainActor(model)


def weights_header(constants: ActorConstants) -> str:
    lines = [f"#define WIDTH {len(constants.layers[0].weight)}"]
    for index, layer in enumerate(constants.layers):
        for name, values in (("weight", layer.weight), ("bias", layer.bias)):
            numbers = ", ".join(
                f"{value:.9g}f" if "." in f"{value:.9g}" else f"{value:.1f}f" for value in values.ravel()
            )
            lines.append(f"static const float {name}_{index}[] = {{{numbers}}};")
    return "\n".join(lines) + "\n"


def call(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def program(folder: Path, name: str, flags: list[str], rltools: str | None) -> Callable[[int], tuple[float, float]]:
    """Build a form's program; returns a function from calls to nanoseconds a call and the mean action."""
    binary = f"{name}{'_'.join(flags)}".replace("=", "_")
    if name == "rltools":
        sources = ["-std=c++17", f"-I{rltools}", "rltools.cpp", "-x", "c++", "main.c"]
        call(folder, "g++", *flags, "-DBEGIN=begin", "-DACT=act", *sources, "-o", binary)
    else:
        sources = ["main.c", f"{name}.c", "nothing.c"]
        call(folder, "gcc", "-std=gnu99", *flags, "-DBEGIN=begin", f"-DACT={name}_act", *sources, "-o", binary, "-lm")

    def run(calls: int) -> tuple[float, float]:
        nanoseconds, mean = call(folder, f"./{binary}", str(calls)).split()
        return float(nanoseconds), float(mean)

    return run


def instructions(folder: Path, binary: str) -> float | None:
    """Instructions of a call: those of 2,000 calls less those of 1,000."""
    if shutil.which("valgrind") is None:
        return None
    counts = []
    for calls in (1000, 2000):
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"./{binary}", str(calls)]
        told = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stderr
        counts.append(int(re.search(r"Collected : (\d+)", told)[1]))
    return (counts[1] - counts[0]) / 1000


def memory(folder: Path, name: str) -> tuple[int, int]:
    """Bytes of code and constants, and of the stack, with -Os."""
    call(folder, "gcc", *STRICT, "-Os", *SMALL, "-fstack-usage", "-c", f"{name}.c", "-o", "small.o")
    text, data, *_ = map(int, call(folder, "size", "small.o").splitlines()[1].split()[:4])
    lines = (folder / "small.su").read_text().splitlines()
    return text + data, sum(int(line.split("\t")[1]) for line in lines)


def in_python(calling: Callable[[], object], calls: int) -> float:
    """Nanoseconds of processor time a call."""
    before = time.process_time()
    for _ in range(calls):
        calling()
    return (time.process_time() - before) * 1e9 / calls


def measure(width: int, rounds: int, rltools: str | None) -> dict[str, Any]:
    actor = actor_of([width, width])
    constants = actor_constants(actor)
    observations = actor.random_inputs(256)[0].numpy() / 2
    int8 = quantized_layers(constants, observations)
    calls = max(200, int(4e7 / (width * width + 500)))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name, layers in (("float32", None), ("int8", int8)):
            for file, text in c_files(constants, name, {}, layers).items():
                (folder / file).write_text(text)
        texts = {"main.c": MAIN, "nothing.c": NOTHING, "rltools.cpp": RLTOOLS, "weights.h": weights_header(constants)}
        for file, text in texts.items():
            (folder / file).write_text(text)
        forms = ["float32", "int8", *(["rltools"] if rltools else [])]
        programs = {
            (form, told): program(folder, form, flags, rltools) for form in forms for told, flags in FLAGS.items()
        }
        session, observation = onnx_session(onnx_bytes(actor)), torch.tensor([[0.3, -0.5, 1.0]])
        python = {"onnx": lambda: session(observation.numpy()), "eager": lambda: actor(observation)}
        times: dict[str, list[float]] = {}
        means: dict[str, float] = {}
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(rounds):
                for (form, told), run in programs.items():
                    nanoseconds, mean = run(calls)
                    times.setdefault(f"{form} {told}", []).append(nanoseconds)
                    means[f"{form} {told}"] = mean
                for form, calling in python.items():
                    times.setdefault(form, []).append(in_python(calling, 2000))
        of_floats = [mean for form, mean in means.items() if not form.startswith("int8")]
        assert np.ptp(of_floats) < 1e-4, means  # the same actor
        found: dict[str, Any] = {"width": width, "parameters": sum(p.numel() for p in actor.parameters())}
        found["ns"] = {form: statistics.median(each) for form, each in times.items()}
        found["memory"] = {form: memory(folder, form) for form in forms[:2]}
        found["instructions"] = {form: instructions(folder, f"{form}-O2") for form in forms}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Two Markdown tables: memory and instructions; times."""
    forms = list(rows[0]["instructions"])
    names = [f"{form}: {what}" for form in forms[:2] for what in ("flash", "stack")]
    names += [f"{form}: instructions" for form in forms]
    lines = ["| actor | parameters | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        cells = [f"{each:,}" for form in forms[:2] for each in row["memory"][form]]
        cells += ["" if row["instructions"][form] is None else f"{row['instructions'][form]:,.0f}" for form in forms]
        lines.append(f"| \\|{row['width']},{row['width']}\\| | {row['parameters']:,} | " + " | ".join(cells) + " |")
    lines += ["", "| actor, ns a call | " + " | ".join(rows[0]["ns"]) + " |", "|---" * (1 + len(rows[0]["ns"])) + "|"]
    for row in rows:
        cells = [f"{nanoseconds:,.0f}" for nanoseconds in row["ns"].values()]
        lines.append(f"| \\|{row['width']},{row['width']}\\| | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rltools", help="the folder of RLtools' headers; without it RLtools is left out")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    rows = [measure(width, options.rounds, options.rltools) for width in options.widths]
    print(table(rows))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
