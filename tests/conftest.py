"""Every test starts from the same seeds, one thread and with gradients, so that no result depends on the order."""

import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

collect_ignore = ["data"]  # its scripts run with the versions that they record

torch.set_num_threads(1)  # most networks here are tiny, and lose by a second thread


@pytest.fixture(autouse=True)
def seeds() -> Iterator[None]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    left_on = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert left_on, "this test, or what it dropped, left PyTorch's gradients switched off"


# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would every command that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
