"""The picture of separated networks says what the models are."""

from __future__ import annotations

import pytest
import torch
from torchrl.data import Categorical

from decouple.analysis.drawing import DrawnBlock, drawn_blocks, network_figure
from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import impala_blocks, mlp_blocks
from decouple.networks.counting import parameter_count
from decouple.networks.separation import separate


def perceptrons(at: int, actor=(4, 5, 6), critic=(8, 9, 10)):
    blocks = mlp_blocks(3, list(actor)), mlp_blocks(3, list(critic))
    return actor_value(separate(*blocks, at=at, example=torch.zeros(3)), Categorical(2))


def test_blocks_are_the_trunks_then_each_branchs_with_their_shapes():
    assert drawn_blocks(perceptrons(0)) == [
        *(DrawnBlock("policy", row, (size,)) for row, size in enumerate((4, 5, 6), start=1)),
        *(DrawnBlock("value", row, (size,)) for row, size in enumerate((8, 9, 10), start=1)),
    ]
    shared = drawn_blocks(perceptrons(3, critic=(4, 5, 6)))
    assert shared == [DrawnBlock("trunk", row, (size,)) for row, size in enumerate((4, 5, 6), start=1)]


@pytest.mark.parametrize(("at", "k"), [("shared", 4), ("late", 2), ("early", 1), ("full", 0)])
def test_the_papers_networks(at, k):
    blocks = drawn_blocks(actor_value(separate(impala_blocks(), impala_blocks(), at=at), Categorical(15)))
    assert [block.part for block in blocks] == ["trunk"] * k + ["policy"] * (4 - k) + ["value"] * (4 - k)
    shapes = [(16, 32, 32), (32, 16, 16), (32, 8, 8), (256,)]
    assert [block.shape for block in blocks] == shapes[:k] + 2 * shapes[k:]


def test_every_box_and_number_is_in_the_picture():
    models = {"apart": perceptrons(0), "one shared": perceptrons(1, critic=(4, 9))}
    figure = network_figure(models)
    for axes, (title, model) in zip(figure.axes, models.items(), strict=True):
        total = parameter_count(model)["total"]
        assert axes.get_title() == f"{title}: k = {model.at}\n{total:,} parameters"
        texts = [text.get_text() for text in axes.texts if text.get_text()]
        boxes = {f"{block.part} {block.row}\n{block.shape[0]} features" for block in drawn_blocks(model)}
        assert set(texts) == boxes | {"observation\n3 features", "policy head", "value head"}
        assert len(axes.patches) == len(boxes) + 2


def test_a_model_that_does_not_know_its_observation_is_refused():
    model = perceptrons(0)
    model.example = {}
    with pytest.raises(ValueError, match="model must know its observation's shape"):
        drawn_blocks(model)
