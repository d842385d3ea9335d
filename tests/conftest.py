"""Every test starts from the same seeds, one thread and with gradients, so that no result depends on the order."""

import contextlib
import gc
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from warm import the_warm

collect_ignore = ["data"]  # its scripts run with the versions that they record

ROOT = Path(__file__).parent.parent

gc.disable()  # until all tests are collected
with contextlib.suppress(ImportError):
    import opensimplex  # noqa: F401  (imports Numba, which sets PyTorch's threads: once, and before the next line)
torch.set_num_threads(1)  # most networks here are tiny, and lose much by a second thread


MAY_COMPILE = {"commands", "off_policy", "on_policy", "runs", "studies"}  # folders of tests that train by kernels


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of kernels first, then those that use them: the second of two processes begins at the middle, with the
    others, and does not wait while the first one compiles."""

    def place(item: pytest.Item) -> int:
        path = str(item.path.relative_to(ROOT))
        if {"compiled", "kernels"} & set(re.split(r"\W|_", path)):
            return 0
        return 1 if path.startswith("tests") and MAY_COMPILE & set(path.split("/")) else 2

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # thousands of tests and all that they import stay: no collection looks through them
    gc.enable()


@pytest.fixture(autouse=True)
def seeds() -> Iterator[None]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    left_on = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert left_on, "this test, or what it dropped, left PyTorch's gradients switched off"


class Curves:
    """Whether a run of this process draws its curves: that takes longer than a small run."""

    drawn = False


@pytest.fixture(scope="session", autouse=True)
def curves_not_drawn() -> Iterator[None]:
    """A run's curves.png is there and empty, but for tests that ask for `with_curves`."""
    from decouple.runs import tracking

    draw = tracking.plot_curves

    def plot_curves(run_dir: str) -> Path:
        if Curves.drawn:
            return draw(run_dir)
        path = Path(run_dir, "curves.png")
        path.touch()
        return path

    tracking.plot_curves = plot_curves
    yield
    tracking.plot_curves = draw


@pytest.fixture
def with_curves() -> Iterator[None]:
    """A run draws its curves at its end, as it does for a user."""
    Curves.drawn = True
    yield
    Curves.drawn = False


@pytest.fixture(scope="session", autouse=True)
def warm_process() -> Iterator[None]:
    yield
    if the_warm.cache_info().currsize:
        the_warm().__exit__()


# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would every command that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
