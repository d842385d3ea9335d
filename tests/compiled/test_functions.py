"""The kernels' functions of one number: within units in the last place, over all of float32, of what NumPy finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from decouple.compiled import functions
from decouple.compiled.kernel import kernel

SPECIAL = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1e-45,
    -1e-45,
    88.72,
    88.73,
    -87.3,
    -87.4,
    -103.9,
    -104.1,
    20.0,
    9.0,
    -9.0,
]


def over(function: Any) -> Callable[[np.ndarray], np.ndarray]:
    @kernel
    def run(x, y):
        for i in range(x.shape[0]):
            y[i] = function(x[i])

    def values(x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        run(x, y)
        return y

    return values


def ulps(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance in units in the last place of the expected numbers, which are finite."""
    return float(np.max(abs(found.astype(np.longdouble) - expected) / np.spacing(abs(expected))))


@pytest.mark.parametrize(
    ("function", "expected", "most", "least"),
    [
        (functions.exp, np.exp, 1.0, 1.2e-38),
        (functions.softplus, lambda x: np.logaddexp(0.0, x), 3.0, 1.2e-38),
        (functions.tanh, np.tanh, 4.0, 1e-34),  # below, tanh has products of few bits
    ],
)
def test_float32_everywhere(
    function: Any, expected: Callable[[np.ndarray], np.ndarray], most: float, least: float
) -> None:
    patterns = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = np.random.default_rng(0).uniform(-110, 95, 200_000).astype(np.float32)
    x = np.concatenate([patterns, near, np.array(SPECIAL, dtype=np.float32)])
    with np.errstate(all="ignore"):
        right = expected(x.astype(np.float64)).astype(np.float32)
    found = over(function)(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(right))
    finite = np.isfinite(right)
    np.testing.assert_array_equal(found[~finite], right[~finite])
    large = finite & (abs(right) > least)
    assert ulps(found[large], right[large]) <= most
    assert abs(found[finite & ~large] - right[finite & ~large]).max() <= 1e-5 * least


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (functions.exp, np.exp),
        (functions.softplus, lambda x: np.where(x > 20, x, np.logaddexp(0.0, x))),
        (functions.tanh, np.tanh),
    ],
)
def test_float64_is_the_c_librarys(function: Any, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.random.default_rng(0).uniform(-40, 40, 10_000)
    np.testing.assert_allclose(over(function)(x), expected(x), rtol=1e-15, atol=1e-15)


def test_the_logarithm_of_every_normal_number() -> None:
    rng = np.random.default_rng(0)
    edges = [
        np.finfo(np.float64).tiny,
        np.finfo(np.float64).max,
        0.5,
        1.0,
        2.0,
        2**0.5,
        0.5**0.5,
        1 - 2**-53,
        1 + 2**-52,
    ]
    x = np.concatenate([np.exp(rng.uniform(-708, 709, 200_000)), 1 + rng.normal(0, 1e-3, 100_000), edges])
    right = np.log(x.astype(np.longdouble)).astype(np.float64)
    assert ulps(over(functions.log_of_normal)(x), right) <= 1.0
