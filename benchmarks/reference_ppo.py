"""A plain PyTorch PPO on Procgen in the field's usual form, as reference; and each part of an iteration alone.

`ReferencePPO` follows single-file implementations: frames are stored as float32 (T, N, 64, 64, 3), then permuted and
divided by 255 for the network; each minibatch of 2048 frames goes forward and backward at once, in float32. Policy and
value share one network (the IMPALA-CNN); the settings are those of the Procgen paper.

`Parts` runs each part of an iteration alone, with the same network: stepping the games, acting on frames, learning from
minibatches, in the given precision and micro-batches.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from decouple.envs.procgen.backends import import_backend, start_games

MINIBATCH, EPOCHS = 2048, 3


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(functional.relu(x))))


class Network(nn.Module):
    """Maps frames (B, 64, 64, 3), uint8 or float, to logits (B, 15) and values (B,)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 32)):
            layers += [convolution(before, after), nn.MaxPool2d(3, 2, 1), Residual(after), Residual(after)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.ReLU(), nn.Linear(2048, 256), nn.ReLU())
        self.policy, self.value = nn.Linear(256, 15), nn.Linear(256, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(frames.permute(0, 3, 1, 2) / 255.0).float()
        with torch.autocast("cpu", enabled=False):
            return self.policy(hidden), self.value(hidden).squeeze(-1)


def ppo_loss(network: Network, batch: dict[str, Tensor]) -> Tensor:
    """PPO's loss (clipped objective, clipped value loss, entropy bonus) on a minibatch or a part of one."""
    logits, value = network(batch["frames"])
    policy = torch.distributions.Categorical(logits=logits, validate_args=False)
    ratio = (policy.log_prob(batch["action"]) - batch["log_prob"]).exp()
    gain = torch.minimum(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"]).mean()
    clipped = batch["value"] + (value - batch["value"]).clamp(-0.2, 0.2)
    error = torch.maximum((value - batch["target"]).square(), (clipped - batch["target"]).square()).mean()
    return -gain + 0.5 * error - 0.01 * policy.entropy().mean()


class ReferencePPO:
    """The reference loop; an iteration is `collect()`, then `learn()`."""

    def __init__(self, game: str, num_envs: int, steps: int, games_threads: int):
        backend, _, package = import_backend(None)
        options = {"num_levels": 200, "start_level": 0, "distribution_mode": "easy"}
        (self.games,) = start_games(backend, package, game, [num_envs], 0, games_threads, options)
        self.steps, shape = steps, (steps, num_envs)
        self.network = Network()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=5e-4, eps=1e-5)
        self.frames = torch.zeros(*shape, 64, 64, 3)
        names = ("action", "log_prob", "value", "reward", "first", "advantage", "target")
        self.kept = {name: torch.zeros(shape) for name in names}
        self.shown = self._frames()
        self.first = torch.ones(num_envs)

    def _frames(self) -> Tensor:
        return torch.tensor(np.moveaxis(self.games.frames().observation, 1, 3), dtype=torch.float32)

    def collect(self) -> None:
        for t in range(self.steps):
            self.frames[t], self.kept["first"][t] = self.shown, self.first
            with torch.no_grad():
                logits, value = self.network(self.shown)
                policy = torch.distributions.Categorical(logits=logits)
                action = policy.sample()
            self.kept["action"][t], self.kept["value"][t] = action.float(), value
            self.kept["log_prob"][t] = policy.log_prob(action)
            self.games.begin(action.numpy().astype(np.int32))
            answer = self.games.frames()
            self.kept["reward"][t] = torch.tensor(answer.reward)
            self.first = torch.tensor(answer.first, dtype=torch.float32)
            self.shown = self._frames()
        with torch.no_grad():
            following, alive = self.network(self.shown)[1], 1 - self.first
            advantage = torch.zeros_like(following)
            for t in reversed(range(self.steps)):
                error = self.kept["reward"][t] + 0.999 * following * alive - self.kept["value"][t]
                self.kept["advantage"][t] = advantage = error + 0.999 * 0.95 * alive * advantage
                following, alive = self.kept["value"][t], 1 - self.kept["first"][t]
            self.kept["target"] = self.kept["advantage"] + self.kept["value"]

    def learn(self) -> None:
        flat = {name: value.reshape(-1) for name, value in self.kept.items()} | {"frames": self.frames.flatten(0, 1)}
        for _ in range(EPOCHS):
            for indices in torch.randperm(len(flat["action"])).split(MINIBATCH):
                batch = {name: value[indices] for name, value in flat.items()}
                own = batch["advantage"]
                batch["advantage"] = (own - own.mean()) / (own.std() + 1e-8)
                loss = ppo_loss(self.network, batch)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
                self.optimizer.step()


class Parts:
    """The parts of an iteration of `shared`, each alone; each method returns its seconds."""

    def __init__(self, game: str, num_envs: int, steps: int, games_threads: int, precision: str, micro_batch: int):
        backend, _, package = import_backend(None)
        options = {"num_levels": 200, "start_level": 0, "distribution_mode": "easy"}
        (self.games,) = start_games(backend, package, game, [num_envs], 0, games_threads, options)
        self.num_envs, self.steps, self.micro_batch = num_envs, steps, micro_batch
        self.bf16 = precision == "bf16"
        self.network = Network()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=5e-4, eps=1e-5)
        column = torch.randn(MINIBATCH)
        self.batch = {
            "frames": torch.randint(0, 256, (MINIBATCH, 64, 64, 3), dtype=torch.uint8),
            "action": torch.randint(0, 15, (MINIBATCH,)),
            "log_prob": torch.full((MINIBATCH,), -np.log(15)),
            **dict.fromkeys(("advantage", "value", "target"), column),
        }

    def environment(self) -> float:
        actions = np.random.randint(0, 15, (self.steps, self.num_envs)).astype(np.int32)
        start = time.perf_counter()
        for action in actions:
            self.games.begin(action)
            self.games.frames()
        return time.perf_counter() - start

    def acting(self) -> float:
        frames = self.batch["frames"][: self.num_envs]
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(self.steps):
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    logits, _ = self.network(frames)
                torch.distributions.Categorical(logits=logits, validate_args=False).sample()
        return time.perf_counter() - start

    def learning(self) -> float:
        updates = max(1, EPOCHS * self.steps * self.num_envs // MINIBATCH)
        start = time.perf_counter()
        for _ in range(updates):
            self.optimizer.zero_grad()
            for first in range(0, MINIBATCH, self.micro_batch):
                micro = {name: value[first : first + self.micro_batch] for name, value in self.batch.items()}
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    loss = ppo_loss(self.network, micro)
                (loss * len(micro["action"]) / MINIBATCH).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
            self.optimizer.step()
        return time.perf_counter() - start
