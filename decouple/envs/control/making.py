"""Games of Gymnasium, made one by one: of a registered task, or by a function.

task = Task("pendulum", gymnasium.spec("Pendulum-v1"), {"g": 9.81})
games = gymnasium_games(task, 6)
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from decouple.checks import at_least, check_setting, checked

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

__all__ = ["Task", "gymnasium_games", "layers_of", "made"]

OWN_GAMES = "decouple.envs.control."  # how the entry points of this library's control tasks begin


class Task(NamedTuple):
    """A task: one that Gymnasium has registered, or a function that makes its games."""

    name: str  # name given by the user, for messages
    spec: EnvSpec | None  # None: `make` makes the games
    options: dict[str, Any]  # keyword arguments of the environment
    make: Callable[..., gymnasium.Env] | None = None
    wrappers: tuple[str, ...] = ()  # Gymnasium wrappers around each game: my_package.module:Wrapper(size=42)
    frame_stack: int = 1  # observations of so many steps together, by Gymnasium's wrapper, around those

    @property
    def id(self) -> str:
        return self.spec.id if self.spec else self.name

    @property
    def max_episode_steps(self) -> int | None:
        """Step limit of an episode that the caller counts; None: none, or the games themselves have one."""
        return self.spec.max_episode_steps if self.spec else None

    @property
    def simulator(self) -> str:
        """The task's simulator: classic_control, mujoco, or other, whose games we cannot save.

        Forage counts as classic_control: the whole game is its `state`, and its generator.
        """
        if self.spec is None or self.wrappers or self.frame_stack > 1:
            return "other"
        module = self.spec.entry_point if isinstance(self.spec.entry_point, str) else ""
        if module.startswith(OWN_GAMES):
            return "classic_control"
        known = () if self.spec.additional_wrappers else ("classic_control", "mujoco")  # a wrapper may have state
        return next((kind for kind in known if f"gymnasium.envs.{kind}." in module), "other")


@checked(number=at_least(1))
def gymnasium_games(task: Task, number: int, first: gymnasium.Env | None = None) -> list[gymnasium.Env]:
    """Make a task's games. They have no step limit but their own: a caller counts `max_episode_steps`.

    Args:
        task: the task.
        number: number of games.
        first: what the task's function has made already, for the first game; None: nothing.

    Raises:
        ValueError: options that the task does not have, or a function that makes no new Gymnasium environments.
        ImportError: the task's simulator is not installed.
    """
    import gymnasium
    import gymnasium.wrappers

    try:
        # Imported by name, so that a type checker accepts this file where MuJoCo is not installed.
        mujoco = importlib.import_module("mujoco") if task.simulator == "mujoco" else None
        with _without_deprecations(mujoco):
            make = functools.partial(gymnasium.make, task.id, max_episode_steps=-1, disable_env_checker=True)
            # Steps are counted by the caller, for all games.
            games = _made(task, task.make or make, number - (first is not None), [] if first is None else [first])
            for wrap in map(_wrapper, task.wrappers):
                games = [wrap(game) for game in games]
            stacked = gymnasium.wrappers.FrameStackObservation
            return games if task.frame_stack == 1 else [stacked(game, task.frame_stack) for game in games]
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        # Gymnasium's Pusher-v4 raises a plain ImportError for an installed MuJoCo that is too new for it.
        missing = task.simulator == "mujoco" and type(error) is not ImportError
        install = f"pip install 'torchrl-decouple[{_extra(task) or 'mujoco'}]'" if missing or _extra(task) else error
        raise ImportError(f"{task.name} needs its simulator: {install}") from error


@checked()
def made(task: Task, make: Callable[..., Any], **further: Any) -> Any:
    """What a task's function makes of the task's options, and of further arguments.

    Raises:
        ValueError: it takes other arguments.
    """
    try:
        return make(**further, **task.options)
    except TypeError as error:  # an unknown keyword, as Gymnasium raises it too
        if not task.options:
            raise
        raise ValueError(f"env_kwargs must be arguments of {task.name}; got {task.options}: {error}") from error


def _made(task: Task, make: Callable[..., Any], number: int, games: list[gymnasium.Env]) -> list[gymnasium.Env]:
    """Those games and `number` more by a function, each a game of its own.

    Raises:
        ValueError: it takes other arguments, or does not make Gymnasium's environments.
    """
    import gymnasium

    games = [*games, *(made(task, make) for _ in range(number))]
    says = "name must be of a function that makes a new environment of Gymnasium's or TorchRL's each time"
    for game in games:
        if not isinstance(game, gymnasium.Env):
            raise ValueError(f"{says}; {task.name} made {game!r}")
    if len({id(game) for game in games}) < len(games):
        raise ValueError(f"{says}; {task.name} made one twice")
    return games


def _wrapper(name: str) -> Callable[[gymnasium.Env], gymnasium.Env]:
    """A wrapper by its name, with its arguments where there are some; ValueError where there is none."""
    import gymnasium

    called, _, arguments = name.partition("(")
    module, _, own = called.partition(":")
    found = getattr(importlib.import_module(module), own, None) if module and own else None
    wraps = isinstance(found, type) and issubclass(found, gymnasium.Wrapper)
    options = _plain_arguments(f"wrapper({arguments}") if arguments else {}
    says = "of Gymnasium wrappers, each as my_package.module:Wrapper or my_package.module:Wrapper(size=42)"
    check_setting("wrappers", name, lambda _: wraps and options is not None, says)
    return functools.partial(_wrapped, name, found, options or {})


def _plain_arguments(call: str) -> dict[str, Any] | None:
    """The keyword arguments of a call in Python's notation, each a plain value; None where it is no such call."""
    try:
        parsed = ast.parse(call, mode="eval").body
        if not isinstance(parsed, ast.Call) or parsed.args or any(each.arg is None for each in parsed.keywords):
            return None
        return {str(each.arg): ast.literal_eval(each.value) for each in parsed.keywords}
    except (SyntaxError, ValueError):
        return None


def _wrapped(name: str, wrapper: Any, options: dict[str, Any], game: gymnasium.Env) -> gymnasium.Env:
    try:
        return wrapper(game, **options)
    except TypeError as error:
        raise ValueError(f"wrappers must be of wrappers that take these games; got {name!r}: {error}") from error


def _extra(task: Task) -> str | None:
    """The extra that installs the task's simulator, where it is one of Gymnasium's own; MuJoCo's tasks have another."""
    entry = task.spec.entry_point if task.spec and isinstance(task.spec.entry_point, str) else ""
    return "box2d" if "gymnasium.envs.box2d." in entry else None


@checked()
def layers_of(game: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """The game's wrappers, from the outermost down to the task itself."""
    while game is not game.unwrapped:
        yield game
        game = game.env
    yield game


@contextmanager
def _without_deprecations(mujoco: Any) -> Iterator[None]:
    """Silence two warnings: v4 of a task is outdated, and its model files use an attribute that MuJoCo deprecates.

    MuJoCo would write its warning to stderr and to a file in the current folder, for every game.
    """

    def pass_on(message: str) -> None:
        if "settotalmass" not in message:
            print(f"WARNING: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        outdated = r".*The environment \S+ is out of date"
        warnings.filterwarnings("ignore", message=outdated, category=DeprecationWarning)
        if mujoco is None:
            yield
            return
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(before or pass_on)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)
