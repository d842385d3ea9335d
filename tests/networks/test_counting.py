"""counting.py against Table A.2 of Mysore et al. 2021: the parameters of every actor in it, built with this package."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, TensorSpec

from decouple.networks.actor_qvalue import actor_qvalue
from decouple.networks.blocks import mlp_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.separation import separate

TABLE = Path(__file__).parents[1] / "data" / "honey_table_a2.csv"
CONTINUOUS = {"Pendulum": (3, 1), "Reacher": (11, 2), "HalfCheetah": (17, 6), "Ant": (111, 8), "FoodCollector": (53, 4)}
DISCRETE = {"Acrobot": (6, 3), "Pong": (7, 3), "Pixelcopter": (7, 2)}


def table() -> list[tuple[str, list[int], int]]:
    """(task, hidden sizes, parameters) of each entry."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    entries = []
    for row in rows:
        hidden_sizes = [int(size) for size in row.pop("hidden").split(",")]
        entries += [(task, hidden_sizes, int(count)) for task, count in row.items() if count]
    return entries


def actor_parameters(task: str, hidden_sizes: list[int], at: int) -> int:
    """Of the actor with one output per action; the critic, of another size, does not count."""
    observation, action = (CONTINUOUS | DISCRETE)[task]
    spec: TensorSpec = Bounded(-1.0, 1.0, (action,)) if task in CONTINUOUS else Categorical(action)
    further = action if task in CONTINUOUS else 0
    trunk_size = hidden_sizes[at - 1] if at else observation
    dropped = mlp_blocks(observation, hidden_sizes[:at], gain=None) if at else []
    network = separate(
        mlp_blocks(observation, hidden_sizes, gain=None),
        [*dropped, *mlp_blocks(trunk_size + further, [7])],
        at=at,
        value_keys=["action"] if further else [],
        example={"observation": torch.zeros(observation), "action": torch.zeros(action)},
    )
    count = parameter_count(actor_qvalue(network, spec, deterministic=task in CONTINUOUS))
    return count["trunk"] + count["policy"]


@pytest.mark.parametrize("at", [0, 1])
def test_actors_are_as_large_as_in_the_paper(at: int) -> None:
    entries = table()
    assert len(entries) == 69
    assert {task for task, _, _ in entries} == CONTINUOUS.keys() | DISCRETE.keys()
    counted = {(task, *sizes): actor_parameters(task, sizes, at) for task, sizes, _ in entries}
    assert len(counted) == 69
    assert counted == {(task, *sizes): count for task, sizes, count in entries}


def test_one_entry_by_hand() -> None:
    # Pendulum |8,8|: 3 x 8 + 8, 8 x 8 + 8, 8 x 1 + 1
    assert actor_parameters("Pendulum", [8, 8], at=0) == 32 + 72 + 9 == 113


# ---------------------------------------------------------------------------------------------------- multiply-adds


class Block(nn.Module):
    """A function of a sequence (B, 4, 8), with the layers that it has."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def count(block: nn.Module) -> int:
    """Of a value branch of this block alone."""
    network = separate([nn.Flatten()], [block], at=0)  # without an example: some of the blocks take one batch axis
    return multiply_adds(network, torch.zeros(4, 8))["value"]


def encoder(**options: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)


# Of 4 steps of 8 features: in-projection 4 x 8 x 24, scores and weighted values 2 x (2 heads x 4 x 4 x 4),
# out-projection 4 x 8 x 8; then 2 x (4 x 8 x 16).
ATTENTION = 4 * 8 * 24 + 2 * (2 * 4 * 4 * 4) + 4 * 8 * 8
ENCODER = ATTENTION + 2 * (4 * 8 * 16)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (encoder, ENCODER),
        (lambda: encoder(norm_first=True), ENCODER),
        (lambda: nn.TransformerEncoder(encoder(), 2), 2 * ENCODER),
        (lambda: Block(lambda x, m: m(x, x, x)[0], nn.MultiheadAttention(8, 2, batch_first=True)), ATTENTION),
        (
            lambda: Block(
                lambda x, m: m(x, x, x, need_weights=False)[0], nn.MultiheadAttention(8, 2, batch_first=True)
            ),
            ATTENTION,
        ),
        # Gates of 5 units read 8 features and 5 of their own, in each of 4 steps.
        (lambda: Block(lambda x, m: m(x)[0], nn.LSTM(8, 5, batch_first=True)), 4 * 4 * 5 * (8 + 5)),
        (lambda: Block(lambda x, m: m(x)[0], nn.GRU(8, 5, batch_first=True)), 4 * 3 * 5 * (8 + 5)),
        (lambda: Block(lambda x, m: m(x)[0], nn.RNN(8, 5, batch_first=True)), 4 * 5 * (8 + 5)),
        (lambda: Block(lambda x, m: m(x[:, 0])[0], nn.LSTMCell(8, 5)), 4 * 5 * (8 + 5)),
        (
            lambda: Block(lambda x, m: m(x)[0], nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True)),
            2 * 4 * 4 * 5 * (8 + 5) + 2 * 4 * 4 * 5 * (10 + 5),
        ),
        (lambda: Block(lambda x, m: m(x), nn.ConvTranspose1d(4, 3, 2)), 4 * 3 * 2 * 8),
        (lambda: Block(lambda x: torch.einsum("btf,bsf->bts", x, x)), 4 * 4 * 8),
        (lambda: Block(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)), 2 * 4 * 4 * 8),
        (lambda: Block(lambda x: (x[0] @ torch.ones(8))[None]), 4 * 8),
        (lambda: Block(lambda x: torch.addmv(torch.ones(4), x[0], torch.ones(8))[None]), 4 * 8),
        (lambda: Block(lambda x: torch.dot(x[0, 0], x[0, 1])[None]), 8),
        (lambda: Block(lambda x: torch.addbmm(torch.ones(4, 4), x, x.mT)[None]), 4 * 8 * 4),
        (lambda: Block(lambda x: nn.functional.layer_norm(x, (8,)).softmax(-1).mean(1)), 0),
    ],
)
def test_multiply_adds_of_attention_and_recurrent_layers(block, expected: int, training: bool, fast: bool) -> None:
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        assert count(block().train(training)) == expected
        assert torch.backends.mha.get_fastpath_enabled() == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@torch.library.custom_op("decouple_test::scaled", mutates_args=())
def scaled(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize(
    ("block", "operation"),
    [
        (Block(lambda x, m: m(x, x), nn.Bilinear(8, 8, 3)), "aten::_trilinear"),
        (Block(lambda x: torch.cdist(x, x)), "aten::_cdist_forward"),
        (Block(lambda x: torch.fft.rfft(x).real), "aten::_fft_r2c"),
        (Block(lambda x: torch.linalg.matrix_exp(x @ x.mT)), "aten::linalg_matrix_exp"),
        (Block(lambda x: torch.linalg.solve(torch.eye(4)[None], x)), "aten::_linalg_solve_ex"),
        (Block(lambda x: torch.sparse.mm(torch.eye(4).to_sparse(), x[0])[None]), "aten::_sparse_addmm"),
        (Block(scaled), "decouple_test::scaled"),
    ],
)
def test_operations_that_cannot_be_counted_are_named(block: nn.Module, operation: str) -> None:
    with pytest.raises(ValueError, match=f"network must have operations whose multiply-adds .* value has {operation}$"):
        count(block)


@pytest.mark.parametrize("function", [nn.functional.normalize, lambda x: nn.functional.interpolate(x, size=3)])
def test_norms_and_interpolation_multiply_no_matrices(function) -> None:
    assert count(Block(function)) == 0
