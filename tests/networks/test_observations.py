"""networks/observations.py: pictures and numbers out of a vector, by NumPy's own order of axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from decouple.networks.observations import Fuse, PictureView


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_a_picture_is_read_from_its_place_channels_first(batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*batch, 4, 5, 3), dtype=np.uint8)  # height 4, width 5, channels last
    vector = np.concatenate([np.zeros((*batch, 2), np.uint8), picture.reshape(*batch, -1)], -1)
    view = PictureView(2, (4, 5, 3), (2, 0, 1))
    found = view(torch.from_numpy(vector))
    assert view.picture == (3, 4, 5) and found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.moveaxis(picture, -1, -3))
    scaled = view(torch.from_numpy(vector).float())  # floats of 0 to 255 beside other numbers
    assert torch.equal(scaled, found.float() / 255)
    own = PictureView(2, (4, 5, 3), (2, 0, 1), keep_bytes=False)  # a user's blocks get floats in any case
    assert torch.equal(own(torch.from_numpy(vector)), scaled)


def test_stacked_frames_become_channels() -> None:
    frames = torch.arange(2 * 3 * 4 * 3, dtype=torch.float32).reshape(
        1, 2, 3, 4, 3
    )  # 2 frames, 3 x 4 pixels, 3 channels
    view = PictureView(0, (2, 3, 4, 3), (0, 3, 1, 2), 1.0)
    assert view.picture == (6, 3, 4)
    found = view(frames.reshape(1, -1))
    assert torch.equal(found[0, 4], frames[0, 1, :, :, 1])  # second frame, second channel
    with pytest.raises(ValueError, match=r"axes must be an order of the axes of \(2, 3, 4, 3\); got \(0, 1, 2\)"):
        PictureView(0, (2, 3, 4, 3), (0, 1, 2))


def test_features_and_numbers_are_joined_in_order() -> None:
    vector = torch.arange(7.0).reshape(1, 7)  # a 2 x 2 picture between numbers
    view = PictureView(1, (2, 2), (0, 1), 1.0)
    fuse = Fuse([nn.Sequential(view, nn.Flatten(-3))], [(0, 1), (5, 7)])
    assert fuse(vector).tolist() == [[1, 2, 3, 4, 0, 5, 6]]
    assert fuse(vector.expand(2, 3, 7)).shape == (2, 3, 7)
    assert Fuse([], [(0, 2)])(vector).tolist() == [[0, 1]]
