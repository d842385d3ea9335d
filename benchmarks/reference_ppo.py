"""A plain PyTorch PPO on Procgen in the field's usual form, as reference; and each part of an iteration alone.

`ReferencePPO` does what single-file implementations do, operation by operation, and is as fast as CleanRL's
`ppo_procgen.py` (`check_reference.py` runs it beside that file): frames are stored as float32 (T, N, 64, 64, 3), then
permuted and divided by 255 for the network; each minibatch of 2048 frames goes forward and backward at once, in
float32; rewards are scaled, episodes' returns kept, clipped ratios counted. Policy and value share one network (the
IMPALA-CNN); the settings are those of the Procgen paper.

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

MINIBATCH, EPOCHS, GAMMA = 2048, 3, 0.999


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


def ppo_loss(network: Network, batch: dict[str, Tensor], report: dict[str, Tensor] | None = None) -> Tensor:
    """PPO's loss (clipped objective, clipped value loss, entropy bonus) on a minibatch or a part of one.

    Into `report` go the log-ratio and the ratio, without gradients.
    """
    logits, value = network(batch["frames"])
    policy = torch.distributions.Categorical(logits=logits)
    log_ratio = policy.log_prob(batch["action"]) - batch["log_prob"]
    ratio = log_ratio.exp()
    if report is not None:
        report |= {"log_ratio": log_ratio.detach(), "ratio": ratio.detach()}
    gain = torch.minimum(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"]).mean()
    clipped = batch["value"] + (value - batch["value"]).clamp(-0.2, 0.2)
    error = torch.maximum((value - batch["target"]).square(), (clipped - batch["target"]).square()).mean()
    return -gain + 0.25 * error - 0.01 * policy.entropy().mean()


class ScaledRewards:
    """Rewards (N,) divided by the running standard deviation of the discounted return, and clipped to [-10, 10]."""

    def __init__(self, num_envs: int):
        self.returns, self.mean, self.variance, self.count = np.zeros(num_envs), 0.0, 1.0, 1e-4

    def __call__(self, reward: np.ndarray, first: np.ndarray) -> np.ndarray:
        self.returns = self.returns * GAMMA + reward
        number, total = len(reward), self.count + len(reward)
        moved = self.returns.mean() - self.mean
        squares = self.variance * self.count + self.returns.var() * number + moved**2 * self.count * number / total
        self.mean, self.variance, self.count = self.mean + moved * number / total, squares / total, total
        self.returns[first] = 0
        return np.clip(reward / np.sqrt(self.variance + 1e-8), -10, 10)


class ReferencePPO:
    """The reference loop; an iteration is `collect()`, then `learn()`.

    Args:
        game: one of the 16 games, on 200 levels in easy mode.
        num_envs: games, N.
        steps: steps of each game in an iteration, T.
        games_threads: threads of the games.
        epochs: passes over an iteration's frames.
        minibatch: frames of a minibatch.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        steps: int,
        games_threads: int,
        *,
        epochs: int = EPOCHS,
        minibatch: int = MINIBATCH,
    ):
        backend, _, package = import_backend(None)
        options = {"num_levels": 200, "start_level": 0, "distribution_mode": "easy"}
        (self.games,) = start_games(backend, package, game, [num_envs], 0, games_threads, options)
        self.steps, self.epochs, self.minibatch, shape = steps, epochs, minibatch, (steps, num_envs)
        self.network = Network()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=5e-4, eps=1e-5)
        self.frames = torch.zeros(*shape, 64, 64, 3)
        names = ("action", "log_prob", "value", "reward", "first", "advantage", "target")
        self.kept = {name: torch.zeros(shape) for name in names}
        self.scaled, self.returns, self.ended = ScaledRewards(num_envs), np.zeros(num_envs), []
        self.shown, self.first = self._frames(self.games.frames().observation), torch.zeros(num_envs)
        self.metrics: dict[str, float] = {}

    @staticmethod
    def _frames(observation: np.ndarray) -> Tensor:
        """Frames (N, 3, 64, 64) of the games, uint8, as float32 (N, 64, 64, 3)."""
        return torch.Tensor(np.moveaxis(observation, 1, 3))

    def collect(self) -> None:
        """Play T steps of each game, and estimate advantages."""
        kept = self.kept
        for t in range(self.steps):
            self.frames[t], kept["first"][t] = self.shown, self.first
            with torch.no_grad():
                logits, value = self.network(self.shown)
                policy = torch.distributions.Categorical(logits=logits)
                action = policy.sample()
                kept["action"][t], kept["value"][t], kept["log_prob"][t] = action, value, policy.log_prob(action)
            self.games.begin(action.numpy().astype(np.int32))
            answer = self.games.frames()
            self.returns += answer.reward
            self.ended += self.returns[answer.first].tolist()
            self.returns[answer.first] = 0
            kept["reward"][t] = torch.tensor(self.scaled(answer.reward, answer.first))
            self.shown, self.first = self._frames(answer.observation), torch.Tensor(answer.first)
        self._estimate_advantages()

    @torch.no_grad()
    def _estimate_advantages(self) -> None:
        kept, following, alive = self.kept, self.network(self.shown)[1], 1 - self.first
        advantage = torch.zeros_like(following)
        for t in reversed(range(self.steps)):
            error = kept["reward"][t] + GAMMA * following * alive - kept["value"][t]
            kept["advantage"][t] = advantage = error + GAMMA * 0.95 * alive * advantage
            following, alive = kept["value"][t], 1 - kept["first"][t]
        kept["target"] = kept["advantage"] + kept["value"]

    def learn(self) -> None:
        """Run the epochs on the frames collected."""
        flat = {name: value.reshape(-1) for name, value in self.kept.items()}
        flat["action"] = flat["action"].long()
        frames, order = self.frames.reshape(-1, 64, 64, 3), np.arange(len(flat["action"]))
        clipped: list[float] = []
        for _ in range(self.epochs):
            np.random.shuffle(order)
            for first in range(0, len(order), self.minibatch):
                clipped.append(self._update(flat, frames, order[first : first + self.minibatch]))
        spread = flat["target"].var()
        self.metrics |= {
            "clip_fraction": float(np.mean(clipped)),
            "explained_variance": float(1 - (flat["target"] - flat["value"]).var() / spread) if spread else np.nan,
        }

    def _update(self, flat: dict[str, Tensor], frames: Tensor, indices: np.ndarray) -> float:
        """One step of Adam on a minibatch; returns the share of ratios that are clipped."""
        names, found = ("action", "log_prob", "value", "target"), {}
        own = flat["advantage"][indices]
        batch = {name: flat[name][indices] for name in names} | {"advantage": (own - own.mean()) / (own.std() + 1e-8)}
        loss = ppo_loss(self.network, batch | {"frames": frames[indices]}, found)
        with torch.no_grad():
            self.metrics["kl"] = float(((found["ratio"] - 1) - found["log_ratio"]).mean())
            clipped = float(((found["ratio"] - 1).abs() > 0.2).float().mean())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
        self.optimizer.step()
        return clipped


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
