"""Where a micro-batch's time goes, operator by operator, each alone, and so what a faster operator could gain at most.

    python benchmarks/operators.py --frames 64 --precision fp32 --threads 1

Every operator of the IMPALA-CNN's forward and backward pass is run on tensors of its shapes, channels last, as training
runs it. Its time is the least processor time of some repetitions, which other processes disturb little. The share is of
the sum over all operators: an operator that cost nothing would save that much of an update, and one that is twice as
fast half of it. `zeros` fills the tensor that a max-pool's backward pass begins with, and is part of that pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from decouple.runs.performance import keep_memory

CHANNELS, SIZE = (16, 32, 32), 64
aten: Any = torch.ops.aten


def least(call: Callable[[], object], repeats: int) -> float:
    """The least processor time of a call, in seconds."""
    call()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def measure(frames: int, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Seconds of each kind of operator in a forward and a backward pass on so many frames."""
    total: dict[str, float] = {}

    def add(name: str, times: int, call: Callable[[], object]) -> None:
        total[name] = total.get(name, 0.0) + times * least(call, repeats)

    def images(channels: int, size: int) -> Tensor:
        return torch.randn(frames, channels, size, size, dtype=dtype).to(memory_format=torch.channels_last)

    size, before = SIZE, 3
    for after in CHANNELS:
        convolutions(add, images, before, after, size, times=1, of_frames=before == 3)
        pools(add, images(after, size))
        size, before = size // 2, after
        convolutions(add, images, after, after, size, times=4, of_frames=False)
        elementwise(add, images(after, size))
    flat, weight = torch.randn(frames, 2048, dtype=dtype), torch.randn(2048, 256, dtype=dtype)
    add("linear", 3, lambda: flat @ weight)
    return total


def convolutions(add: Any, images: Any, before: int, after: int, size: int, *, times: int, of_frames: bool) -> None:
    x, gradient = images(before, size), images(after, size)
    weight, bias = torch.randn(after, before, 3, 3, dtype=x.dtype), torch.zeros(after, dtype=x.dtype)
    add("convolution, forward", times, lambda: functional.conv2d(x, weight, bias, padding=1))
    where = ([after], [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    wanted = (not of_frames, True, True)  # frames need no gradient
    backward = lambda: aten.convolution_backward(gradient, x, weight, *where, wanted)  # noqa: E731
    add("convolution, backward", times, backward)


def pools(add: Any, x: Tensor) -> None:
    out, places = functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    gradient, where = torch.randn_like(out), ([3, 3], [2, 2], [1, 1], [1, 1], False)
    add("max-pool, forward", 1, lambda: functional.max_pool2d(x, 3, 2, 1, return_indices=True))
    add("max-pool, backward", 1, lambda: aten.max_pool2d_with_indices_backward(gradient, x, *where, places))
    add("zeros", 1, lambda: torch.zeros_like(x))


def elementwise(add: Any, x: Tensor) -> None:
    """Two residual blocks: two ReLUs and a sum each, and backward the sum of two gradients."""
    gradient = torch.randn_like(x)
    add("ReLU, forward", 4, lambda: functional.relu(x))
    add("ReLU, backward", 4, lambda: aten.threshold_backward(gradient, x, 0))
    add("sums of skip connections", 4, lambda: x + gradient)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=64, help="frames of a micro-batch")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.precision]
    found = measure(options.frames, dtype, options.repeats)
    total = sum(seconds for name, seconds in found.items() if name != "zeros")
    print(f"{options.frames} frames, {options.precision}: {1e3 * total:.1f} ms\n")
    print("| operator | ms | share |\n|---|---|---|")
    for name, seconds in sorted(found.items(), key=lambda row: -row[1]):
        print(f"| {name} | {1e3 * seconds:.2f} | {seconds / total:.1%} |")


if __name__ == "__main__":
    main()
