"""Torch's meta device as a GPU whose numbers are all zero, for machines that have none.

    with PretendedGPU() as gpu:
        gpu.move(model, phases)
        train_on_policy(env, model, phases, settings, log=print, performance=performance)
    gpu.waits                                       # what made the host wait, by the function that asked, counted

As on a GPU, an operation on tensors of two devices fails. What the host fetches is zero.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import decouple
from decouple.phases import Phase

LIBRARY = str(Path(decouple.__file__).parent)
META = torch.device("meta")


class PretendedGPU(TorchDispatchMode):
    """While it is entered, tensors can be fetched from the meta device and autocast takes it for the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._autocast: tuple[Any, Any] = torch.autocast, torch.is_autocast_enabled

    def __enter__(self) -> PretendedGPU:
        autocast, enabled = self._autocast
        known: Callable[[str], str] = lambda device: "cpu" if device == "meta" else device  # noqa: E731
        torch.autocast = lambda device, *rest, **named: autocast(known(device), *rest, **named)  # pyright: ignore
        torch.is_autocast_enabled = lambda device="cpu": enabled(known(device))
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        torch.autocast, torch.is_autocast_enabled = self._autocast  # pyright: ignore
        super().__exit__(*raised)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if (
            name == "_to_copy"
            and first is not None
            and first.device == META
            and kwargs.get("device") == torch.device("cpu")
        ):
            self._wait()
            return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if name == "_local_scalar_dense" and first is not None and first.device == META:
            self._wait()
            return torch.zeros((), dtype=first.dtype).item()
        if name == "_unique2" and first is not None and first.device == META:
            self._wait()
            return tuple(
                part.to(META) for part in function(torch.zeros(first.shape, dtype=first.dtype), *args[1:], **kwargs)
            )
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
            torch.utils.swap_tensors(tensor, nn.Parameter(moved) if isinstance(tensor, nn.Parameter) else moved)
