"""agents.py: how the agents of a cell compute their updates, and what it says of that."""

from __future__ import annotations

from typing import Any

import pytest
from test_cell import cell

from decouple.off_policy import learners
from decouple.on_policy.compiled_phase import CompiledPhase
from decouple.on_policy.phases import Phase
from decouple.studies.actor_size import agents as actor_size_agents
from decouple.studies.actor_size.agents import OnPolicyAgents
from decouple.studies.actor_size.algorithms import algorithm_of, initial_agents


def agents(algorithm: str, **settings: Any) -> OnPolicyAgents:
    config = cell(algorithm, **settings)
    made = algorithm_of(config).make_agents(config, initial_agents(config))
    assert isinstance(made, OnPolicyAgents)
    return made


def test_ppo_learns_by_kernels_where_it_can_and_is_not_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("numba")
    for update in ("auto", "compiled"):
        made = agents("ppo", update=update)
        assert isinstance(made.phases[0], CompiledPhase) and made.update == "compiled updates"
    batched = agents("ppo", update="batched")
    assert isinstance(batched.phases[0], Phase) and batched.update == "batched updates"
    monkeypatch.setattr(actor_size_agents, "phase_not_compiled", lambda model, settings: "numba cannot be imported")
    assert agents("ppo", update="auto").update == "batched updates, since numba cannot be imported"
    with pytest.raises(
        ValueError, match="update must be auto or batched here: numba cannot be imported; got 'compiled'"
    ):
        agents("ppo", update="compiled")


def test_daac_learns_by_kernels_where_it_can():
    pytest.importorskip("numba")
    made = agents("daac", seeds=2)
    assert all(isinstance(phase, CompiledPhase) for phase in made.phases) and len(made.phases) == 2
    assert made.update == "compiled updates" and [phase.every for phase in made.phases] == [1, 1]
    batched = agents("daac", seeds=2, update="batched", value_every=3)
    assert [type(phase) for phase in batched.phases] == [Phase] * 2 and batched.update == "batched updates"
    assert [(phase.name, phase.every) for phase in batched.phases] == [("policy", 1), ("value", 3)]


@pytest.mark.parametrize("algorithm", ["td3", "ppo", "trpo"])
def test_whether_kernels_could_compute_updates_is_not_asked_where_they_shall_not(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
):
    for module, name in (
        (learners, "not_compiled"),
        (actor_size_agents, "not_compiled"),
        (actor_size_agents, "phase_not_compiled"),
    ):
        monkeypatch.setattr(module, name, None)
    config = cell(algorithm, update="batched")
    made = algorithm_of(config).make_agents(config, initial_agents(config))
    assert made.update == "batched updates"


@pytest.mark.parametrize("algorithm", ["ppg", "trpo"])
def test_ppg_and_trpo_say_that_they_have_no_kernels(algorithm: str):
    assert agents(algorithm).update == "batched updates, since its phases have no kernels"
    with pytest.raises(
        ValueError, match="update must be auto or batched here: its phases have no kernels; got 'compiled'"
    ):
        agents(algorithm, update="compiled")
