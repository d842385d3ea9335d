"""load.py: agents taken back from a run's checkpoint."""

from __future__ import annotations

import pytest
from test_cell import cell

from decouple.runs.checkpoint import CheckpointError, save_checkpoint
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.load import load_agents


def test_a_checkpoint_of_something_else_holds_no_agents(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"settings": {"algorithm": "sac"}, "frames": 10})
    with pytest.raises(CheckpointError, match=r"checkpoint.pt must hold agents of train_agents"):
        load_agents(tmp_path)


def test_agents_come_back_whatever_their_intervals_were(tmp_path):
    train_agents(cell("td3", tmp_path / "run", log_every=30, evaluate_every=60, checkpoint_every=60))
    assert len(load_agents(tmp_path / "run")) == 1
