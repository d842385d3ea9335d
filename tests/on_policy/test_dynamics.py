"""DDCPG's discriminator: which transitions are drawn, the loss by hand, and what it costs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from test_on_policy_training import N, T, corridor, make_model, make_settings
from test_phasic import Products, phasic, train
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical

from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.recurrence import gru_block
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.on_policy.algorithms.dcpg import dcpg_phases
from decouple.on_policy.algorithms.ddcpg import ddcpg_phases
from decouple.on_policy.algorithms.dna import dna_phases
from decouple.on_policy.algorithms.ppg import ppg_phases
from decouple.on_policy.dynamics import DynamicsDiscriminator, DynamicsLoss, OtherRows, Transitions
from decouple.on_policy.kept import kept_bytes
from decouple.on_policy.phases import run_phase
from decouple.seeding import SeedNoise

STEPS = 6
# Two environments in each of two rollouts; an episode's first frame has the step count 0.
COUNTS = torch.tensor([0, 1, 2, 0, 1, 0, 3, 4, 0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 0, 1])
FOLLOWED = [0, 1, 3, 6, 8, 9, 10, 12, 13, 14, 15, 16, 18, 19, 20, 22]  # by a step count that is not 0, in one rollout


def flat(action: Tensor) -> TensorDict:
    rows = len(COUNTS)
    return TensorDict(
        action=action, step_count=COUNTS.unsqueeze(-1), observation=torch.arange(rows).float(), batch_size=[rows]
    )


def drawn(action: Tensor, seed: int = 0, **options: Any) -> TensorDict:
    batch = flat(action)
    Transitions(STEPS, **options)(batch, torch.Generator().manual_seed(seed))
    return batch


def test_no_next_state_lies_beyond_a_rollout_or_by_default_an_episodes_end():
    action = torch.arange(24) % 3
    assert drawn(action)["follows"].flatten().nonzero().flatten().tolist() == FOLLOWED
    across = drawn(action, across_ends=True)["follows"].flatten().nonzero().flatten().tolist()
    assert across == [row for row in range(24) if row % STEPS != STEPS - 1]


def test_false_transitions_are_drawn_from_other_frames_as_often_as_each_has_it():
    action = torch.tensor([0] * 12 + [1] * 8 + [2] * 4)
    actions, nexts = Counter(), Counter()
    for seed in range(1500):
        batch = drawn(action, seed)
        assert (batch["other_action"] != action).all()
        real, other = batch["rows"].unbind(-1)
        followed = batch["follows"].flatten()
        assert (real[followed] == torch.tensor(FOLLOWED) + 1).all() and (real != other)[followed].all()
        actions.update(batch["other_action"][:12].tolist())
        nexts.update([int(other[0]) - 1])
    assert actions[1] / actions[2] == pytest.approx(2, rel=0.05)  # 8 and 4 frames have these actions
    assert set(nexts) == set(FOLLOWED) - {0} and max(nexts.values()) < 2 * min(nexts.values())


@pytest.mark.parametrize("shape", ["one-hot", "several"])
def test_other_actions_differ_whatever_shape_actions_have(shape: str):
    index = torch.arange(24) % 3
    action = nn.functional.one_hot(index, 3) if shape == "one-hot" else torch.stack([index, index // 2], -1)
    batch = drawn(action)
    assert (batch["other_action"] != action).any(-1).all()


def test_where_all_actions_are_the_same_or_no_other_state_follows_a_term_is_left_out():
    same = drawn(torch.ones(24, dtype=torch.int64))
    assert (same["other_action"] == 1).all()
    batch = TensorDict(action=torch.tensor([0, 1]), step_count=torch.tensor([[0], [1]]), batch_size=[2])
    Transitions(2)(batch, torch.Generator())
    assert not batch["follows"].any()  # a single transition has no false next state


def test_agents_draw_as_each_would_alone_and_from_their_own_frames():
    actions = [torch.arange(24) % 3, torch.arange(24) % 2]
    together = torch.stack([flat(action) for action in actions])
    Transitions(STEPS)(together, SeedNoise([5, 7]))
    for index, seed in enumerate((5, 7)):
        alone = flat(actions[index])
        Transitions(STEPS)(alone, SeedNoise([seed]).generators[0])
        assert all((together[index][key] == alone[key]).all() for key in ("follows", "rows", "other_action"))
    OtherRows(["observation"])(together, together)
    expected = together["rows"].float()
    found = [together[name, "observation"] for name in ("following", "other_following")]
    torch.testing.assert_close(torch.stack(found, -1), expected)


def minibatch() -> TensorDict:
    torch.manual_seed(0)
    return TensorDict(
        policy_hidden=torch.randn(5, 4),
        following=TensorDict(policy_hidden=torch.randn(5, 4), batch_size=[5]),
        other_following=TensorDict(policy_hidden=torch.randn(5, 4), batch_size=[5]),
        action=torch.tensor([0, 1, 2, 1, 0]),
        other_action=torch.tensor([1, 0, 0, 1, 2]),
        follows=torch.tensor([[True], [True], [False], [True], [False]]),
        batch_size=[5],
    )


def make_loss(**options: Any) -> DynamicsLoss:
    torch.manual_seed(1)
    network = DynamicsDiscriminator(4, 3, 6)
    reads = ["policy_hidden", "action", ("following", "policy_hidden")]
    return DynamicsLoss(TensorDictModule(network, reads, ["dynamics_logit"]), **options)


def test_the_loss_equals_one_by_hand_and_no_gradient_is_stopped():
    batch, loss = minibatch(), make_loss(coeff=0.5)
    leaves = [batch["policy_hidden"], batch["following", "policy_hidden"], batch["other_following", "policy_hidden"]]
    for leaf in leaves:
        leaf.requires_grad_()
    torch.manual_seed(1)
    network = DynamicsDiscriminator(4, 3, 6)
    bce = nn.functional.binary_cross_entropy_with_logits
    total = torch.zeros(())
    for row in (0, 1, 3):  # the rows that a next state follows
        z, after, other = (leaf[row] for leaf in leaves)
        action, false = batch["action"][row], batch["other_action"][row]
        total = total + bce(network(z, action, after), torch.ones(1))
        total = total + bce(network(z, action, other), torch.zeros(1))
        if false != action:
            total = total + 0.5 * bce(network(z, false, after), torch.zeros(1))
    # As snu-mllab/DCPG has it: dyna_loss_in + 0.5 * dyna_loss_a_out + dyna_loss_s_out.
    found = loss(batch)["loss_dynamics"]
    torch.testing.assert_close(found, 0.5 * total / 5)
    expected = torch.autograd.grad(0.5 * total / 5, leaves)
    gradients = torch.autograd.grad(found, leaves)
    assert all(g[0].abs().sum() > 0 for g in gradients)
    torch.testing.assert_close(gradients, expected)


class Telling(nn.Module):
    """Tells every transition: the states that follow are positive, the actions that were taken are 1."""

    def forward(self, hidden: torch.Tensor, action: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return torch.where((action[..., None] == 1) & (following[..., :1] > 0), 1.0, -1.0) + 0 * hidden[..., :1]


def test_the_accuracy_is_of_the_frames_that_follow():
    batch = minibatch()
    batch["following", "policy_hidden"].abs_()
    batch["other_following", "policy_hidden"].abs_().neg_()
    batch["action"], batch["other_action"] = torch.ones(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    reads = ["policy_hidden", "action", ("following", "policy_hidden")]
    loss = DynamicsLoss(TensorDictModule(Telling(), reads, ["dynamics_logit"]))
    assert loss(batch)["dynamics_accuracy"].item() == pytest.approx(1)
    loss.reduction = "none"
    stacked = loss(torch.stack([batch, batch.clone().set("follows", torch.ones(5, 1, dtype=torch.bool))]))
    torch.testing.assert_close(stacked["dynamics_accuracy"].mean(1), torch.ones(2, 1))


def test_its_keys_can_be_named():
    batch, loss = minibatch(), make_loss()
    expected = loss(batch)["loss_dynamics"]
    renamed = batch.rename_key_("follows", "valid").rename_key_("other_action", "another")
    loss.set_keys(follows="valid", other_action="another")
    torch.testing.assert_close(loss(renamed)["loss_dynamics"], expected)
    assert "valid" in loss.in_keys and "follows" not in loss.in_keys


@pytest.mark.parametrize("make_phases", [ppg_phases, dcpg_phases, ddcpg_phases, dna_phases])
def test_a_memory_is_refused_by_name_whose_sequences_would_be_cut_into_frames(make_phases: Any):
    blocks = [[gru_block(4, 8)] for _ in range(2)]
    model = actor_value(separate(*blocks, at=0, example=torch.zeros(4)), Categorical(3))
    with pytest.raises(ValueError, match="model must have no recurrent blocks"):
        make_phases(model, make_settings())


def test_continuous_actions_are_refused_by_name():
    network = separate(mlp_blocks(4, [8]), mlp_blocks(4, [8]), at=1)
    with pytest.raises(ValueError, match="model must have discrete actions for DDCPG"):
        ddcpg_phases(actor_value(network, Bounded(-1.0, 1.0, (2,))), make_settings())


def test_results_do_not_depend_on_the_micro_batch():
    found = []
    for size in (3, 1000):
        model, phases, settings = phasic("ddcpg", micro_batch=size, total_frames=2 * N * T)
        train(model, phases, settings)
        found.append([parameter.detach() for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_kept_counts_actions_and_steps_too():
    _, phases, _ = phasic("ddcpg")
    assert kept_bytes(phases, corridor(), T) == 2 * N * T * (4 * 8 + 4 + 8 + 8)


@pytest.mark.parametrize("k", [0, 2, 3])
def test_the_auxiliary_phase_computes_what_its_table_counts(k: int):
    """A frame's policy features three times, forward and backward: its own, the next one's, and another next one's."""
    torch.manual_seed(0)
    network = separate(mlp_blocks(4, [64, 64, 64]), mlp_blocks(4, [64, 64, 64]), at=k)
    model = actor_value(network, Categorical(3))
    auxiliary = ddcpg_phases(model, make_settings(auxiliary_past=1, auxiliary_epochs=2, dynamics_width=64))[1]
    frames = 96
    batch = TensorDict(
        observation=torch.randn(frames, 4),
        value_target=torch.randn(frames, 1),
        action=torch.arange(frames) % 3,
        step_count=torch.arange(frames).unsqueeze(-1) % 8,
        batch_size=[frames],
    )
    with Products() as products:
        run_phase(auxiliary, batch, torch.Generator(), micro_batch=1000)
    weights = {
        name: [m.weight.numel() for m in part.modules() if isinstance(m, nn.Linear)]
        for name, part in (("trunk", model.trunk), ("policy", model.policy), ("value", model.value))
    }
    of_policy = sum(weights["trunk"]) + sum(weights["policy"])
    head_p, head_v, told = 3 * 64, 64, (2 * 64 + 3) * 64 + 64 * 64 + 64
    unneeded = 4 * 64  # the first layer has no gradient by the observation
    own = [unneeded * (4 if k == 0 else 3)]  # three passes of the policy's, and at k = 0 the value's
    epoch = 3 * (3 * of_policy + sum(weights["value"]) + head_p + head_v + 3 * told) - sum(own)
    expected = 2 * frames * (2 * epoch + of_policy + head_p)
    assert products.flops == pytest.approx(expected, rel=0.02)


def test_stacked_discriminators_are_those_of_each_seed():
    models = [make_model() for _ in range(2)]
    phases = ddcpg_phases(stack(models), make_settings(), [3, 4])
    alone = ddcpg_phases(stack([models[1]]), make_settings(), [4])
    of = [each[1].losses[0].discriminator_network_params["module"] for each in (phases, alone)]
    for key, value in of[1].items(True, True):
        torch.testing.assert_close(of[0][key][1:], value)
