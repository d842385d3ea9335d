"""Gymnasium environments (https://gymnasium.farama.org) of the actor-size study's games, with one game each.

    import gymnasium
    import decouple.envs.games.gymnasium_env   # registers them

    env = gymnasium.make("decouple/Pong-v0", render_mode="human")
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

Gymnasium also imports a module named before a colon:
``gymnasium.make("decouple.envs.games.gymnasium_env:decouple/Pong-v0")`` needs no import. The ids are
``decouple/Pong-v0``, ``decouple/Pixelcopter-v0`` and ``decouple/FoodCollector-v0``; the rules are in the files named
after the games. For thousands of games in lockstep see ``decouple.envs.games.batched``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from decouple.checks import INT32_MAX, check_integer, checked
from decouple.envs.games.food_collector import FoodCollector
from decouple.envs.games.pixelcopter import Pixelcopter
from decouple.envs.games.pong import Pong
from decouple.envs.games.streams import Stream

try:
    import gymnasium
    from gymnasium.spaces import Box, Discrete
except ImportError as failure:  # Gymnasium is optional; no other file of the games imports it at the top
    raise ImportError(
        "decouple.envs.games.gymnasium_env needs Gymnasium: pip install 'torchrl-decouple[games]'"
    ) from failure

__all__ = ["GameEnv"]

GAMES = {"Pong": Pong, "Pixelcopter": Pixelcopter, "FoodCollector": FoodCollector}  # name in the id -> rules


class GameEnv(gymnasium.Env):
    """One game. ``gymnasium.make`` adds the step limit, counted in calls of ``step``, as truncation.

    The observation is a Box of float32 (O,). The action is Discrete, a Box of (A,), or the form that the game's options
    choose. A game's random numbers come from its own stream. Each ``reset`` draws the stream's seed from ``np_random``,
    which ``reset(seed=...)`` seeds; ``options`` of ``reset`` is not used.

    Args:
        name: Pong, Pixelcopter or FoodCollector.
        frame_skip: game steps per environment step, >= 1: the action is repeated and the rewards are summed, until the
            game is over.
        scale_observations: multiply observations by the game's ``observation_scale``, to numbers of order one.
        scale_rewards: multiply rewards by the game's ``reward_scale``, to the unit of the study's returns.
        render_mode: rgb_array: ``render()`` returns the picture, uint8 (H, W, 3). human: a window shows it, at the
            speed of play; needs pygame-ce.
        options: options of the game, by name.

    Raises:
        ValueError: an argument outside its range; an action that is not in ``action_space``, or not a number.
        RuntimeError: a step before the first reset or beyond the end of the game.
        ImportError: pygame-ce is not installed; raised when the window opens.

    Attributes:
        game: rules and state of the game. stream: its random numbers.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 30}  # noqa: RUF012  (as Gymnasium declares it)

    @checked()
    def __init__(
        self,
        name: str,
        *,
        frame_skip: int = 1,
        scale_observations: bool = False,
        scale_rewards: bool = False,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        if name not in GAMES:
            raise ValueError(f"name must be one of {', '.join(GAMES)}; got {name!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be human, rgb_array or None; got {render_mode!r}")
        self.frame_skip = check_integer("frame_skip", frame_skip, 1, INT32_MAX)
        self.render_mode = render_mode
        self.stream = Stream(0)
        self.game: Any = GAMES[name](self.stream, **options)
        self.metadata = self.metadata | {"render_fps": max(1, round(self.game.render_fps / frame_skip))}
        self._scale = self.game.observation_scale if scale_observations else None
        self._reward_scale = float(self.game.reward_scale) if scale_rewards else 1.0
        low, high = (self._scaled(bound) for bound in (self.game.observation_low, self.game.observation_high))
        self.observation_space = Box(low, high, dtype=np.float32)
        self.action_space = self._action_space()
        self._over = True
        self._window: Any = None

    def _action_space(self) -> gymnasium.Space:
        game = self.game
        if hasattr(game, "action_space"):
            return game.action_space()
        if hasattr(game, "num_actions"):
            return Discrete(game.num_actions)
        return Box(game.action_low, game.action_high, dtype=np.float32)

    def _scaled(self, observation: np.ndarray) -> np.ndarray:
        return (observation if self._scale is None else observation * self._scale).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin a new game."""
        super().reset(seed=seed)
        self.stream.state = int(self.np_random.integers(2**64, dtype=np.uint64))
        self.game.reset()
        self._over = False
        if self.render_mode == "human":
            self.render()
        return self._scaled(self.game.observation()), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Take ``frame_skip`` steps of the game with one action."""
        action = self._checked(action)
        if self._over:
            raise RuntimeError("a game that is over, or not begun, must be reset before the next step")
        total = 0.0
        for _ in range(self.frame_skip):
            reward, self._over = self.game.step(action)
            total += reward
            if self._over:
                break
        if self.render_mode == "human":
            self.render()
        return self._scaled(self.game.observation()), total * self._reward_scale, self._over, False, {}

    def _checked(self, action: Any) -> Any:
        space = self.action_space
        if isinstance(space, Box):  # Box.contains refuses float64, and numbers that miss a bound by rounding
            try:
                values = np.asarray(action, dtype=np.float64)
            except (TypeError, ValueError):
                values = np.empty(0)
            if values.shape == space.shape and (
                (values >= space.low - 1e-6).all() and (values <= space.high + 1e-6).all()  # False for NaN
            ):
                return values
        elif space.contains(action):
            return int(action) if isinstance(space, Discrete) else action
        raise ValueError(f"action must lie in {space}; got {action!r}")

    def render(self) -> np.ndarray | None:
        """Return the picture, or show it in a window and return None."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() does nothing without render_mode; give it to gymnasium.make")
            return None
        picture = self.game.picture()
        if self.render_mode == "rgb_array":
            return picture
        return self._show(picture)

    def _show(self, picture: np.ndarray) -> None:
        try:
            import pygame
        except ImportError as error:
            raise ImportError("render_mode=\"human\" needs pygame-ce: pip install 'torchrl-decouple[games]'") from error
        if self._window is None:
            pygame.display.init()
            self._window = pygame.display.set_mode(picture.shape[1::-1])
            pygame.display.set_caption(type(self.game).__name__)
            self._clock = pygame.time.Clock()
        pygame.surfarray.blit_array(self._window, picture.swapaxes(0, 1))
        pygame.event.pump()  # else the system reports a hanging window
        pygame.display.flip()
        self._clock.tick(self.metadata["render_fps"])

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            self._window = None


for _name, _game in GAMES.items():
    gymnasium.register(
        f"decouple/{_name}-v0",
        entry_point="decouple.envs.games.gymnasium_env:GameEnv",
        kwargs={"name": _name},
        max_episode_steps=_game.max_episode_steps,
    )
