"""One random stream per game: splitmix64, in plain integers for one game and in tensors for many, with the same bits.

A game with its own stream sees the same numbers alone and beside others, one at a time and batched, on the CPU and on a
GPU. The whole state of a stream is one integer of 64 bits.

    s <- s + 0x9E3779B97F4A7C15        z = (s ^ s >> 30) * 0xBF58476D1CE4E5B9
    z <- (z ^ z >> 27) * 0x94D049BB133111EB        uniform = ((z ^ z >> 31) >> 11) / 2^53

Steele, Lea and Flood, *Fast splittable pseudorandom number generators* (OOPSLA 2014), with the constants of Java's
SplittableRandom.

>>> seeds = [stream_seed(0, index) for index in range(3)]
>>> Streams(torch.tensor(seeds)).uniform(torch.ones(3, dtype=torch.bool), 2)[1].tolist() == [
...     stream.uniform() for stream in [Stream(seeds[1])] for _ in range(2)
... ]
True
"""

from __future__ import annotations

import torch
from torch import Tensor

from decouple.checks import Must, axes, checked
from decouple.seeding import FIRST, GAMMA, SECOND, splitmix64

__all__ = ["Stream", "Streams", "stream_seed"]

WIDE = Must(lambda number: -(2**63) <= number < 2**64, "of 64 bits", any_number=True)

MASK = 2**64 - 1
UNIT = 2.0**-53


def _signed(value: int) -> int:
    """The same 64 bits, read as a signed int64."""
    return value - 2**64 if value >= 2**63 else value


@checked(seed=WIDE, index=WIDE)
def stream_seed(seed: int, index: int) -> int:
    """Seed of the stream for game ``index`` of agent ``seed``, in [-2^63, 2^63).

    Two different pairs never have the same seed: the pair's 64 bits are mixed by a bijection.

    Args:
        seed: seed of the agent, in [0, 2^32).
        index: index of the game, in [0, 2^32).
    """
    return _signed(splitmix64(int(seed) << 32 | int(index)))


class Stream:
    """The random numbers of one game.

    Attributes:
        state: whole state, an integer of 64 bits in [0, 2^64).
    """

    __slots__ = ("state",)

    @checked(seed=WIDE)
    def __init__(self, seed: int) -> None:
        """``seed``: integer in [-2^63, 2^64), taken modulo 2^64."""
        self.state = int(seed) & MASK

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2^-53."""
        self.state = z = self.state + GAMMA & MASK
        z = (z ^ z >> 30) * FIRST & MASK  # inlined from splitmix64: a call would take a fifth of the time
        z = (z ^ z >> 27) * SECOND & MASK
        return ((z ^ z >> 31) >> 11) * UNIT


class Streams:
    """The random numbers of B games, on any device: row b is, bit for bit, ``Stream`` with the seed of row b.

    Attributes:
        state: whole state, int64 (B,), with the bits of ``Stream.state``; changed in place.
    """

    @checked(seeds=axes(1, kind="integer"))
    def __init__(self, seeds: Tensor) -> None:
        """``seeds``: int64 (B,); copied."""
        if seeds.dtype != torch.int64 or seeds.ndim != 1:
            raise ValueError(f"seeds must be int64 (B,); got {seeds.dtype} {tuple(seeds.shape)}")
        self.state = seeds.clone()
        self._picks = seeds.is_cpu  # select the few games that draw; on a GPU the selection would synchronize

    def uniform(self, which: Tensor, number: int = 1) -> Tensor:
        """Draw the next ``number`` numbers of the streams in ``which``; the other streams do not advance.

        Args:
            which: mask of the streams that draw, bool (B,).
            number: numbers per stream, >= 1.

        Returns:
            float64 (B, number) in [0, 1), multiples of 2^-53. Rows outside of ``which`` have no meaning.
        """
        if self._picks:
            rows = which.nonzero().squeeze(1)
            out = torch.zeros(len(which), number, dtype=torch.float64)
            return out.index_copy_(0, rows, self.draw(rows, number)) if len(rows) else out
        following = _following(self.state, number)
        self.state.copy_(torch.where(which, following[:, -1], self.state))
        return _uniform(following)

    def draw(self, rows: Tensor, number: int = 1) -> Tensor:
        """Draw the next ``number`` numbers of the streams ``rows``, distinct int64 (R,): float64 (R, number)."""
        following = _following(self.state.index_select(0, rows), number)
        self.state.index_copy_(0, rows, following[:, -1])
        return _uniform(following)


def _following(state: Tensor, number: int) -> Tensor:
    """The next ``number`` states after ``state``, int64 (R,): (R, number). Overflow of int64 wraps, as needed here."""
    steps = [state + _signed(GAMMA * (step + 1) & MASK) for step in range(number)]
    return torch.stack(steps, 1) if number > 1 else steps[0].unsqueeze(1)


def _uniform(state: Tensor) -> Tensor:
    """The states' uniform numbers, float64."""
    z = _shift(state, 30).bitwise_xor_(state).mul_(_signed(FIRST))
    z = _shift(z, 27).bitwise_xor_(z).mul_(_signed(SECOND))
    return _shift(_shift(z, 31).bitwise_xor_(z), 11).double().mul_(UNIT)


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical shift to the right, with zeros from the left; int64's own shift repeats the sign."""
    return (z >> by).bitwise_and_(2 ** (64 - by) - 1)
