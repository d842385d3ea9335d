"""Torch's meta device as a GPU whose numbers are all zero, for machines that have none.

    with PretendedGPU() as gpu:
        gpu.move(model, phases)
        train_on_policy(env, model, phases, settings, log=print, performance=performance)
    gpu.waits                                       # what made the host wait, by the function that asked, counted

As on a GPU, an operation on tensors of two devices fails; what the host fetches is zero. Not there: autocast, which has
no effect, pinned memory, CUDA graphs and the fused Adam.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import decouple
from decouple.on_policy.phases import Phase

LIBRARY = str(Path(decouple.__file__).parent)
META = torch.device("meta")


class PretendedGPU(TorchDispatchMode):
    """While it is entered, tensors can be fetched from the meta device, and autocast does not refuse its name."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._autocast: tuple[Any, Any] = torch.autocast, torch.is_autocast_enabled

    def __enter__(self) -> PretendedGPU:
        autocast, enabled = self._autocast

        def known(device_type: str) -> str:
            return "cpu" if device_type == "meta" else device_type

        torch.autocast = lambda device_type, *rest, **named: autocast(known(device_type), *rest, **named)  # pyright: ignore
        torch.is_autocast_enabled = lambda device_type="cpu": enabled(known(device_type))
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        torch.autocast, torch.is_autocast_enabled = self._autocast  # pyright: ignore
        super().__exit__(*raised)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim > 0]  # of (), a number
        if len({x.device for x in tensors}) > 1 and name != "copy_":
            raise RuntimeError(f"{name} got tensors on two devices")
        first = args[0] if args else None
        if not isinstance(first, Tensor) or first.device != META:
            return function(*args, **kwargs)
        if name == "_to_copy" and kwargs.get("device") == torch.device("cpu"):
            self._wait()
            return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if name in ("_local_scalar_dense", "_unique2", "unique_dim", "nonzero"):
            self._wait()
            fill = torch.ones if name == "nonzero" else torch.zeros
            found = function(fill(first.shape, dtype=first.dtype), *args[1:], **kwargs)
            if name == "nonzero":
                return found.to(META)
            return tuple(part.to(META) for part in found) if isinstance(found, tuple) else found
        return function(*args, **kwargs)

    def _wait(self) -> None:
        """Count it for the innermost function of the library that is being called."""
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(LIBRARY):
            frame = frame.f_back  # pyright: ignore
        self.waits[frame.f_code.co_name if frame is not None else "elsewhere"] += 1

    @staticmethod
    def move(model: nn.Module, phases: Sequence[Phase]) -> None:
        """Put model and losses on the device in place: modules and optimizers keep their parameters."""
        parts = [part for phase in phases for part in (phase, phase.adversary) if part is not None]
        modules = [model, *(loss for part in parts for loss in part.losses)]
        tensors = {id(tensor): tensor for m in modules for tensor in (*m.parameters(), *m.buffers())}
        for tensor in tensors.values():
            moved = tensor.detach().to(META)
            own = nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
            torch.utils.swap_tensors(tensor, own)
