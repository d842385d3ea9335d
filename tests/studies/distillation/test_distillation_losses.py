"""studies/distillation/losses.py: each loss against plain PyTorch in float64, and how each kind of policy acts."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import distributions
from torchrl.data import Bounded, Categorical, MultiCategorical, OneHot, Unbounded

from decouple.networks.actor_qvalue import actor_qvalue
from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.heads import action_space
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.seeding import SeedNoise
from decouple.studies.distillation.losses import PolicyHead, policy_head, policy_parameters

BOX = Bounded(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 5.0]), (2,))


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graded(head: PolicyHead, teacher: torch.Tensor, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient in the student's parameters."""
    own = student.clone().requires_grad_()
    loss = head.divergence(teacher, own)
    loss.sum().backward()
    return loss.detach(), own.grad


def test_categoricals_learn_by_the_divergence_from_the_teacher():
    teacher, student = numbers(3, 5, 4, seed=0), numbers(3, 5, 4, seed=1)
    loss, gradient = graded(PolicyHead("categorical", action_space(Categorical(4))), teacher, student)
    pair = distributions.Categorical(logits=teacher), distributions.Categorical(logits=student)
    torch.testing.assert_close(loss, distributions.kl_divergence(*pair), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, student.softmax(-1) - teacher.softmax(-1), rtol=1e-9, atol=1e-12)  # by hand


def test_several_categoricals_learn_by_the_sum_of_their_divergences():
    teacher, student = numbers(6, 5, seed=0), numbers(6, 5, seed=1)
    head = PolicyHead("categorical", action_space(MultiCategorical([2, 3])))
    loss, _ = graded(head, teacher, student)
    wanted = sum(
        distributions.kl_divergence(distributions.Categorical(logits=of), distributions.Categorical(logits=own))
        for of, own in zip(teacher.split([2, 3], -1), student.split([2, 3], -1), strict=True)
    )
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)


def test_normals_learn_by_their_divergence_before_the_tanh():
    loc, own_loc = numbers(3, 5, 2, seed=0), numbers(3, 5, 2, seed=1)
    scale, own_scale = numbers(3, 5, 2, seed=2).exp(), numbers(3, 5, 2, seed=3).exp()
    teacher, student = torch.cat([loc, scale], -1), torch.cat([own_loc, own_scale], -1)
    loss, gradient = graded(PolicyHead("normal", action_space(BOX)), teacher, student)
    pair = distributions.Normal(loc, scale), distributions.Normal(own_loc, own_scale)
    torch.testing.assert_close(loss, distributions.kl_divergence(*pair).sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient[..., :2], (own_loc - loc) / own_scale**2, rtol=1e-9, atol=1e-12)  # by hand


def test_deterministic_policies_learn_by_the_squared_error_of_actions():
    teacher, student = numbers(3, 5, 2, seed=0), numbers(3, 5, 2, seed=1)
    loss, gradient = graded(PolicyHead("deterministic", action_space(BOX)), teacher, student)
    own = student.clone().requires_grad_()
    wanted = torch.nn.functional.mse_loss(own.tanh(), teacher.tanh(), reduction="none").sum(-1)
    wanted.sum().backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, own.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["categorical", "normal", "deterministic"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind):
    head = PolicyHead(kind, action_space(Categorical(4) if kind == "categorical" else BOX))
    same = numbers(7, head.size, seed=0).abs() + 0.1
    loss, gradient = graded(head, same, same)
    assert loss.abs().max() < 1e-12 and gradient.abs().max() < 1e-12


def test_modes_are_the_tasks_actions():
    logits = torch.tensor([[[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]]])
    for spec, wanted in (
        (Categorical(3), [[1, 0]]),
        (OneHot(3), [[[0, 1, 0], [1, 0, 0]]]),
        (MultiCategorical([2, 1]), [[[1, 0], [0, 0]]]),
    ):
        assert PolicyHead("categorical", action_space(spec)).act(logits, None).tolist() == wanted
    x = torch.tensor([[[0.0, 0.0], [math.inf, -math.inf], [math.nan, 0.0]]])
    found = PolicyHead("deterministic", action_space(BOX)).act(x, None)
    assert found.tolist() == [[[0.0, 2.5], [2.0, 0.0], [0.0, 2.5]]]
    unbounded = PolicyHead("normal", action_space(Unbounded((2,)))).act(torch.tensor([[[7.0, -8.0, 1.0, 1.0]]]), None)
    assert unbounded.tolist() == [[[7.0, -8.0]]]


def test_samples_follow_the_policy_and_each_seed_draws_its_own():
    head, noise = PolicyHead("normal", action_space(BOX)), SeedNoise([0, 1])
    drawn = head.act(torch.tensor([0.5, -0.5, 0.2, 0.1]).expand(2, 4000, 4), noise)
    before = torch.atanh((drawn - torch.tensor([0.0, 2.5])) / torch.tensor([2.0, 2.5]))
    torch.testing.assert_close(before.mean(1), torch.tensor([[0.5, -0.5]] * 2), rtol=0, atol=0.02)
    torch.testing.assert_close(before.std(1), torch.tensor([[0.2, 0.1]] * 2), rtol=0, atol=0.01)
    logits = torch.tensor([0.2, 0.3, 0.5]).log().expand(2, 9000, 3)
    index = PolicyHead("categorical", action_space(Categorical(3))).act(logits, noise)
    shares = torch.stack([(index == action).double().mean(1) for action in range(3)], -1)
    torch.testing.assert_close(shares, torch.tensor([[0.2, 0.3, 0.5]] * 2).double(), rtol=0, atol=0.02)
    assert not torch.equal(index[0], index[1])


@pytest.mark.parametrize("kind", ["categorical", "normal", "deterministic"])
def test_parameters_are_those_of_the_models_own_policy_alone_and_in_a_stack(kind):
    def made(seed: int):
        torch.manual_seed(seed)
        reads = [] if kind == "categorical" else ["action"]
        example = {"observation": torch.zeros(3)} | ({"action": torch.zeros(2)} if reads else {})
        if kind == "categorical":
            blocks = mlp_blocks(3, [4]), mlp_blocks(3, [4])
            return actor_value(separate(*blocks, at=0, example=example), Categorical(4), policy_gain=1.0)
        network = separate(mlp_blocks(3, [4]), mlp_blocks(5, [4]), at=0, value_keys=reads, example=example)
        return actor_qvalue(network, BOX, deterministic=kind == "deterministic")

    models, observation = [made(0), made(1)], torch.randn(2, 6, 3)
    found = policy_parameters(stack(models), observation)
    for model, seen, own in zip(models, observation, found, strict=True):
        torch.testing.assert_close(policy_parameters(model, seen), own)
        step = model.get_policy_operator()(TensorDict({"observation": seen}, [6]))
        head = policy_head(model)
        assert head.kind == kind
        if kind == "deterministic":
            torch.testing.assert_close(head.act(own[None], None)[0], step["action"])
        else:
            dist = model.get_policy_operator().get_dist(TensorDict({"observation": seen}, [6]))
            given = dist.logits if kind == "categorical" else torch.cat([dist.root_dist.loc, dist.root_dist.scale], -1)
            torch.testing.assert_close(own.log_softmax(-1) if kind == "categorical" else own, given)
