"""Pictures of measures: what is drawn where."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.image
import pytest
import torch

from decouple.studies.separation.representation_pictures import draw_measures, draw_saliency, draw_similarity

BLOCKS = ("frame", "trunk 1", "policy 2", "value 2")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures as they are saved, which they are."""
    import decouple.studies.separation.representation_pictures as pictures

    saved, save = [], pictures.save_figure
    monkeypatch.setattr(
        pictures, "save_figure", lambda figure, *args, **options: saved.append(figure) or save(figure, *args, **options)
    )
    return saved


def size(path: Path) -> tuple[int, ...]:
    return matplotlib.image.imread(path).shape


def test_a_matrix_for_each_panel_with_its_numbers(figures: list, tmp_path: Path):
    numbers = [[1.0, 0.25], [0.25, math.nan]]
    names = ["policy 1", "value 1"]
    draw_similarity(
        tmp_path / "cka.png", {"train": (names, names, numbers), "test": (names, ["one"], [[0.5], [-0.01]])}
    )
    assert size(tmp_path / "cka.png")[0] > 100
    one, two = figures[0].axes[:2]
    assert [text.get_text() for text in one.texts] == ["1.00", "0.25", "0.25", "-"]
    assert [text.get_text() for text in two.texts] == ["0.50", "-0.01"]
    assert [label.get_text() for label in one.get_yticklabels()] == names
    assert one.get_title() == "train"


def test_a_bar_for_each_block_and_set_policy_left_of_value(figures: list, tmp_path: Path):
    def rows(shift: float) -> list[dict]:
        return [
            {"block": block, "rank": index + shift, **({} if block == "frame" else {"dormant": 0.1})}
            for index, block in enumerate(BLOCKS)
        ]

    sets, measures = {"train": rows(1), "test": rows(10)}, {"rank": "effective rank", "dormant": "dormant units"}
    draw_measures(tmp_path / "blocks.png", sets, measures, {"rank": (5.0, "chance")})
    size(tmp_path / "blocks.png")
    rank, dormant = figures[0].axes[:2]
    bars = sorted((bar.get_x(), bar.get_height()) for bar in rank.patches)
    assert [height for _, height in bars] == [1, 10, 2, 11, 3, 12, 4, 13]  # frame; trunk; policy, then value
    assert len(dormant.patches) == 6
    assert [label.get_text() for label in rank.get_xticklabels()] == ["frame", "block 1", "block 2"]
    assert rank.get_title() == "effective rank (dotted: chance)" and dormant.get_title() == "dormant units"
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["frame", "trunk", "policy", "value", "train", "test"]


def test_bars_far_below_0_are_cut_and_said_to_be(figures: list, tmp_path: Path):
    rows = [{"block": "policy 1", "r2": -40.0}, {"block": "value 1", "r2": 0.5}]
    draw_measures(tmp_path / "blocks.png", {"train": rows}, {"r2": "R²"})
    assert figures[0].axes[0].get_ylim() == (-1, 1) and figures[0].axes[0].get_title() == "R² (cut at -1)"


def test_saliency_colours_the_place_that_matters(figures: list, tmp_path: Path):
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    policy, value = torch.zeros(2, 2, 8, 8).unbind()
    policy[:, 2, 3], value[0, 5, 1] = 4.0, 0.5
    draw_saliency(tmp_path / "saliency.png", frames, {"policy": policy, "value": value}, ["train", "test"])
    size(tmp_path / "saliency.png")
    axes = figures[0].axes  # rows frame, policy, value; columns train, test, mean
    assert [one.get_title() for one in axes[:3]] == ["train", "test", "mean"]
    assert [one.get_title() for one in axes[3:]] == [
        *("up to 4", "up to 4", "mean of these"),
        *("up to 0.5", "up to 0", "mean of these"),
    ]
    drawn = axes[3].images[0].get_array()
    assert drawn[2, 3].tolist() == pytest.approx([0x1F / 255, 0x6F / 255, 0xB4 / 255])
    assert drawn[0, 0].tolist() == pytest.approx([0.3] * 3)
    assert axes[6].images[0].get_array()[5, 1].tolist() == pytest.approx([0xD1 / 255, 0x49 / 255, 0x5B / 255])
