"""Random streams: splitmix64's published numbers, one game as many, who draws and who does not, uniformity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import ON_GPU
from torch import Tensor

from decouple.envs.games.streams import Stream, Streams, stream_seed

# The first outputs for the seed 1234567 of https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
PUBLISHED = (
    *(6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431),
    16408922859458223821,
)
EXPECTED = [(output >> 11) * 2.0**-53 for output in PUBLISHED]
PLACES = ["picks", "all", ON_GPU]  # how the streams that draw are found


def streams(seeds: list[int], place: str) -> Streams:
    """``all`` computes on the CPU as a GPU does."""
    made = Streams(torch.tensor(seeds, device="cuda" if place == "cuda" else "cpu"))
    made._picks = place == "picks"
    return made


def mask(which: list[bool], drawn: Streams) -> Tensor:
    return torch.tensor(which, device=drawn.state.device)


def test_published_numbers_one_by_one() -> None:
    stream = Stream(1234567)
    assert [stream.uniform() for _ in PUBLISHED] == EXPECTED
    assert stream.state == (1234567 + 5 * 0x9E3779B97F4A7C15) % 2**64


@pytest.mark.parametrize("place", PLACES)
def test_published_numbers_batched(place: str) -> None:
    many = streams([1234567], place)
    which = mask([True], many)
    assert many.uniform(which, 2)[0].tolist() + many.uniform(which, 3)[0].tolist() == EXPECTED
    assert streams([0, 1234567], place).draw(mask([False, True], many).nonzero()[0], 5).tolist() == [EXPECTED]


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_row_gives_what_its_stream_alone_gives_whatever_others_do(place: str, data: st.DataObject) -> None:
    seeds = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
    alone, many = [Stream(seed) for seed in seeds], streams(seeds, place)
    for _ in range(4):
        which = data.draw(st.lists(st.booleans(), min_size=len(seeds), max_size=len(seeds)))
        number = data.draw(st.integers(1, 4))
        drawn = many.uniform(mask(which, many), number)
        assert drawn.shape == (len(seeds), number) and drawn.dtype == torch.float64
        assert (drawn >= 0).all() and (drawn < 1).all()
        for row, (stream, asked) in enumerate(zip(alone, which, strict=True)):
            if asked:
                assert drawn[row].tolist() == [stream.uniform() for _ in range(number)]
        assert [state % 2**64 for state in many.state.tolist()] == [stream.state for stream in alone]


def test_draw_advances_the_named_rows_only() -> None:
    many, alone = Streams(torch.arange(6)), [Stream(seed) for seed in range(6)]
    for rows in ([4, 1], [0], [5, 4, 3, 2, 1, 0], []):
        drawn = many.draw(torch.tensor(rows, dtype=torch.int64), 2)
        assert drawn.tolist() == [[alone[row].uniform(), alone[row].uniform()] for row in rows]
    assert [state % 2**64 for state in many.state.tolist()] == [stream.state for stream in alone]


def test_the_seeds_of_games_are_distinct_and_fit_int64() -> None:
    seeds = {stream_seed(seed, index) for seed in (0, 1, 2, 1000, 2**31 - 1) for index in (*range(2000), 2**32 - 1)}
    assert len(seeds) == 5 * 2001 and all(-(2**63) <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, 0) != stream_seed(0, 1)


def test_numbers_are_uniform_and_independent() -> None:
    """Over neighbouring games and in time; bounds of five standard deviations."""
    B, T = 2000, 50
    many = Streams(torch.tensor([stream_seed(0, index) for index in range(B)]))
    numbers = many.uniform(torch.ones(B, dtype=torch.bool), T)  # (B, T)
    assert abs(numbers.mean() - 1 / 2) < 5 * (1 / 12 / numbers.numel()) ** 0.5
    assert numbers.unique().numel() == numbers.numel()
    cells, expected = numbers.mul(100).long().flatten().bincount(minlength=100), numbers.numel() / 100
    chi_square = ((cells - expected) ** 2 / expected).sum()  # 99 degrees of freedom: 99 +- 14
    assert abs(chi_square - 99) < 5 * (2 * 99) ** 0.5
    centred = (numbers - 1 / 2) * 12**0.5  # mean 0, variance 1
    for left, right in ((centred[:, :-1], centred[:, 1:]), (centred[:-1], centred[1:])):
        assert abs((left * right).mean()) < 5 / left.numel() ** 0.5


@pytest.mark.parametrize("seeds", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)])
def test_other_seeds_are_refused(seeds: Tensor) -> None:
    with pytest.raises(ValueError, match=r"seeds must be an array of 1 axes of finite integers"):
        Streams(seeds)


def test_the_given_seeds_are_left_alone() -> None:
    seeds = torch.arange(3)
    Streams(seeds).uniform(torch.ones(3, dtype=torch.bool))
    assert seeds.tolist() == [0, 1, 2]


def test_numpys_integers_are_as_good_as_pythons():
    assert stream_seed(np.int64(3), np.int64(-2)) == stream_seed(3, -2)
    assert Stream(np.int64(-5)).uniform() == Stream(-5).uniform()
