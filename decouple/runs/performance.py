"""How a run is computed: device, precision, layout of frames, micro-batches, threads. None of it is the algorithm's.

    performance = choose_performance("auto")                        # what is safe on this machine
    performance = choose_performance("reference", precision="bf16")    # everything off but this
    print(performance.describe())
    performance.prepare(model)                                      # before its phases are made
    train_on_policy(env, model, phases, settings, log=print, performance=performance)

`reference` is float32 with everything off. The other choices change the numbers by rounding alone, but for three: bf16
rounds so much that it is called another setting, `overlap` draws the actions in another order, and a GPU draws others.

On the CPU micro-batches are the largest gain: a minibatch of 2048 frames through the IMPALA-CNN needs blocks of memory
of hundreds of megabytes, which the C library takes from the system and gives back every time, page by page. What
micro-batches of a size gain on a machine, `benchmarks/procgen_ppo.py` measures.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decouple.checks import DEVICE, check_fields, check_setting, checked, positive_whole, POSITIVE_WHOLE

__all__ = [
    "PERFORMANCES",
    "Performance",
    "autocast",
    "choose_performance",
    "fast_bf16",
    "keep_memory",
]

WHOLE = 1_000_000  # a micro-batch that holds any minibatch
MICRO_BATCH = {"fp32": 64, "bf16": 128}  # on a CPU: the largest block stays within what glibc's allocator keeps
PERFORMANCES = ("auto", "fastest", "reference")


@dataclass(frozen=True)
class Performance:
    """What is computed where and how; the defaults are the reference: float32 on the CPU with everything off.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    device: str = "cpu"  # cpu, cuda or cuda:<n>: of the network and the frames learned from
    precision: str = "fp32"  # of trunk and branches: fp32 (never TF32), or bf16 (autocast; heads and losses stay fp32)
    memory_format: str = "contiguous"  # of frames in the convolutions: contiguous or channels_last
    micro_batch: int = WHOLE  # frames of an agent per backward pass; gradients of a minibatch are accumulated over them
    torch_threads: int | None = None  # of one operation on the CPU; None: torch's own choice, the processor's cores
    keep_memory: bool = False  # memory that torch frees stays with the process (glibc), and is not fetched anew
    collector: str = "torchrl"  # torchrl: its Collector; preallocated: that of decouple.on_policy.collector, each frame once
    overlap: bool = False  # one half of the games steps while the network acts on the other
    compile: bool = False  # trunk and branches by torch.compile
    cuda_graphs: bool = False  # acting and a minibatch's update each as one CUDA graph; without effect on a CPU

    def __post_init__(self) -> None:
        _check_device_and_precision(self.device, self.precision)
        formats = ("contiguous", "channels_last")
        check_setting("memory_format", self.memory_format, formats.__contains__, "contiguous or channels_last")
        check_setting("micro_batch", self.micro_batch, POSITIVE_WHOLE)
        if self.torch_threads is not None:
            check_setting("torch_threads", self.torch_threads, positive_whole, "a whole number, at least 1, or None")
        collectors = ("torchrl", "preallocated")
        check_setting("collector", self.collector, collectors.__contains__, "torchrl or preallocated")
        for name in ("keep_memory", "overlap", "compile", "cuda_graphs"):
            check_setting(name, getattr(self, name), lambda v: isinstance(v, bool), "True or False")
        if self.collector == "torchrl" and (self.overlap or self.device != "cpu"):
            raise ValueError("collector must be preallocated with overlap, and on a GPU; got torchrl")
        check_fields(self)

    def describe(self) -> str:
        """The choices in one line."""
        micro_batch = "minibatches whole" if self.micro_batch >= WHOLE else f"micro-batches of {self.micro_batch}"
        number = self.torch_threads or torch.get_num_threads()
        threads = "1 thread" if number == 1 else f"{number} threads"
        on = [name for name in ("keep_memory", "overlap", "compile", "cuda_graphs") if getattr(self, name)]
        collector = f"{self.collector} collector"
        return ", ".join([self.device, self.precision, self.memory_format, micro_batch, threads, collector, *on])

    @checked()
    def prepare(self, model: nn.Module) -> None:
        """Bring the process and a model of `actor_value` into this form, in place; to be called before phases are made.

        Threads, the allocator and TF32 are the process's, so another run in it has them too. ValueError for a GPU where
        torch sees none.
        """
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device must be cpu where torch sees no GPU; got {self.device}")
        if self.torch_threads is not None:
            torch.set_num_threads(self.torch_threads)
        if self.keep_memory:
            keep_memory()
        if self.device != "cpu" and self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions: ten bits of mantissa
        model.to(self.device)
        if self.memory_format == "contiguous":
            for module in model.modules():
                if isinstance(module, nn.Conv2d):  # the blocks hand on channels_last, whatever they are given
                    module.register_forward_pre_hook(_contiguous)
        elif self.device != "cpu":  # on a CPU oneDNN orders the weights for itself
            model.to(memory_format=torch.channels_last)
        if self.compile:
            for part in (model.trunk, model.policy, model.value):
                part.compile()

    @checked()
    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """On a GPU, let Adam step in one kernel that a CUDA graph can hold; in place, before it has taken a step."""
        if self.device != "cpu":
            for group in optimizer.param_groups:
                group.update(fused=True, foreach=False, capturable=self.cuda_graphs)


@checked()
def choose_performance(name: str = "auto", **by_name: Any) -> Performance:
    """The settings that a name stands for on this machine, but for those given.

    Args:
        name: `auto`: what is safe here: a GPU where there is one, bf16 where it is fast, frames in the layout that
            convolutions want, micro-batches on a CPU. `fastest`: on a GPU compiled and captured besides. `reference`:
            float32 on the CPU with everything off.
        **by_name: settings of `Performance`; None leaves the choice to the name.

    >>> choose_performance("reference", torch_threads=2).describe()
    'cpu, fp32, contiguous, minibatches whole, 2 threads, torchrl collector'
    >>> choose_performance("auto", device="cpu", precision="bf16").micro_batch
    128

    Raises:
        ValueError: an unknown name, or a setting that is not allowed.
    """
    check_setting("performance", name, PERFORMANCES.__contains__, f"one of {', '.join(PERFORMANCES)}")
    given = {key: value for key, value in by_name.items() if value is not None}
    check_setting("performance", set(given) - {field.name for field in fields(Performance)}, lambda v: not v, "known")
    _check_device_and_precision(given.get("device", "cpu"), given.get("precision", "fp32"))
    if name == "reference":
        return replace(Performance(), **{"collector": _collector(given), **given})
    device = given["device"] if "device" in given else ("cuda" if torch.cuda.is_available() else "cpu")
    on_cpu = device == "cpu"
    captured = name == "fastest" and not on_cpu
    precision = given["precision"] if "precision" in given else ("bf16" if fast_bf16(device) else "fp32")
    chosen = {
        "device": device,
        "precision": precision,
        "memory_format": "channels_last",
        "micro_batch": MICRO_BATCH.get(precision, WHOLE) if on_cpu else WHOLE,
        "keep_memory": on_cpu,
        "collector": "preallocated",
        "overlap": not on_cpu,  # on a CPU the games take 1 % of the time, and the network all cores
        "compile": captured,
        "cuda_graphs": captured,
    }
    return Performance(**{**chosen, **given})


@checked(device=DEVICE)
def fast_bf16(device: str, cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether products in bfloat16 have instructions of their own: AVX512-BF16, AMX or ARM's; a GPU from Ampere on."""
    if device != "cpu":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        text = Path(cpuinfo).read_text()
    except OSError:  # no Linux
        return False
    flags = {flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def keep_memory() -> None:
    """Let glibc keep what is freed, up to 2 GB, and serve blocks of up to 32 MB from it; elsewhere without effect.

    Of the whole process, for good. Without it a block above 128 KiB may come from the system and go back to it at every
    operation, page by page.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h; the second is not taken above 32 MB
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 32 * 2**20)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 for convolutions and matrix products at precision `bf16`; a context without effect at `fp32`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _check_device_and_precision(device: Any, precision: Any) -> None:
    check_setting("device", device, re.compile(r"cpu|cuda(:\d+)?").fullmatch, "cpu, cuda or cuda:<n>")
    check_setting("precision", precision, ("fp32", "bf16").__contains__, "fp32 or bf16")


def _contiguous(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(),)


def _collector(given: dict[str, Any]) -> str:
    """TorchRL's, where nothing asks for the other."""
    apart = given.get("overlap") or given.get("device", "cpu") != "cpu"
    return "preallocated" if apart else "torchrl"
