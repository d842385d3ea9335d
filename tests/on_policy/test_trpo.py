"""TRPO: Fisher products against the explicit matrix, conjugate gradients against a solve, steps against their bound."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import test_on_policy_training
import torch
from tensordict import TensorDict, TensorDictBase
from test_on_policy_seeds import SEEDS, SIZE, N, T, assert_close, make_model, parameters_of, train
from torch import Tensor
from torchrl.data import Bounded

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.distributions import kl_divergence
from decouple.networks.separation import separate
from decouple.networks.stacking import stack, unstack
from decouple.on_policy.algorithms.trpo import (
    TRPOPhase,
    TRPOSettings,
    conjugate_gradient,
    fisher_vector_product,
    trpo_phases,
)
from decouple.on_policy.training import train_on_policy

B = 40


def make_settings(**changes: Any) -> TRPOSettings:
    return TRPOSettings(**{"total_frames": 2 * N * T, "rollout_steps": T, "value_epochs": 3, **changes})


def frames(model: ActorValue, seed: int = 0) -> TensorDictBase:
    """Random observations (B,), the model's actions on them, and random normalised advantages."""
    torch.manual_seed(seed)
    batch = TensorDict({"observation": torch.randn(B, SIZE + 1).double()}, [B])
    batch = model.get_policy_operator()(batch).detach()
    advantage = torch.randn(B, 1).double()
    batch["advantage"] = (advantage - advantage.mean()) / advantage.std()
    return batch


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def surrogate(model: ActorValue, batch: TensorDictBase) -> Tensor:
    log_probability = model.get_policy_operator().get_dist(batch.select("observation")).log_prob(batch["action"])
    return ((log_probability - batch["action_log_prob"]).exp() * batch["advantage"].squeeze(-1)).mean()


def divergence(old: ActorValue, new: ActorValue, batch: TensorDictBase) -> Tensor:
    observation = batch.select("observation")
    with torch.no_grad():
        before = old.get_policy_operator().get_dist(observation)
    return kl_divergence(before, new.get_policy_operator().get_dist(observation)).mean()


def jacobian(rows: Tensor, parameters: list[Tensor]) -> Tensor:
    return torch.stack(
        [flat(torch.autograd.grad(row, parameters, retain_graph=True, materialize_grads=True)) for row in rows]
    )


def explicit_fisher(model: ActorValue, batch: TensorDictBase) -> Tensor:
    """Mean over frames of E[score score^T], (n, n): over the actions, or by the normal's own Fisher matrix."""
    distribution = model.get_policy_operator().get_dist(batch.select("observation"))
    parameters = list(model.get_policy_operator().parameters())
    if model.discrete:
        log_p = distribution.logits
        scores = jacobian(log_p.reshape(-1), parameters).reshape(B, 3, -1)  # (B, A, n)
        return torch.einsum("ba,bai,baj->ij", log_p.exp().detach(), scores, scores) / B
    normal = distribution.root_dist
    of_loc, of_scale = (jacobian(value.reshape(-1), parameters) for value in (normal.loc, normal.scale))
    precision = 1 / normal.scale.detach().square().reshape(-1, 1)  # of loc; that of the scale is twice as large
    return (of_loc.T @ (precision * of_loc) + 2 * of_scale.T @ (precision * of_scale)) / B


# -------------------------------------------------------------------------------------------------- linear algebra


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_fisher_vector_product_is_that_with_the_explicit_fisher_matrix(kind: str):
    model = make_model(1, kind)
    batch = frames(model)
    parameters = list(model.get_policy_operator().parameters())
    product = fisher_vector_product(divergence(model, model, batch).reshape(1), parameters, damping=0.3)
    fisher = explicit_fisher(model, batch)
    vector = torch.randn(1, len(fisher)).double()
    torch.testing.assert_close(product(vector)[0], fisher @ vector[0] + 0.3 * vector[0])


def test_conjugate_gradients_solve_each_system_in_as_many_steps_as_it_has_unknowns():
    torch.manual_seed(0)
    root, b = torch.randn(3, 6, 6).double(), torch.randn(3, 6).double()
    matrix = root @ root.mT + torch.eye(6).double()
    b[2] = 0  # already solved
    x = conjugate_gradient(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), b, iterations=6)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-4, atol=1e-6)
    assert torch.equal(x[2], torch.zeros(6).double())


def test_two_iterations_of_conjugate_gradients_by_hand():
    # H = diag(1, 3), b = (1, 1): x_1 = (2 / 4) b; r_1 = (1/2, -1/2), p_1 = r_1 + (1/4) b; then the solution (1, 1/3).
    matrix, b = torch.tensor([1.0, 3.0]).double(), torch.ones(1, 2).double()
    assert conjugate_gradient(lambda v: matrix * v, b, iterations=1).tolist() == [[0.5, 0.5]]
    assert conjugate_gradient(lambda v: matrix * v, b, iterations=2).tolist() == [pytest.approx([1, 1 / 3])]


# -------------------------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_step_goes_along_the_natural_gradient_stays_within_the_bound_and_improves(kind: str):
    model = make_model(2, kind)
    batch, old = frames(model), copy.deepcopy(model)
    parameters = list(old.get_policy_operator().parameters())
    gradient = flat(torch.autograd.grad(surrogate(old, batch), parameters))
    matrix = explicit_fisher(old, batch) + 0.1 * torch.eye(len(gradient)).double()
    natural = torch.linalg.solve(matrix, gradient)
    largest = math.sqrt(2 * 0.01 / (natural @ matrix @ natural)) * natural
    row = TRPOPhase(model, cg_iters=100).run(batch)

    moved = flat(parameters_of(model.get_policy_operator())) - flat(parameters_of(old.get_policy_operator()))
    torch.testing.assert_close(moved, row["policy/step_fraction"] * largest, rtol=1e-3, atol=1e-6)
    assert 0 < divergence(old, model, batch) <= 0.01
    assert row["policy/kl"] == pytest.approx(divergence(old, model, batch).item())
    assert row["policy/improvement"] == pytest.approx((surrogate(model, batch) - surrogate(old, batch)).item())
    assert row["policy/improvement"] > 0
    assert row["grad_norm/policy"] == pytest.approx(gradient.norm().item())
    # What is not the policy's did not move.
    for part in ("value", "value_head"):
        same = zip(parameters_of(model.module[part]), parameters_of(old.module[part]), strict=True)
        assert all(torch.equal(a, b) for a, b in same)


def bandit(damping: float, delta: float, advantages: list[float]) -> tuple[float, dict[str, Any]]:
    """A policy tanh(theta + e) of one parameter, seen at e = 1 and e = -1; the theta after a step from 0.

    The head's weight and the features are 0, so only its bias moves; at e = 1 and -1 the scale has no gradient.
    """
    network = separate(mlp_blocks(1, [2]), mlp_blocks(1, [2]), at=0)
    model = actor_value(network, Bounded(-1, 1, shape=(1,)), policy_gain=0.0).double()
    observation = torch.zeros(2, 1).double()
    batch = TensorDict({"observation": observation, "action": torch.tensor([[1.0], [-1.0]]).double().tanh()}, [2])
    distribution = model.get_policy_operator().get_dist(batch.select("observation"))
    batch["action_log_prob"] = distribution.log_prob(batch["action"]).detach()
    batch["advantage"] = torch.tensor(advantages).double().unsqueeze(-1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    row = TRPOPhase(model, damping=damping, delta=delta).run(batch)
    after = model.state_dict()
    bias = model.module["policy_head"][0].module[0].bias
    moved = [name for name in before if not torch.allclose(before[name], after[name], rtol=0, atol=1e-9)]
    assert all(after[name] is bias or torch.equal(after[name], bias) for name in moved)
    return bias.item(), row


def test_the_step_of_a_gaussian_bandit_is_the_one_worked_out_by_hand():
    # L = mean(+-1 exp(+-theta - theta^2 / 2)): gradient 1; H = 1 / scale^2 = 1, damped 1.1. x = 1 / 1.1, and the step
    # sqrt(2 delta / (1.1 x^2)) x = sqrt(2 delta / 1.1). KL = theta^2 / 2 = delta / 1.1: the first step is accepted.
    theta, row = bandit(damping=0.1, delta=0.01, advantages=[1.0, -1.0])
    assert theta == pytest.approx(math.sqrt(0.02 / 1.1), rel=1e-5)
    assert row["policy/kl"] == pytest.approx(0.01 / 1.1, rel=1e-5)
    assert row["policy/improvement"] == pytest.approx(math.exp(-(theta**2) / 2) * math.sinh(theta), rel=1e-5)
    assert row["policy/step_fraction"] == 1
    # The other way round, it steps to the other side.
    assert bandit(damping=0.1, delta=0.01, advantages=[-1.0, 1.0])[0] == pytest.approx(-theta, rel=1e-5)


def test_the_line_search_shortens_a_step_that_does_not_improve():
    # L = exp(theta - theta^2 / 2), again with gradient 1: it gains for theta < 2 only. The first step is sqrt(16 / 1.1)
    # = 3.81, where KL = theta^2 / 2 = 7.3 is within delta; it takes three shortenings: 3.81 * 0.8^3 = 1.95.
    theta, row = bandit(damping=0.1, delta=8.0, advantages=[2.0, 0.0])
    assert row["policy/step_fraction"] == pytest.approx(0.8**3)
    assert theta == pytest.approx(0.8**3 * math.sqrt(16 / 1.1), rel=1e-5)


def test_without_an_advantage_nothing_moves():
    theta, row = bandit(damping=0.1, delta=0.01, advantages=[0.0, 0.0])
    assert (theta, row["policy/step_fraction"], row["policy/kl"]) == (0, 0, 0)


# ------------------------------------------------------------------------------------------------- several seeds


def test_a_seed_whose_step_is_rejected_keeps_its_parameters_while_the_others_step():
    models = [make_model(seed) for seed in SEEDS]
    batches = [frames(model, seed) for model, seed in zip(models, SEEDS, strict=True)]
    batches[1]["advantage"] = torch.full((B, 1), math.nan).double()
    together, trained = stack(models), copy.deepcopy(models)
    row = TRPOPhase(together).run(torch.stack(batches))
    unstack(together, trained)
    assert row["policy/step_fraction"][1] == 0
    assert all(torch.equal(a, b) for a, b in zip(parameters_of(trained[1]), parameters_of(models[1]), strict=True))
    for index in (0, 2):
        alone = copy.deepcopy(models[index])
        own = TRPOPhase(alone).run(batches[index])
        assert_close(trained[index], alone)
        assert 0 < divergence(models[index], trained[index], batches[index]) <= 0.01
        assert row["policy/kl"][index].item() == pytest.approx(own["policy/kl"])


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_each_of_three_agents_trained_at_once_becomes_what_it_becomes_alone(kind: str):
    models, settings = [make_model(seed, kind) for seed in SEEDS], make_settings(micro_batch=30)
    together, rows = train(models, SEEDS, settings, kind, make_phases=trpo_phases)
    for index, seed in enumerate(SEEDS):
        (alone,), own = train([models[index]], [seed], settings, kind, make_phases=trpo_phases)
        assert_close(together[index], alone)
        for row, of_one in zip(rows, own, strict=True):
            for name in ("policy/kl", "policy/entropy", "grad_norm/policy", "loss/critic", "grad_norm/value"):
                assert row[f"{name}/seed{seed}"] == pytest.approx(of_one[name], rel=1e-5)
            assert 0 < row[f"policy/kl/seed{seed}"] <= 0.01


# -------------------------------------------------------------------------------------------------------- the loop


def test_a_learned_corridor_pays_more_than_chance():
    """Action 2 pays 1 a step, action 0 nothing: TRPO finds it, with one agent that is not stacked."""
    torch.manual_seed(0)
    model = test_on_policy_training.make_model(0)
    frames_each = test_on_policy_training.N * 32
    small = {"total_frames": 20 * frames_each, "rollout_steps": 32, "value_epochs": 3}
    settings = TRPOSettings(**small, gamma=0.5, delta=0.1)
    rows: list[dict[str, float]] = []
    log = lambda row, _: rows.append(row)  # noqa: E731
    train_on_policy(test_on_policy_training.corridor(), model, trpo_phases(model, settings), settings, log=log)
    actions = test_on_policy_training.corridor().rollout(50, model, break_when_any_done=False)["action"]
    assert (actions == 2).double().mean() > 0.9
    assert all(row["policy/kl"] <= 0.1 for row in rows)
    assert rows[-1]["policy/entropy"] < 0.4 < rows[0]["policy/entropy"]


def test_a_run_that_goes_on_from_its_checkpoint_equals_one_that_was_never_stopped(tmp_path: Path):
    models = [make_model(seed) for seed in SEEDS]
    whole, _ = train(models, SEEDS, make_settings(), make_phases=trpo_phases)
    for iterations in (1, 2):
        settings = make_settings(total_frames=iterations * N * T)
        path = tmp_path / "checkpoint.pt"
        stopped, _ = train(models, SEEDS, settings, make_phases=trpo_phases, checkpoint=path)
    for a, b in zip(whole, stopped, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(parameters_of(a), parameters_of(b), strict=True))


def test_the_values_epochs_are_plain_adam_on_the_squared_error_of_the_whole_rollout():
    model, settings = make_model(4), make_settings(value_epochs=5)
    plain, batch = copy.deepcopy(model), frames(model)
    batch["value_target"] = torch.randn(B, 1).double()
    with torch.no_grad():
        batch["state_value"] = model.get_value_operator()(batch.select("observation"))["state_value"]
    (_, value) = trpo_phases(model, settings)
    value.run(batch, torch.Generator(), micro_batch=B)
    network = plain.get_value_operator()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-8)
    for _ in range(5):
        optimizer.zero_grad()
        predicted = network(batch.select("observation"))["state_value"]
        (predicted - batch["value_target"]).square().mean().backward()
        optimizer.step()
    assert_close(model, plain)


# ---------------------------------------------------------------------------------------------- settings, refusals


def test_the_defaults_are_spinning_ups():
    expected = {
        **{"delta": 0.01, "damping": 0.1, "cg_iters": 10, "backtrack_iters": 10, "backtrack_coeff": 0.8},
        **{"value_epochs": 80, "learning_rate": 1e-3, "gamma": 0.99, "gae_lambda": 0.97, "rollout_steps": 4000},
        **{"minibatches": 1, "algorithm": "trpo"},
    }
    settings = TRPOSettings()
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("delta", value) for value in (0, -1.0, math.nan, None)),
        *(("damping", value) for value in (-0.1, math.inf, "much")),
        *((name, value) for name in ("cg_iters", "backtrack_iters") for value in (0, 2.5)),
        *(("backtrack_coeff", value) for value in (0, 1, 1.5)),
        ("algorithm", "ppo"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name_what_is_allowed_and_what_came(name, value):
    says = rf"^{name} must be .+; got {re.escape(repr(value))}$"
    with pytest.raises(ValueError, match=says):
        TRPOSettings(**{name: value})
    if name != "algorithm":
        with pytest.raises(ValueError, match=says):
            TRPOPhase(make_model(0), **{name: value})


def test_a_network_with_a_trunk_is_refused():
    with pytest.raises(ValueError, match="model must be separated at k = 0 for TRPO, with no trunk; got k = 1"):
        trpo_phases(make_model(0, k=1), make_settings())
