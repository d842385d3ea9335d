"""A learned separation: gates, their price, and tasks whose right answer is known by construction."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.gating import gated, gates_of
from decouple.networks.stacking import stack
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.gates import learn_gates
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.seeding import SeedNoise


class Signs(EnvBase):
    """Episodes of one step. The first of the observation's two signs says which action pays 1.

    Beside it each state pays one of the signs, whatever the action: with `same` the first, else the second. One unit
    can hold one sign. So the policy's unit serves the value too where both need the same sign, and only there.
    """

    def __init__(self, seeds: list[int], *, same: bool, envs: int = 32) -> None:
        batch = torch.Size([len(seeds), envs])
        super().__init__(batch_size=batch)
        self.same, column = same, (*batch, 1)
        self.observation_spec = Composite(observation=Unbounded((*batch, 2)), shape=batch)
        self.action_spec = Categorical(2, shape=batch)
        self.reward_spec = Unbounded(column)
        end = Binary(shape=column, dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), shape=batch)
        self.noise = SeedNoise(seeds)
        self.shown = torch.zeros(*batch, 2)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        drawn = [torch.randint(2, self.shown.shape[1:], generator=own) for own in self.noise.generators]
        self.shown = 2.0 * torch.stack(drawn) - 1
        return TensorDict(observation=self.shown.clone(), batch_size=self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        first, last = self.shown.split(1, -1)
        right = tensordict["action"].unsqueeze(-1) == (first > 0)
        reward = right.float() + (first if self.same else last)
        end = torch.ones_like(right)
        shown = {"observation": self.shown.clone(), "reward": reward, "done": end, "terminated": end.clone()}
        return TensorDict(shown, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        pass


def make_model(seed: int, sizes: tuple[int, ...] = (1,)) -> ActorValue:
    torch.manual_seed(seed)
    blocks = (mlp_blocks(2, list(sizes), nn.Tanh) for _ in range(2))
    return actor_value(gated(*blocks), Categorical(2), policy_gain=1.0)


def learned(seeds: list[int], *, same: bool, price: float, frames: int) -> tuple[Tensor, list[dict[str, float]]]:
    """The gates (S, 1) that PPO ends with, and the rows that it logged."""
    settings = OnPolicySettings(
        total_frames=frames,
        rollout_steps=16,
        gamma=0.0,
        minibatches=4,
        epochs=4,
        learning_rate=0.01,
        clip_value=None,
        value_coeff=1.0,
        gate_prices=[price],
        gate_rate=0.02,
        micro_batch=100_000,
    )
    model = stack([make_model(seed) for seed in seeds])
    phases = learn_gates(model, ppo_phases(model, settings), settings)
    rows: list[dict[str, float]] = []
    env = Signs(seeds, same=same)
    train_on_policy(env, model, phases, settings, log=lambda row, _: rows.append(row), seeds=seeds)
    gates = gates_of(model)
    assert gates is not None
    return gates.values().detach(), rows
