"""Seeds and random numbers: a generator per seed, metrics per seed, and the state of the global generators.

    noise = SeedNoise(range(6))                            # each seed's random numbers, from its own generator
    noise.normal(3)                                        # (6, 3)
    row = seed_metrics([{"loss": 1.0}, {"loss": 3.0}], seeds=[7, 8])
    state = rng_state()                                    # torch, CUDA, Python and NumPy, for a checkpoint
    set_rng_state(state)

A seed's random numbers do not depend on the other seeds: an agent trained beside others learns what it would learn
alone.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decouple.checks import ANY_NUMBER, DEVICE, SEED, all_of, checked

__all__ = ["SeedNoise", "rng_state", "seed_globals", "seed_metrics", "set_rng_state", "splitmix64"]

DRAWN_AHEAD = 4096  # numbers drawn at once per seed

# splitmix64's constants: the step of its state, and the two factors that mix it.
GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@checked(state=ANY_NUMBER)
def splitmix64(state: int) -> int:
    """The first output of a splitmix64 generator in this state: 64 mixed bits. Different states give different outputs.

        z <- state + 0x9E3779B97F4A7C15                  z <- (z ^ z >> 30) * 0xBF58476D1CE4E5B9
        z <- (z ^ z >> 27) * 0x94D049BB133111EB          output = z ^ z >> 31

    A Mersenne Twister draws similar first numbers from neighbouring seeds; seeds mixed by this function avoid that.

    Args:
        state: any integer; its lowest 64 bits count.

    Returns:
        An integer in [0, 2^64).

    Source: Steele, Lea and Flood, *Fast splittable pseudorandom number generators* (OOPSLA 2014), with the constants of
    Java's SplittableRandom.

    >>> hex(splitmix64(0))
    '0xe220a8397b1dcdaf'
    """
    z = (int(state) + GAMMA) % 2**64  # a NumPy integer would become a float
    z = ((z ^ z >> 30) * FIRST) % 2**64
    z = ((z ^ z >> 27) * SECOND) % 2**64
    return z ^ z >> 31


class SeedNoise:
    """Random numbers (S, ...); row s comes from a generator of its own, so no seed's numbers depend on the others.

    They are drawn on the processor, so that they are the same on every device. Small draws are cut from larger ones
    made ahead, since a draw costs S calls. The caller may change the returned tensors in place.

    Args:
        seeds: one seed per row, any integer, of which the lowest 64 bits count; equal seeds draw equal numbers.
        device: device of the numbers.
    """

    @checked(seeds=all_of(ANY_NUMBER, least=1), device=DEVICE)
    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.generators = [torch.Generator().manual_seed(splitmix64(int(seed)) % 2**63) for seed in seeds]
        # Per kind and shape: n draws (n, S, *shape), and those of them that have not been handed out, the last first.
        self.ahead: dict[tuple[str, tuple[int, ...]], tuple[Tensor, list[Tensor]]] = {}
        self.parts: dict[tuple[int, int], SeedNoise] = {}

    def part(self, rows: slice) -> SeedNoise:
        """The random numbers of some rows alone: from their generators, with draws ahead of their own.

        It is the same object each time, and a `state_dict` holds it.
        """
        first, last, _ = rows.indices(len(self.generators))
        if (first, last) not in self.parts:
            own = self.parts[first, last] = copy.copy(self)
            own.generators, own.ahead, own.parts = self.generators[first:last], {}, {}
        return self.parts[first, last]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (S, *shape)."""
        return self._next("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), (S, *shape)."""
        return self._next("uniform", shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform whole numbers in [0, high), (S, *shape)."""
        return (self._next("double", shape) * high).long()

    def doubles(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float64 (S, *shape): what `integers` multiplies."""
        return self._next("double", shape)

    def ready(self, kind: str, *shape: int) -> int:
        """How many draws of a kind, `normal`, `uniform` or `double`, and of a shape lie ready from a larger one."""
        return len(self.ahead.get((kind, shape), (None, ()))[1])

    def give_back(self, kind: str, draws: Sequence[Tensor]) -> None:
        """Put back the last draws of a kind and shape, in their order: they are the next ones again.

        They must have lain `ready` before.
        """
        if draws:
            self.ahead[kind, tuple(draws[0].shape[1:])][1].extend(reversed(draws))

    def permutations(self, count: int) -> Tensor:
        """One permutation of 0 ... count - 1 per seed, (S, count)."""
        return torch.stack([torch.randperm(count, generator=g) for g in self.generators]).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        state = {"generators": [generator.get_state() for generator in self.generators], "ahead": self._ahead()}
        parts = [[first, last, part._ahead()] for (first, last), part in self.parts.items()]
        return state | ({"parts": parts} if parts else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for generator, generator_state in zip(self.generators, state["generators"], strict=True):
            generator.set_state(generator_state)
        self._set_ahead(state["ahead"])
        self.parts = {}
        for first, last, ahead in state.get("parts", []):
            self.part(slice(first, last))._set_ahead(ahead)

    def _ahead(self) -> list[list[Any]]:
        return [
            [kind, list(shape), pool.clone(), len(pool) - len(left)]
            for (kind, shape), (pool, left) in self.ahead.items()
        ]

    def _set_ahead(self, ahead: Sequence[Sequence[Any]]) -> None:
        pools = {(kind, tuple(shape)): (pool.to(self.device, copy=True), gone) for kind, shape, pool, gone in ahead}
        self.ahead = {key: (pool, _backwards(pool[gone:])) for key, (pool, gone) in pools.items()}

    def _next(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        _, left = self.ahead.get((kind, shape), (None, None))
        if not left:
            pool = self._draw(kind, shape)
            left = _backwards(pool)
            self.ahead[kind, shape] = pool, left
        return left.pop()

    def _draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """New draws (n, S, *shape); n makes about DRAWN_AHEAD numbers per seed, and lies in [1, 64]."""
        count = max(1, min(64, DRAWN_AHEAD // max(1, math.prod(shape))))
        dtype = torch.float64 if kind == "double" else torch.float32
        out = torch.empty(len(self.generators), count, *shape, dtype=dtype)
        for row, generator in zip(out.unbind(0), self.generators, strict=True):
            if kind == "normal":
                row.normal_(generator=generator)
            else:
                row.uniform_(generator=generator)
        return out.transpose(0, 1).contiguous().to(self.device)


def _backwards(pool: Tensor) -> list[Tensor]:
    """The rows of a tensor, the last first."""
    return list(pool.unbind(0))[::-1]


def seed_metrics(rows: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> dict[str, float]:
    """One row of metrics from several seeds: the mean under `<name>`, each seed's value under `<name>/seed<seed>`.

    The mean is over the seeds that have the metric and whose value is not nan. A single seed's metrics are the row.

    >>> seed_metrics([{"loss": 1.0}, {"loss": 3.0}], seeds=[7, 8])
    {'loss': 2.0, 'loss/seed7': 1.0, 'loss/seed8': 3.0}
    """
    merged: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        own = {seed: row[name] for seed, row in zip(seeds, rows, strict=True) if name in row}
        numbers = [value for value in own.values() if value == value]
        merged[name] = sum(numbers) / len(numbers) if numbers else math.nan
        if len(seeds) > 1:
            merged |= {f"{name}/seed{seed}": value for seed, value in own.items()}
    return merged


@checked(seed=SEED)
def seed_globals(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    for seed_global in (random.seed, np.random.seed, torch.manual_seed):
        seed_global(seed)


def rng_state() -> dict[str, Any]:
    """The state of every global random number generator, as plain data for `save_checkpoint`.

    Returns:
        "torch": uint8 (n,), the CPU generator; "cuda": a list of uint8 (n,), one per device, empty without CUDA;
        "python": `random.getstate()`; "numpy": the global Mersenne Twister, its key as int64 (624,).

    Raises:
        ValueError: NumPy's global generator was replaced by one that is no Mersenne Twister.
    """
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)  # legacy=False returns a dict
    if numpy_state["bit_generator"] != "MT19937":
        raise ValueError(f"numpy's global generator must be MT19937, its default; got {numpy_state['bit_generator']}")
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore the state of every global random number generator.

    CUDA generators are set on the devices that both the checkpoint and this machine have.

    Args:
        state: a return value of `rng_state`, directly or from a checkpoint.

    Raises:
        ValueError: a generator is missing from `state`; none has been changed then.
    """
    missing = [name for name in ("torch", "cuda", "python", "numpy") if name not in state]
    if missing:
        raise ValueError(f"state must come from rng_state(); it lacks {missing}; got the keys {sorted(state)}")
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state.cpu(), device)
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words), next_gauss))
    numpy_state = state["numpy"]
    key = numpy_state["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy_state["pos"], numpy_state["has_gauss"], numpy_state["gauss"]))
