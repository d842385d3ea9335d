"""film.py: what is drawn of an agent at play, and the files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tensordict import TensorDict
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from decouple.analysis.film import COLOURS, Film, Played, play, write_film


class Countdown(EnvBase):
    """Three games of 2, 4 and 7 steps; each reward is the number of steps so far. A reset begins at 100."""

    lengths = torch.tensor([[2], [4], [7]])

    def __init__(self):
        super().__init__(batch_size=torch.Size([3]))
        self.observation_spec = Composite(observation=Unbounded((3, 1)), shape=self.batch_size)
        self.action_spec, self.reward_spec = Categorical(2, shape=self.batch_size), Unbounded((3, 1))
        end = Binary(shape=(3, 1), dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), shape=self.batch_size)
        self.steps, self.resets = torch.zeros(3, 1), 0

    def _reset(self, tensordict=None, **_):
        which = None if tensordict is None else tensordict.get("_reset", None)
        which = torch.ones(3, 1, dtype=torch.bool) if which is None else which
        self.steps = torch.where(which, 100.0 if self.resets else 0.0, self.steps)
        self.resets += 1
        return TensorDict({"observation": self.steps.clone()}, self.batch_size)

    def _step(self, tensordict):
        self.steps = self.steps + 1
        end = self.steps == self.lengths
        shown = {"observation": self.steps.clone(), "reward": self.steps.clone(), "done": end, "terminated": end}
        return TensorDict(shown, self.batch_size)

    def _set_seed(self, seed):
        pass


def act(step):
    value, entropy = step["observation"][:, 0] * 10, torch.tensor([0.5, 1.0, float("nan")])
    return Played(step.set("action", torch.zeros(3, dtype=torch.int64)), value, entropy)


def pictures(step):
    """Pictures whose colour is the step."""
    return [np.full((6, 8, 3), int(number), np.uint8) for number in step["observation"][:, 0]]


def played(steps: int) -> Film:
    return play(Countdown(), act, pictures, steps=steps)


def test_each_game_is_played_for_one_episode_and_keeps_its_last_picture():
    film = played(10)
    assert film.returns == [1 + 2, 1 + 2 + 3 + 4, sum(range(1, 8))]
    colours = [[int(film.picture(step, game)[0, 0, 0]) for game in range(3)] for step in range(len(film.frames))]
    assert colours == [[0, 0, 0], [1, 1, 1], [1, 2, 2], [1, 3, 3], [1, 3, 4], [1, 3, 5], [1, 3, 6]]
    np.testing.assert_array_equal(film.curves["value"][:3, :2], [[0, 0], [10, 10], [np.nan, 20]])
    np.testing.assert_array_equal(film.curves["return"][:, 0], [1, 3, *[np.nan] * 5])


def test_a_longer_episode_is_cut_off():
    film = played(3)
    assert film.returns == [3, 6, 6] and len(film.frames) == 3


def test_a_gif_has_the_episodes_side_by_side_and_the_curves_beneath(tmp_path):
    path = write_film(tmp_path / "film.gif", played(10), title="countdown", width=80, fps=10)
    with Image.open(path) as film:
        assert film.n_frames == 7 and film.info["duration"] == 100 and film.info["loop"] == 0
        film.seek(6)
        last = np.asarray(film.convert("RGB")).astype(int)
    assert last.shape == (18 + 60 + 18 + 2 * (44 + 6) + 6, 6 + 3 * 86, 3)
    at = [6 + 86 * game + 40 for game in range(3)]
    assert [int(last[18 + 30, x, 0]) for x in at] == [1, 3, 6]  # pictures
    for number, name in enumerate(("value", "entropy")):
        panel = last[96 + 50 * number : 96 + 50 * number + 44]
        near = (np.abs(panel - np.array(COLOURS[name])).sum(-1) < 60).any(0)
        drawn = [bool(near[6 + 86 * game + 1 : 6 + 86 * game + 80].any()) for game in range(3)]
        assert drawn == [True, True, name == "value"]  # nothing of an entropy that is nan


def test_a_gif_leaves_frames_out_where_there_are_many_a_second(tmp_path):
    with Image.open(write_film(tmp_path / "film.gif", played(10), title="", width=16, fps=30)) as film:
        assert film.n_frames == 4 and film.info["duration"] == 70  # 67, in hundredths of a second


def test_an_mp4_has_every_frame(tmp_path):
    av = pytest.importorskip("av")
    path = write_film(tmp_path / "film.mp4", played(10), title="countdown", width=33, fps=20)
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert stream.average_rate == 20 and sum(1 for _ in film.decode(stream)) == 7
        assert stream.width % 2 == stream.height % 2 == 0


def test_a_missing_package_is_named_and_another_ending_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'torchrl-decouple\[video\]'"):
        write_film(tmp_path / "film.mp4", played(2), title="")
    with pytest.raises(ValueError, match=r"path must end with \.gif or \.mp4; got .*film\.avi"):
        write_film(tmp_path / "film.avi", played(2), title="")
    assert not list(tmp_path.iterdir())
