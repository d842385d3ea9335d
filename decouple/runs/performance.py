"""How a run is computed: device, precision, memory layout, micro-batches, threads; no setting of the algorithm.

    performance = choose_performance("auto")                        # safe choices for this machine
    performance = choose_performance("reference", precision="bf16")    # all optimizations off, but bf16
    print(performance.describe())
    performance.prepare(model)                                      # before the phases are made
    train_on_policy(env, model, phases, settings, log=print, performance=performance)

`reference` is float32 with all optimizations off. The other choices change results by rounding only, with three
exceptions: bf16 rounds so much that it counts as another setting, `overlap` draws the actions in another order, and a
GPU draws other random numbers.

On the CPU micro-batches gain most. A minibatch of 2048 frames through the IMPALA-CNN needs memory blocks of hundreds of
megabytes, which the C library takes from the system and returns every time, page by page. `benchmarks/procgen_ppo.py`
measures the gain of a micro-batch size on a machine.
"""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decouple.checks import DEVICE, POSITIVE_WHOLE, check_fields, check_setting, checked, positive_whole

__all__ = [
    "PERFORMANCES",
    "Performance",
    "autocast",
    "choose_performance",
    "fast_bf16",
    "keep_memory",
    "processor_kind",
]

WHOLE = 1_000_000  # a micro-batch size larger than any minibatch
MICRO_BATCH = {"fp32": 64, "bf16": 128}  # frames, on a CPU: the largest memory block is one that glibc keeps
PERFORMANCES = ("auto", "fastest", "reference")
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}  # by the flag of /proc/cpuinfo, the widest first
BF16 = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX", "bf16": "BF16"}


@dataclass(frozen=True)
class Performance:
    """Device, precision and other choices that leave the algorithm as it is; default: float32 on the CPU, all else off.

    Raises:
        ValueError: a setting that is not allowed; the message names it, the allowed values and the given one.
    """

    device: str = "cpu"  # device of the network and of the rollout: cpu, cuda or cuda:<n>
    precision: str = "fp32"  # trunk and branches in fp32 (never TF32), or bf16 (autocast; heads and losses stay fp32)
    memory_format: str = "contiguous"  # memory layout of frames in the convolutions: contiguous or channels_last
    micro_batch: int = WHOLE  # frames of an agent per backward pass; a minibatch's gradient is accumulated over them
    torch_threads: int | None = None  # threads of one operation on the CPU; None: torch's default, one per core
    keep_memory: bool = False  # keep memory that torch frees in the process (glibc), instead of fetching it anew
    collector: str = "torchrl"  # torchrl: its Collector; preallocated: decouple.on_policy.collector, each frame once
    overlap: bool = False  # step one half of the games while the network acts on the other half
    compile: bool = False  # compile trunk and branches with torch.compile
    cuda_graphs: bool = False  # run acting and a minibatch's update as one CUDA graph each; no effect on a CPU

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
        """Apply these settings to the process and to a model of `actor_value`, in place, before its phases are made.

        Threads, allocator and TF32 are set for the whole process, also for other runs in it. ValueError for a GPU
        where torch sees none.
        """
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device must be cpu where torch sees no GPU; got {self.device}")
        if self.torch_threads is not None:
            torch.set_num_threads(self.torch_threads)
        if self.keep_memory:
            keep_memory()
        if self.device != "cpu" and self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # torch allows it for convolutions: a mantissa of ten bits
        model.to(self.device)
        if self.memory_format == "contiguous":
            for module in model.modules():
                if isinstance(module, nn.Conv2d):  # the blocks' outputs are channels_last, whatever their input is
                    module.register_forward_pre_hook(_contiguous)
        elif self.device != "cpu":  # on a CPU oneDNN chooses the layout of the weights
            model.to(memory_format=torch.channels_last)
        if self.compile:
            for part in (model.trunk, model.policy, model.value):
                part.compile()

    @checked()
    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """On a GPU, let Adam step in one kernel that a CUDA graph can hold; in place, before its first step."""
        if self.device != "cpu":
            for group in optimizer.param_groups:
                group.update(fused=True, foreach=False, capturable=self.cuda_graphs)
                if self.cuda_graphs and group.get("schedule") == "linear":  # a graph keeps a number as it was captured
                    group["lr"] = torch.tensor(float(group["lr"]), device=self.device)


@checked()
def choose_performance(name: str = "auto", **by_name: Any) -> Performance:
    """The performance settings that a name stands for on this machine; settings given by name override them.

    Args:
        name: `auto`: safe choices: a GPU where there is one, bf16 where it is fast, frames in the convolutions' fastest
            layout, micro-batches on a CPU. `fastest`: the same, and on a GPU compiled and captured as CUDA graphs.
            `reference`: float32 on the CPU, all optimizations off.
        **by_name: settings of `Performance`; None leaves the choice to `name`.

    >>> choose_performance("reference", torch_threads=2).describe()
    'cpu, fp32, contiguous, minibatches whole, 2 threads, torchrl collector'
    >>> choose_performance("auto", device="cpu", precision="bf16").micro_batch
    128

    Raises:
        ValueError: an unknown name or setting, or a value that is not allowed.
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
        "overlap": not on_cpu,  # on a CPU the games take 1 % of the time, and the network uses all cores
        "compile": captured,
        "cuda_graphs": captured,
    }
    return Performance(**{**chosen, **given})


@checked(device=DEVICE)
def fast_bf16(device: str, cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether the device has bfloat16 instructions: AVX512-BF16, AMX or ARM's; on a GPU, Ampere or later."""
    if device != "cpu":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    _, flags = _cpuinfo(cpuinfo)
    return bool(flags & BF16.keys())


def processor_kind(cpuinfo: str | Path = "/proc/cpuinfo") -> str:
    """The processor's name, and the widest vectors and bfloat16 instructions that it has: "AMD EPYC, AVX2"."""
    name, flags = _cpuinfo(cpuinfo)
    widest = next((called for flag, called in VECTORS.items() if flag in flags), None)
    bf16 = [called for flag, called in BF16.items() if flag in flags]
    return ", ".join([name or platform.processor() or platform.machine(), *([widest] if widest else []), *bf16])


def _cpuinfo(path: str | Path) -> tuple[str, set[str]]:
    """The model's name ("": none told) and the flags that Linux tells of the processor; nothing elsewhere."""
    try:
        lines = [line.partition(":") for line in Path(path).read_text().splitlines()]
    except OSError:  # not Linux
        return "", set()
    told = [(key.strip(), value.strip()) for key, _, value in lines]
    names = [value for key, value in told if key == "model name"]
    return (names or [""])[0], {flag for key, value in told if key in ("flags", "Features") for flag in value.split()}


def keep_memory() -> None:
    """Let glibc keep up to 2 GB of freed memory, and serve blocks of up to 32 MB from it; elsewhere no effect.

    It holds for the whole process, until it ends. Without it a block above 128 KiB may come from the system and go back
    to it at every operation, page by page.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h; glibc refuses more than 32 MB for the second
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 32 * 2**20)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context with bfloat16 convolutions and matrix products at precision `bf16`; without effect at `fp32`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _check_device_and_precision(device: Any, precision: Any) -> None:
    check_setting("device", device, re.compile(r"cpu|cuda(:\d+)?").fullmatch, "cpu, cuda or cuda:<n>")
    check_setting("precision", precision, ("fp32", "bf16").__contains__, "fp32 or bf16")


def _contiguous(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(),)


def _collector(given: dict[str, Any]) -> str:
    """torchrl, unless the given settings need preallocated."""
    apart = given.get("overlap") or given.get("device", "cpu") != "cpu"
    return "preallocated" if apart else "torchrl"
