"""Recurrent blocks against PyTorch's and TorchRL's, alone, in sequences and in stacks; where their states travel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode

from decouple.networks.actor_qvalue import actor_qvalue
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.recurrence import RecurrentBlock, gru_block, lstm_block
from decouple.networks.separation import separate
from decouple.networks.stacking import stack, unstack

IN, H, B, T = 3, 5, 4, 9
MAKE = {"gru": gru_block, "lstm": lstm_block}
each_kind = pytest.mark.parametrize("kind", MAKE)


def block(kind: str, **options: Any) -> RecurrentBlock:
    made = MAKE[kind](IN, H, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-0.8, 0.8)
    return made.double()


def copied(own: RecurrentBlock, to: Any) -> Any:
    """PyTorch's layer with the block's weights."""
    to = to.double()
    with torch.no_grad():
        for name, layer in (("ih", own.inputs), ("hh", own.memory)):
            getattr(to, f"weight_{name}_l0").copy_(layer.weight)
            getattr(to, f"bias_{name}_l0").copy_(layer.bias)
    return to


def inputs(generator: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences (B, T, IN), and where episodes begin (B, T, 1): at the first step of some, and within."""
    torch.manual_seed(generator)
    starts = torch.rand(B, T, 1) < 0.25
    starts[0, 0], starts[1, 0], starts[1, 3:5] = False, True, True
    return torch.randn(B, T, IN, dtype=torch.float64), starts


def states(own: RecurrentBlock) -> Tensor:
    return torch.rand(B, T, *own.state_shape, dtype=torch.float64) - 0.5


@each_kind
def test_a_sequence_without_an_end_is_pytorchs_layer(kind: str):
    own, (x, _) = block(kind), inputs()
    layer = copied(own, {"gru": nn.GRU, "lstm": nn.LSTM}[kind](IN, H, batch_first=True))
    first = states(own)
    given = first[:, 0].transpose(0, 1).contiguous()  # (1 or 2, B, H)
    expected, last = layer(x, given if kind == "gru" else (given[:1], given[1:]))
    with set_recurrent_mode(True):
        found, after = own(x, is_init=torch.zeros(B, T, 1, dtype=torch.bool), state=first)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(after[:, -1, 0], (last if kind == "gru" else last[0])[0])
    if kind == "lstm":
        torch.testing.assert_close(after[:, -1, 1], last[1][0])


@each_kind
def test_with_episodes_that_begin_within_it_is_torchrls_module(kind: str):
    own, (x, starts) = block(kind), inputs()
    first = states(own)
    first[starts.squeeze(-1)] = 0  # TorchRL's module reads a sequence's stored state where an episode begins
    if kind == "gru":
        theirs: Any = GRUModule(
            gru=copied(own, nn.GRU(IN, H, batch_first=True)), in_keys=["x", "h"], out_keys=["y", ("next", "h")]
        )
        data = TensorDict({"x": x, "h": first, "is_init": starts}, [B, T])
    else:
        keys = {"in_keys": ["x", "h", "c"], "out_keys": ["y", ("next", "h"), ("next", "c")]}
        theirs = LSTMModule(lstm=copied(own, nn.LSTM(IN, H, batch_first=True)), **keys)
        data = TensorDict({"x": x, "h": first[:, :, :1], "c": first[:, :, 1:], "is_init": starts}, [B, T])
    with set_recurrent_mode(True):
        expected = theirs(data)["y"]
        found, _ = own(x, is_init=starts, state=first)
    torch.testing.assert_close(found, expected)


@each_kind
def test_a_sequence_is_its_steps_one_after_another_and_gradients_stop_where_an_episode_begins(kind: str):
    own, (x, starts) = block(kind), inputs()
    x.requires_grad_()
    first = states(own)
    with set_recurrent_mode(True):
        found, after = own(x, is_init=starts, state=first)
    now, steps = first[:, 0], []
    for t in range(T):
        y, now = own(x[:, t], is_init=starts[:, t], state=now)
        steps.append(y)
        torch.testing.assert_close(after[:, t], now)
    torch.testing.assert_close(found, torch.stack(steps, 1))
    (gradient,) = torch.autograd.grad(found[1, 4].sum(), x)
    assert gradient[1, 4].any() and not gradient[1, :4].any()  # an episode begins at step 4 of sequence 1
    torch.testing.assert_close(own(x[:, 0]), own(x[:, 0], is_init=torch.ones(B, 1, dtype=torch.bool), state=now)[0])


@each_kind
def test_a_stack_computes_what_each_would_alone_and_gives_its_weights_back(kind: str):
    blocks, (x, starts) = [nn.Sequential(block(kind)) for _ in range(3)], inputs()
    together: Any = stack(blocks)[0]
    first = states(blocks[0][0])
    many = [each.expand(3, *each.shape) for each in (x, starts, first)]
    for sequence in (True, False):
        given = many if sequence else [each[:, :, 0] for each in many]
        with set_recurrent_mode(sequence):
            found, after = together(given[0], is_init=given[1], state=given[2])
            for index, (alone,) in enumerate(blocks):
                own = [each[index] for each in given]
                expected = alone(own[0], is_init=own[1], state=own[2])
                torch.testing.assert_close((found[index], after[index]), expected)
    others = [nn.Sequential(block(kind)) for _ in range(3)]
    unstack(nn.Sequential(together), others)
    for other, own in zip(others, blocks, strict=True):
        assert all(map(torch.equal, other.parameters(), own.parameters()))


@each_kind
def test_initialisation_and_costs_by_hand(kind: str):
    gates = {"gru": 3, "lstm": 4}[kind]
    own = MAKE[kind](IN, H)
    for gate in own.memory.weight.split(H):
        torch.testing.assert_close(gate @ gate.T, torch.eye(H), rtol=0, atol=1e-5)
    assert not own.inputs.bias.any() and not own.memory.bias.any()
    default = MAKE[kind](IN, H, gain=None)
    largest = max(p.abs().max().item() for p in default.parameters())
    assert 0.9 * H**-0.5 < largest <= H**-0.5
    network = separate([own], mlp_blocks(IN, [2]), at=0)
    assert parameter_count(network)["policy"] == gates * H * (IN + H + 2)
    assert multiply_adds(network)["policy"] == gates * H * (IN + H)


# ---------------------------------------------------------------------------------------------------------- in a model


def model(k: int, policy: str | None = "gru", value: str | None = "lstm") -> ActorValue:
    def stack_of(kind: str | None) -> list[nn.Module]:
        return [*mlp_blocks(IN, [4]), *(mlp_blocks(4, [H]) if kind is None else [MAKE[kind](4, H)])]

    return actor_value(separate(stack_of(policy), stack_of(value), at=k), Categorical(2))


@pytest.mark.parametrize(
    ("made", "keys"),
    [
        (model(0), {"policy_1": (1, H), "value_1": (2, H)}),  # before it: two memories
        (model(1), {"policy_0": (1, H), "value_0": (2, H)}),  # at it
        (model(2), {"trunk_1": (1, H)}),  # after it: one
        (model(0, "lstm", None), {"policy_1": (2, H)}),
        (model(1, None, "gru"), {"value_0": (1, H)}),
        (model(1, None, None), {}),
    ],
)
def test_the_cut_tells_how_many_memories_there_are(made: ActorValue, keys: dict[str, tuple[int, int]]):
    names = {f"recurrent_state_{key}": shape for key, shape in keys.items()}
    assert made.in_keys == ["observation", *(["is_init", *names] if keys else [])]
    assert made.recurrent == bool(keys)
    for lead in ((), (6,), (2, 6)):
        data = TensorDict(
            {"observation": torch.rand(*lead, IN), "is_init": torch.ones(*lead, 1, dtype=torch.bool)}, lead
        )
        data.update({name: torch.rand(*lead, *shape) for name, shape in names.items()})
        out = made(data)
        assert {name: out["next", name].shape for name in names} == {n: (*lead, *s) for n, s in names.items()}
        assert out["state_value"].shape == (*lead, 1)
    in_policy = [name for name in names if "value" not in name]
    assert [key[1] for key in made.get_policy_operator().out_keys if key[0] == "next"] == in_policy
    assert [key[1] for key in made.get_value_operator().out_keys if key[0] == "next"] == [
        name for name in names if "policy" not in name
    ]


def test_a_recurrent_block_reads_further_keys_beside_its_memory():
    example = {"observation": torch.zeros(IN), "goal": torch.zeros(2)}
    network = separate(mlp_blocks(IN, [4]), [gru_block(IN + 2, H)], at=0, value_keys=["goal"], example=example)
    made = actor_value(network, Categorical(2))
    data = TensorDict({"observation": torch.rand(6, IN), "goal": torch.rand(6, 2)}, [6])
    data.update({"is_init": torch.zeros(6, 1, dtype=torch.bool), "recurrent_state_value_0": torch.rand(6, 1, H)})
    found = made(data)["value_hidden"] if "value_hidden" in made.out_keys else made.get_features()(data)["value_hidden"]
    x = torch.cat([data["observation"], data["goal"]], -1)
    expected, _ = network.value[0](x, is_init=data["is_init"], state=data["recurrent_state_value_0"])
    torch.testing.assert_close(found, expected)


def test_what_would_lose_its_memory_is_refused_by_name():
    inside = nn.Sequential(nn.Linear(IN, IN), gru_block(IN, H))
    with pytest.raises(ValueError, match=r"policy_blocks must hold recurrent blocks themselves.*\[0\] is a Sequential"):
        separate([inside], mlp_blocks(IN, [H]), at=0, example=torch.zeros(IN))
    spec = Bounded(-1, 1, (2,))
    example = {"observation": torch.zeros(IN), "action": torch.zeros(2)}
    critic = mlp_blocks(IN + 2, [4])
    for policy, value in (([gru_block(IN, H)], critic), (mlp_blocks(IN, [4]), [lstm_block(IN + 2, H)])):
        network = separate(policy, value, at=0, value_keys=["action"], example=example)
        with pytest.raises(ValueError, match="network must have no recurrent blocks for SAC, TD3 and DDPG"):
            actor_qvalue(network, spec)
    network = separate(mlp_blocks(IN, [4]), critic, at=0, value_keys=["action"], example=example)
    with pytest.raises(ValueError, match="network must have no recurrent blocks"):
        actor_qvalue(network, spec, twin_blocks=[gru_block(IN + 2, H)])
    with pytest.raises(ValueError, match=r"policy_blocks\[0\] \(RecurrentBlock\) takes \(3,\), but gets \(4,\)"):
        separate([gru_block(IN, H)], mlp_blocks(4, [H]), at=0, example=torch.zeros(4))
