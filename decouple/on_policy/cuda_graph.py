"""CUDA graphs: a sequence of GPU kernels, recorded once and launched again as a whole.

act = Captured(model_of_tensors, "cuda")
action, value = act(observation)                       # replayed from the fourth call on
copy_in_place(kept, batch)                             # writes new values where the graph reads
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from decouple.checks import DEVICE, checked

__all__ = ["Captured", "copy_in_place"]


class Captured:
    """A function of tensors that a CUDA graph replays after WARM_UP calls; on a CPU the function itself.

    The function must change parameters and an optimizer's state in place, and must not wait for the device or depend on
    a tensor's value. Its outputs are overwritten by the next call.

    Args:
        function: function of tensors on the device and other arguments, with a graph for each value of the others;
            returns tensors, in a tuple or a dict.
        device: device of the tensors; None for a function that is never captured.
    """

    WARM_UP = 3  # calls without a graph, in which libraries choose their algorithms and allocate their buffers

    @checked(device=DEVICE)
    def __init__(self, function: Callable[..., Any], device: torch.device | str | None):
        self.function = function
        self.device = torch.device(device) if device is not None else torch.device("cpu")
        self.calls: dict[Any, int] = {}
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        if self.device.type != "cuda":
            return self.function(*inputs)
        key = tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in inputs)
        if key in self.graphs:
            graph, static, outputs = self.graphs[key]
            for own, given in zip(static, (x for x in inputs if isinstance(x, Tensor)), strict=True):
                own.copy_(given, non_blocking=True)
            graph.replay()
            return outputs
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] <= self.WARM_UP:
            return self._aside(inputs)
        static = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=torch.cuda.Stream(self.device)):
            outputs = self.function(*static)
        self.graphs[key] = graph, [x for x in static if isinstance(x, Tensor)], outputs
        graph.replay()  # capturing ran nothing
        return outputs

    def _aside(self, inputs: tuple[Any, ...]) -> Any:
        """Run a warm-up call on a stream of its own, as capturing requires."""
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            outputs = self.function(*inputs)
        current.wait_stream(stream)
        return outputs


def copy_in_place(kept: TensorDictBase, new: TensorDictBase) -> None:
    """Copy the tensors of `new` into those of `kept`, without those that share their memory already."""
    for key, value in new.items(include_nested=True, leaves_only=True):
        own: Tensor = kept.get(key)
        if own.data_ptr() != value.data_ptr():
            own.copy_(value, non_blocking=True)
