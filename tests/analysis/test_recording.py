"""Recorded frames of an environment whose rewards are known by step."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from decouple.analysis.recording import record_episodes


class Clock(EnvBase):
    """Environment n = 0, 1, ... shows the steps so far; it is rewarded n + 1 at each of its `lengths[n]` steps.

    From the second episode on, rewards are 1000 and the clock starts at 501: whoever records them is found out.
    """

    def __init__(self, *lengths: int) -> None:
        super().__init__(batch_size=torch.Size([len(lengths)]))
        column = (len(lengths), 1)
        self.observation_spec = Composite(
            observation=Unbounded(column), level=Unbounded(column, dtype=torch.int64), shape=self.batch_size
        )
        self.action_spec = Categorical(3, shape=self.batch_size)
        self.reward_spec = Unbounded(column)
        end = Binary(shape=column, dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), shape=self.batch_size)
        self.lengths, self.index = torch.tensor(lengths).unsqueeze(-1), torch.arange(len(lengths)).unsqueeze(-1)
        self.steps, self.episodes = torch.zeros(column), torch.full(column, -1)

    def _shown(self) -> dict[str, torch.Tensor]:
        return {"observation": self.steps + 501 * self.episodes, "level": 10 * self.index + self.episodes}

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        which = torch.ones_like(self.index, dtype=torch.bool) if tensordict is None else tensordict["_reset"]
        self.steps = self.steps.masked_fill(which, 0)
        self.episodes = self.episodes + which
        return TensorDict(self._shown(), self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        assert torch.equal(tensordict["action"], (self.steps[:, 0] % 3).long())
        self.steps = self.steps + 1
        end = self.steps >= self.lengths
        reward = torch.where(self.episodes > 0, 1000.0, self.index + 1.0)
        return TensorDict({**self._shown(), "reward": reward, "done": end, "terminated": end.clone()}, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        pass


def policy() -> TensorDictModule:
    return TensorDictModule(lambda observation: (observation[:, 0] % 3).long(), ["observation"], ["action"])


def test_every_number_of_a_frame_belongs_to_its_step():
    calls = []
    env = Clock(5, 3, 40)
    found = record_episodes(
        env, policy(), frames=31, gamma=0.5, keys=["level"], progress=lambda *call: calls.append(call)
    )
    episode, step = found["episode"], found["step"]
    assert torch.equal(found["observation"][:, 0], step.float())
    assert torch.equal(found["next_observation"][:, 0], step + 1.0)
    assert torch.equal(found["action"], step % 3)
    assert torch.equal(found["reward"], episode + 1.0)
    assert torch.equal(found["level"], 10 * episode)
    # (n + 1) (1 + 1 / 2 + ...), to the episode's end
    left = torch.tensor([5, 3, 40])[episode] - step
    torch.testing.assert_close(found["return"], (episode + 1) * (2 - 2 * 0.5 ** left.double()))
    # Ten frames of each, or all but the last.
    assert episode.bincount().tolist() == [4, 2, 10]
    assert sorted(step[episode == 0].tolist()) == [0, 1, 2, 3]
    assert len(set(step[episode == 2].tolist())) == 10 and step[episode == 2].max() < 39
    assert calls[0] == (0, 3) and calls[-1] == (3, 3) and len(calls) == 40


def test_all_steps_are_drawn_alike_and_the_seed_decides():
    draws = [record_episodes(Clock(*[21] * 50), policy(), frames=250, gamma=1, seed=seed)["step"] for seed in range(8)]
    assert torch.equal(draws[1], record_episodes(Clock(*[21] * 50), policy(), frames=250, gamma=1, seed=1)["step"])
    counts = torch.cat(draws).bincount(minlength=20).double()  # 2000 draws of 20 steps: 100 of each
    assert len(counts) == 20
    assert (counts - 100).abs().max() < 4 * 100**0.5


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="frames must be at least 3, one per episode; got 2"):
        record_episodes(Clock(5, 5, 5), policy(), frames=2, gamma=0.9)
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]; got 1.5"):
        record_episodes(Clock(5), policy(), frames=2, gamma=1.5)
    with pytest.raises(RuntimeError, match="1 of 2 episodes did not end within max_steps=4"):
        record_episodes(Clock(4, 5), policy(), frames=2, gamma=0.9, max_steps=4)
    with pytest.raises(RuntimeError, match="no episode went on beyond its first step"):
        record_episodes(Clock(1, 1), policy(), frames=2, gamma=0.9)
