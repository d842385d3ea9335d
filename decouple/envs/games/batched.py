"""The games of the actor-size study: thousands in lockstep, as tensors on any device, for several seeds at once.

``games_env("pong", seeds=[0, 1, 2], num_envs=1000)`` has the batch size (S, N): three agents with a thousand games
each. The games are those of "Honey, I Shrunk The Actor" (Mysore et al. 2021): Pong and Pixelcopter after the PyGame
Learning Environment, Food Collector after Unity ML-Agents. The rules and scales are in the files named after the games.
The same games one at a time, with pictures, are in ``decouple.envs.games.gymnasium_env``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded

from decouple.checks import INT32_MAX, check_integer, check_seeds, check_setting, check_switches
from decouple.compiled.playing import Playing
from decouple.envs import lockstep
from decouple.envs.games.compiled_games import CompiledGames, compiled_games
from decouple.envs.games.food_collector import ACTION_FORMS
from decouple.envs.games.food_collector_games import FoodCollectorGames
from decouple.envs.games.pixelcopter import PixelcopterGames
from decouple.envs.games.pong import PongGames
from decouple.envs.games.streams import Streams, stream_seed
from decouple.envs.processes import check_threads, forks

__all__ = ["GAMES", "GamesEnv", "games_env"]

GAMES: dict[str, Any] = {"pong": PongGames, "pixelcopter": PixelcopterGames, "foodcollector": FoodCollectorGames}
SLACK = 1e-6  # tolerance by which a continuous action may miss its bounds


class GamesEnv(lockstep.LockstepEnv):
    """N games for each of S seeds, in lockstep; batch size (S, N). Made by ``games_env``.

    Keys: ``observation`` float32 (S, N, O); ``action`` int64 (S, N), or float32 (S, N, A) in [-1, 1] where a game's
    actions are continuous; ``reward`` float32 (S, N, 1); ``episode_reward`` float32 (S, N, 1), the sum of the
    episode's raw rewards so far; ``step_count`` int64 (S, N, 1), its steps so far; ``done``, ``terminated``,
    ``truncated`` bool (S, N, 1). The observation of a last step is the true last one. Where several agents play one
    game (five in Food Collector), N counts agents, and neighbours share a game.

    Food Collector's actions have three forms: ``box4``, four numbers, where the laser fires if the last is above 0;
    ``discrete``, int64 (S, N, 4), the first three below 3 and the last below 2; ``hybrid``, ``("action", "move")``
    float32 (S, N, 3) in [-1, 1] and ``("action", "laser")`` int64 (S, N), 0 or 1.

    Game n of seed s draws from the stream with ``stream_seed(s, n)``: an agent sees the same numbers, bit for bit,
    alone and beside others. Where the rules compute in float64, as Pong's do, the single game has the same bits too.

    ``state_dict`` carries everything: an environment that loads it continues bit for bit. The first full ``reset``
    after loading returns the restored observations, and begins only the episodes that were due.

    Raises:
        ValueError: an action out of range, NaN, or of another shape or dtype; a state that was saved under other
            settings.
        RuntimeError: a step beyond the end of an episode; use in a forked process with several PyTorch threads
            (``check_threads``).

    Attributes:
        name, action_form: game and form of its actions. seeds: S integers. max_episode_steps: step limit of an episode.
        games: rules and state of all games.
    """

    def __init__(
        self,
        name: str,
        seeds: list[int],
        num_envs: int,
        *,
        action_form: str | None,
        max_episode_steps: int,
        frame_skip: int,
        scale_observations: bool,
        scale_rewards: bool,
        check_actions: bool,
        device: torch.device,
    ) -> None:
        super().__init__(batch_size=torch.Size([len(seeds), num_envs]), device=device)
        self.name, self.seeds, self.action_form = name, seeds, action_form
        self.max_episode_steps, self._frame_skip, self._check_actions = max_episode_steps, frame_skip, check_actions
        self._scales = {"scale_observations": scale_observations, "scale_rewards": scale_rewards}
        self._made_at = forks()
        self._start()
        self._make_specs()

    def _make_specs(self) -> None:
        batch, games, device = self.batch_size, self.games, self.device
        self._action_specs = _action_specs(games.num_actions, self.action_form, batch, device)
        self.full_action_spec = Composite(self._action_specs, shape=batch, device=device)
        seen = Unbounded(torch.Size([*batch, games.observation_size]), dtype=torch.float32, device=device)
        lockstep.set_specs(self, observation=seen, **lockstep.episode_specs(self))

    def _start(self) -> None:
        """Make the games; all are due for their first reset."""
        indices = range(self.batch_size[1])
        streams = Streams(torch.tensor([stream_seed(s, n) for s in self.seeds for n in indices], device=self.device))
        form = {} if self.action_form is None else {"action_form": self.action_form}
        self.games = GAMES[self.name](streams, **form)
        scale = self.games.observation_scale
        self._scale = torch.as_tensor(scale, dtype=torch.float64, device=self.device)
        self._kernels = self._make_kernels()
        B = len(streams.state)
        false = torch.zeros(B, dtype=torch.bool, device=self.device)
        # A step replaces these tensors by new ones, so that they are handed out without a copy.
        self._running = {
            "episode_reward": torch.zeros(B, dtype=torch.float64, device=self.device),
            "step_count": torch.zeros(B, dtype=torch.int64, device=self.device),
            "terminated": ~false,
            "truncated": false,
        }
        self._just_loaded = False

    def _make_kernels(self) -> CompiledGames | None:
        """The games' kernels; None where torch has to step them."""
        scale = self._scale if self._scales["scale_observations"] else torch.ones_like(self._scale)
        return compiled_games(
            self.games,
            (len(self.seeds), self.batch_size[1]),
            scale,
            reward_scale=float(self.games.reward_scale) if self._scales["scale_rewards"] else 1.0,
            max_episode_steps=self.max_episode_steps,
            frame_skip=self._frame_skip,
        )

    def _shown(self) -> dict[str, Tensor]:
        running, column = self._running, (*self.batch_size, 1)
        terminated, truncated = running["terminated"].view(column), running["truncated"].view(column)
        return {
            "observation": self._observed(),
            "episode_reward": running["episode_reward"].float().view(column),
            "step_count": running["step_count"].view(column),
            "done": terminated | truncated,
            "terminated": terminated,
            "truncated": truncated,
        }

    def _observed(self) -> Tensor:
        """The observations, float32 (S, N, O), in new memory."""
        if self._kernels is not None:
            return self._kernels.observe()
        raw = self.games.observation()
        scaled = raw * self._scale if self._scales["scale_observations"] else raw
        observation = torch.empty(raw.shape, dtype=torch.float32, device=raw.device).copy_(scaled)
        return observation.view(*self.batch_size, -1)

    def _advance(self, actions: Any) -> dict[str, Tensor]:
        check_threads(self._made_at)
        if self._kernels is not None:
            return self._advance_compiled(self._kernels, actions.get("action").detach())
        actions = {key: actions.get(key).detach() for key in self._action_specs}
        for key, action in actions.items():
            lockstep.check_shape(action, self._action_specs[key].shape, _named(key))
        if self._check_actions:
            self._check(actions)
        rows = [action.flatten(0, 1).to(self._action_specs[key].dtype) for key, action in actions.items()]
        if self.action_form == "hybrid":
            move, laser = rows
            rows = [torch.cat([move, laser.unsqueeze(1)], 1)]
        reward, terminated = self._play(rows[0])
        running = self._running
        step_count = running["step_count"] + 1
        self._running = {
            "episode_reward": running["episode_reward"] + reward,
            "step_count": step_count,
            "terminated": terminated,
            "truncated": step_count >= self.max_episode_steps,
        }
        self._just_loaded = False
        if self._scales["scale_rewards"]:
            reward = reward * self.games.reward_scale
        return self._shown() | {"reward": reward.float().view(*self.batch_size, 1)}

    def _advance_compiled(self, kernels: CompiledGames, action: Tensor) -> dict[str, Tensor]:
        """``_advance`` by kernels, for one choice of action per game: int64 (S, N)."""
        lockstep.check_shape(action, self.batch_size)
        rows = action.long().reshape(-1).numpy()
        if self._check_actions and not (action.dtype is torch.int64 and kernels.may_step(rows, self._running)):
            self._check({"action": action})
        running, shown = kernels.step(rows, self._running)
        self._running.update(running)
        if self._just_loaded:  # TorchRL's environments set an attribute in several microseconds
            self._just_loaded = False
        return shown

    def begin_steps(self) -> Playing | None:
        running = self._running
        if self._kernels is None or bool((running["terminated"] | running["truncated"]).any()):
            return None
        check_threads(self._made_at)
        return self._kernels.begin_steps(self._kernels.observe(), running)

    def end_steps(self, playing: Playing) -> tuple[dict[str, Tensor], Tensor]:
        total, steps, terminated = map(torch.from_numpy, (playing.total, playing.steps, playing.terminated))
        truncated = steps >= self.max_episode_steps
        ends = {"terminated": terminated, "truncated": truncated}
        self._running.update({"episode_reward": total, "step_count": steps, **ends})
        if self._just_loaded:
            self._just_loaded = False
        if bool((terminated | truncated).any()):
            return self._went_on(self._shown())
        observation = torch.from_numpy(playing.observation)
        return {"observation": observation}, observation

    def _check(self, actions: dict[NestedKey, Tensor]) -> None:
        """Refuse invalid actions, and steps of ended episodes; with one synchronization of a GPU."""
        wrong = {}
        for key, action in actions.items():
            spec = self._action_specs[key]
            continuous = isinstance(spec, Bounded)
            if action.is_floating_point() != continuous or action.dtype is torch.bool:
                raise ValueError(f"{_named(key)} must be {'floats' if continuous else 'integers'}; got {action.dtype}")
            if continuous:
                wrong[key] = (action.abs() <= 1 + SLACK).logical_not_()  # True for NaN too
            else:
                wrong[key] = (action < 0) | (action >= _number(spec))
        running = self._running
        ended = running["terminated"] | running["truncated"]
        *refused, over = torch.stack([part.any() for part in (*wrong.values(), ended)]).tolist()
        for key, refuse in zip(wrong, refused, strict=True):
            if refuse:
                allowed, got = _allowed(self._action_specs[key]), actions[key][wrong[key]].tolist()
                raise ValueError(f"{_named(key)} must be {allowed}; got {got} among them")
        if over:
            raise RuntimeError(lockstep.ENDED)

    def _play(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Take ``frame_skip`` steps of the games; return summed rewards and terminated flags, (S N,) each."""
        reward, terminated = self.games.step(action)
        for _ in range(self._frame_skip - 1):
            before = {key: value.clone() for key, value in self._game_state().items()}
            more, over = self.games.step(action)
            reward = reward + torch.where(terminated, 0.0, more)
            for key, value in self._game_state().items():  # games that are over do not change
                value.copy_(torch.where(terminated.view(-1, *[1] * (value.ndim - 1)), before[key], value))
            terminated = terminated | over
        return reward, terminated

    def _game_state(self) -> dict[str, Tensor]:
        """The tensors that the rules change in place, not copies."""
        return self.games.state | {"streams": self.games.streams.state}

    def _restart(self, asked: Any) -> dict[str, Tensor]:
        check_threads(self._made_at)
        ended = self._running["terminated"] | self._running["truncated"]  # (S N,)
        self._begin(lockstep.to_begin(asked, ended, just_loaded=self._just_loaded))
        self._just_loaded = False
        return self._shown()

    def _begin(self, which: Tensor) -> None:
        """Begin episodes where ``which`` is True, bool (S N,)."""
        (self._kernels or self.games).reset(which)
        self._running = {key: value.masked_fill(which, 0) for key, value in self._running.items()}

    def _set_seed(self, seed: int | None) -> None:
        """Restart the games with the seeds ``seed``, ``seed`` + 1, ..., ``seed`` + S - 1."""
        self.seeds = lockstep.following_seeds(seed, len(self.seeds))
        self._start()

    def _settings(self) -> dict[str, Any]:
        settings = {"name": self.name, "seeds": list(self.seeds), "num_envs": self.batch_size[1]}
        settings |= {"max_episode_steps": self.max_episode_steps, "frame_skip": self._frame_skip}
        return settings | {"action_form": self.action_form} | self._scales

    def get_extra_state(self) -> dict[str, Any]:
        """The games, their streams and the running episodes as tensors, and the environment's settings."""
        return {
            "settings": self._settings(),
            "games": {key: value.clone() for key, value in self._game_state().items()},
            "running": {key: value.clone() for key, value in self._running.items()},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state; ValueError, naming the settings that differ, if saved under others."""
        saved = {"action_form": self.action_form, **state["settings"]}  # older states have no action_form
        lockstep.check_settings(self._settings(), saved, "games")
        for key, value in self._game_state().items():
            value.copy_(state["games"][key])
        self._running = {key: state["running"][key].to(value.device, copy=True) for key, value in self._running.items()}
        self._just_loaded = True


def _action_specs(
    number: int | tuple[int, ...] | None, form: str | None, batch: torch.Size, device: torch.device
) -> dict[NestedKey, TensorSpec]:
    """Key -> spec of the tensors that make up an action, in the order in which the rules take them.

    Args:
        number: number of actions, or numbers of actions of several choices; None: continuous, as in ``form``.
    """

    def numbers(size: int) -> TensorSpec:
        return Bounded(-1, 1, torch.Size([*batch, size]), dtype=torch.float32, device=device)

    def choice(number: int) -> TensorSpec:
        return Categorical(number, shape=batch, dtype=torch.int64, device=device)

    if form == "hybrid":
        return {("action", "move"): numbers(3), ("action", "laser"): choice(2)}
    if number is None:
        return {"action": numbers(4)}
    if isinstance(number, int):
        return {"action": choice(number)}
    shape = torch.Size([*batch, len(number)])
    return {"action": MultiCategorical(number, shape=shape, dtype=torch.int64, device=device)}


def _number(spec: Any) -> Any:
    """The number of actions: an integer, or a tensor with one number for each choice."""
    return spec.nvec.to(spec.device) if isinstance(spec, MultiCategorical) else spec.n  # TorchRL leaves it on the CPU


def _allowed(spec: TensorSpec) -> str:
    if isinstance(spec, Bounded):
        return "finite and in [-1, 1]"
    if isinstance(spec, MultiCategorical):
        return f"integers from 0 and below {tuple(spec.nvec[0, 0].tolist())}"
    return f"integers in [0, {_number(spec)})"


def _named(key: NestedKey) -> str:
    return key if isinstance(key, str) else ".".join(key)


def games_env(
    name: str,
    seeds: Sequence[int],
    num_envs: int = 1,
    *,
    action_form: str | None = None,
    max_episode_steps: int | None = None,
    frame_skip: int = 1,
    scale_observations: bool = True,
    scale_rewards: bool = True,
    check_actions: bool = True,
    device: torch.device | str | None = None,
) -> GamesEnv:
    """Make one game for S agents with N games each; see ``GamesEnv`` for keys and shapes.

    Args:
        name: pong (7 observed numbers, one of 3 actions), pixelcopter (7, one of 2) or foodcollector (53, 4 numbers).
        seeds: S integers in [0, 2^31 - 1], one per agent.
        num_envs: N >= 1, games per seed; in Food Collector agents per seed, five to a field, so a multiple of 5.
        action_form: form of Food Collector's actions: box4, discrete or hybrid; None: box4. None for other games.
        max_episode_steps: T >= 1, steps until an episode is truncated; None: the game's limit, over ``frame_skip``.
        frame_skip: game steps per environment step, >= 1: the action is repeated and the rewards are summed, until a
            game is over.
        scale_observations: multiply observations by the game's ``observation_scale``, to numbers of order one.
        scale_rewards: multiply rewards by the game's ``reward_scale``, to the unit of the study's returns;
            ``episode_reward`` stays raw.
        check_actions: refuse actions out of range and steps beyond an end; synchronizes a GPU once a step. Without it,
            the result of such steps is undefined.
        device: device of the games; None: the CPU.

    Raises:
        ValueError: an argument outside its range.

    >>> env = games_env("pong", seeds=[0, 1], num_envs=3)
    >>> env.rollout(5)["next", "observation"].shape
    torch.Size([2, 3, 5, 7])
    """
    check_setting("device", device, lambda d: d is None or torch.device(d), "None or a device that torch knows")
    if not isinstance(name, str) or name not in GAMES:
        raise ValueError(f"name must be one of {', '.join(GAMES)}; got {name!r}")
    num_envs = check_integer("num_envs", num_envs, 1, INT32_MAX)
    agents = GAMES[name].agents_per_game
    if num_envs % agents:
        raise ValueError(f"num_envs must be a multiple of {agents}, the agents of one game of {name}; got {num_envs}")
    forms = ACTION_FORMS if name == "foodcollector" else ()
    of_game = f"{' or '.join((*forms, 'None'))} for {name}"
    check_setting("action_form", action_form, lambda form: form in (None, *forms), of_game)
    flags = {"scale_observations": scale_observations, "scale_rewards": scale_rewards, "check_actions": check_actions}
    check_switches(**flags)
    frame_skip = check_integer("frame_skip", frame_skip, 1, INT32_MAX)
    limit = -(-GAMES[name].max_episode_steps // frame_skip) if max_episode_steps is None else max_episode_steps
    return GamesEnv(
        name,
        check_seeds(seeds),
        num_envs,
        action_form=action_form or (forms[0] if forms else None),
        max_episode_steps=check_integer("max_episode_steps", limit, 1, INT32_MAX),
        frame_skip=frame_skip,
        device=torch.device("cpu" if device is None else device),
        **flags,
    )
