"""One random stream per game: splitmix64, for one game in plain integers and for many as tensors, the same bits.

A game that has a stream of its own sees the same numbers alone and beside others, one at a time and batched, on the CPU
and on a GPU; its whole randomness is one integer of 64 bits.

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

from decouple.checks import Must, checked
from decouple.seeding import FIRST, GAMMA, SECOND, splitmix64

__all__ = ["Stream", "Streams", "stream_seed"]

WIDE = Must(lambda number: -(2**63) <= number < 2**64, "of 64 bits", any_number=True)

MASK = 2**64 - 1
UNIT = 2.0**-53


def _signed(value: int) -> int:
    """The same 64 bits as torch's int64 reads them."""
    return value - 2**64 if value >= 2**63 else value


@checked(seed=WIDE, index=WIDE)
def stream_seed(seed: int, index: int) -> int:
    """Seed of the stream of game ``index`` of agent ``seed``, in [-2^63, 2^63).

    Two different pairs never have the same seed: the pair's 64 bits are mixed by a bijection.

    Args:
        seed: in [0, 2^32).
        index: in [0, 2^32).
    """
    return _signed(splitmix64(int(seed) << 32 | int(index)))


class Stream:
    """The numbers of one game.

    Attributes:
        state: 64 bits, an integer in [0, 2^64); the only state.
    """

    __slots__ = ("state",)

    @checked(seed=WIDE)
    def __init__(self, seed: int) -> None:
        """``seed``: any integer; its lowest 64 bits count."""
        self.state = int(seed) & MASK

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2^-53."""
        self.state = z = self.state + GAMMA & MASK
        z = (z ^ z >> 30) * FIRST & MASK  # as in splitmix64: a call would take a fifth of the time
        z = (z ^ z >> 27) * SECOND & MASK
        return ((z ^ z >> 31) >> 11) * UNIT


class Streams:
    """The numbers of B games, on any device: row b is, bit for bit, ``Stream`` with the seed of row b.

    Attributes:
        state: int64 (B,), the bits of ``Stream.state``; the only state. It is changed in place.
    """

    @checked()
    def __init__(self, seeds: Tensor) -> None:
        """``seeds``: int64 (B,); copied."""
        if seeds.dtype != torch.int64 or seeds.ndim != 1:
            raise ValueError(f"seeds must be int64 (B,); got {seeds.dtype} {tuple(seeds.shape)}")
        self.state = seeds.clone()
        self._picks = seeds.is_cpu  # few games draw in a step: to pick them is cheap here, and makes a GPU wait

    def uniform(self, which: Tensor, number: int = 1) -> Tensor:
        """The next ``number`` numbers of the streams of ``which``; the others stay where they are.

        Args:
            which: bool (B,).
            number: of each stream, >= 1.

        Returns:
            float64 (B, number) in [0, 1), multiples of 2^-53. A row that is not of ``which`` means nothing.
        """
        if self._picks:
            rows = which.nonzero().squeeze(1)
            out = torch.zeros(len(which), number, dtype=torch.float64)
            return out.index_copy_(0, rows, self.draw(rows, number)) if len(rows) else out
        following = _following(self.state, number)
        self.state.copy_(torch.where(which, following[:, -1], self.state))
        return _uniform(following)

    def draw(self, rows: Tensor, number: int = 1) -> Tensor:
        """The next ``number`` numbers of the streams of ``rows``, int64 (R,), each named once: float64 (R, number)."""
        following = _following(self.state.index_select(0, rows), number)
        self.state.index_copy_(0, rows, following[:, -1])
        return _uniform(following)


def _following(state: Tensor, number: int) -> Tensor:
    """The ``number`` states after ``state``, int64 (R,): (R, number). int64 wraps around, as it must here."""
    steps = [state + _signed(GAMMA * (step + 1) & MASK) for step in range(number)]
    return torch.stack(steps, 1) if number > 1 else steps[0].unsqueeze(1)


def _uniform(state: Tensor) -> Tensor:
    """What the states say, float64."""
    z = _shift(state, 30).bitwise_xor_(state).mul_(_signed(FIRST))
    z = _shift(z, 27).bitwise_xor_(z).mul_(_signed(SECOND))
    return _shift(_shift(z, 31).bitwise_xor_(z), 11).double().mul_(UNIT)


def _shift(z: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left, where int64's own shift repeats the sign."""
    return (z >> by).bitwise_and_(2 ** (64 - by) - 1)
