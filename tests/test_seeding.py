"""What a seed draws is its own; several seeds' metrics; global generators that go on where they stood."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from decouple.runs.checkpoint import load_checkpoint, save_checkpoint
from decouple.seeding import SeedNoise, rng_state, seed_globals, seed_metrics, set_rng_state, splitmix64


def draw(noise: SeedNoise) -> list[Tensor]:
    return [noise.normal(3, 2), noise.uniform(4), noise.integers(10, 5), noise.permutations(6)]


def test_what_a_seed_draws_does_not_depend_on_the_others() -> None:
    together = draw(SeedNoise([3, 11, 4]))
    for s, seed in enumerate([3, 11, 4]):
        for own, all_rows in zip(draw(SeedNoise([seed])), together, strict=True):
            assert torch.equal(own[0], all_rows[s])
    assert [x.shape for x in together] == [(3, 3, 2), (3, 4), (3, 5), (3, 6)]
    twice = SeedNoise([5, 5]).normal(8)
    assert torch.equal(twice[0], twice[1])


def test_neighbouring_seeds_draw_independently() -> None:
    normal = SeedNoise(range(20)).normal(2000)
    correlation = torch.corrcoef(normal) - torch.eye(20)
    assert correlation.abs().max() < 5 / 2000**0.5
    torch.testing.assert_close(normal.mean(1), torch.zeros(20), rtol=0, atol=5 / 2000**0.5)
    torch.testing.assert_close(normal.std(1), torch.ones(20), rtol=0, atol=0.1)


def test_ranges() -> None:
    noise = SeedNoise([0, 1])
    uniform, integers = noise.uniform(10_000), noise.integers(4, 10_000)
    assert uniform.min() >= 0 and uniform.max() < 1 and uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert integers.dtype == torch.int64 and integers.unique().tolist() == [0, 1, 2, 3]
    permutations = noise.permutations(7)
    assert permutations.sort(-1).values.tolist() == [list(range(7))] * 2
    assert (permutations[0] != permutations[1]).any()


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw(SeedNoise([1]))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(SeedNoise([1])), strict=True))


def test_noise_goes_on_from_its_state() -> None:
    noise = SeedNoise([1, 2])
    draw(noise)
    state = noise.state_dict()
    expected = draw(noise)
    fresh = SeedNoise([8, 9])
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(draw(fresh), expected, strict=True))
    with pytest.raises(ValueError, match="zip"):
        SeedNoise([1]).load_state_dict(state)


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64 - 1])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert SeedNoise([seed]).normal(2).isfinite().all()


def test_what_is_drawn_ahead_is_part_of_the_state_and_never_handed_out_twice():
    noise = SeedNoise([1, 2])
    drawn = [noise.normal(3).clone() for _ in range(70)]  # more than are drawn ahead
    assert len({tuple(row.tolist()) for rows in drawn for row in rows}) == 140
    state = noise.state_dict()
    expected = [noise.normal(3).clone(), noise.integers(1000, 5), noise.uniform(2).clone(), noise.normal(3).clone()]
    noise.load_state_dict(state)
    noise.ahead["normal", (3,)][0][:6].zero_()  # what is gone does not matter
    again = [noise.normal(3), noise.integers(1000, 5), noise.uniform(2), noise.normal(3)]
    for one, other in zip(again, expected, strict=True):
        assert torch.equal(one, other)


def test_whole_numbers_are_even():
    drawn = SeedNoise([0]).integers(5, 100_000)
    assert drawn.min() == 0 and drawn.max() == 4
    assert (torch.bincount(drawn[0]) / 100_000 - 0.2).abs().max() < 0.01


def test_nan_is_no_number_that_a_mean_could_take_in():
    """Neither are the metrics that a seed lacks."""
    rows = [{"a": 1.0, "b": math.nan}, {"a": math.nan, "b": math.nan}, {"a": 4.0}]
    found = seed_metrics(rows, [5, 6, 7])
    assert found["a"] == 2.5 and math.isnan(found["b"]) and math.isnan(found["a/seed6"]) and "b/seed7" not in found


def test_seeds_metrics_are_their_own_and_the_mean_is_of_those_that_have_one():
    rows = [{"loss": 1.0, "return": 5.0}, {"loss": 4.0}]
    assert seed_metrics(rows, [7, 9]) == {
        **{"loss": 2.5, "loss/seed7": 1.0, "loss/seed9": 4.0},
        **{"return": 5.0, "return/seed7": 5.0},
    }


@pytest.mark.parametrize("state", [1234567, 1234567 - 2**64, 1234567 + 2**64])
def test_splitmix64_has_the_published_numbers(state: int) -> None:
    """The first three outputs for 1234567, of https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix64(state + step * 0x9E3779B97F4A7C15) for step in range(3)] == published


def test_splitmix64_has_the_same_numbers_for_numpys_integers() -> None:
    assert [splitmix64(np.int64(state)) for state in (-2, 7)] == [splitmix64(state) for state in (-2, 7)]


# --------------------------------------------------------------------------------------------------- global generators


def draw_globally():
    cuda = torch.rand(3, device="cuda").tolist() if torch.cuda.is_available() else []
    return [torch.randn(3).tolist(), cuda, random.gauss(0, 1), random.random(), np.random.randn(3).tolist()]


def test_random_numbers_go_on_where_they_were_saved(tmp_path):
    draw_globally()  # an odd number of normals: both gauss caches are full
    save_checkpoint(tmp_path / "checkpoint.pt", {"rng": rng_state()})
    expected = draw_globally()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    assert draw_globally() != expected
    set_rng_state(load_checkpoint(tmp_path / "checkpoint.pt")["rng"])
    assert draw_globally() == expected


@pytest.mark.parametrize("kind", ["normal", "uniform", "double"])
def test_draws_that_are_given_back_come_again(kind: str) -> None:
    one, other = SeedNoise([3, 4]), SeedNoise([3, 4])
    draw, again = (getattr(each, "doubles" if kind == "double" else kind) for each in (one, other))
    assert one.ready(kind, 2) == 0
    first = [draw(2).clone() for _ in range(64)]
    assert one.ready(kind, 2) == 0
    first.append(draw(2))
    assert one.ready(kind, 2) == 63
    drawn = [draw(2) for _ in range(3)]
    one.give_back(kind, drawn[1:])
    one.give_back(kind, [])
    assert one.ready(kind, 2) == 62
    found = [*first, drawn[0], *(draw(2) for _ in range(100))]
    assert all(torch.equal(each, again(2)) for each in found)
    assert all(map(torch.equal, one.state_dict()["generators"], other.state_dict()["generators"]))


def test_integers_are_made_of_doubles() -> None:
    one, other = SeedNoise([3, 4]), SeedNoise([3, 4])
    assert torch.equal(one.integers(1000, 5), (other.doubles(5) * 1000).long())


def test_one_seed_is_that_of_all_global_generators():
    seed_globals(3)
    drawn = [torch.rand(1).item(), random.random(), np.random.rand()]
    expected = [torch.rand(1, generator=torch.Generator().manual_seed(3)).item(), random.Random(3).random()]
    assert drawn == [*expected, np.random.RandomState(3).rand()]


def test_an_incomplete_random_state_changes_nothing():
    before = rng_state()
    with pytest.raises(ValueError, match=r"it lacks \['cuda', 'python', 'numpy'\]; got the keys \['torch'\]"):
        set_rng_state({"torch": torch.get_rng_state()})
    assert torch.equal(rng_state()["torch"], before["torch"])


def test_another_numpy_generator_is_refused():
    default = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(0))
    try:
        with pytest.raises(ValueError, match="must be MT19937, its default; got PCG64"):
            rng_state()
    finally:
        np.random.set_bit_generator(default)
