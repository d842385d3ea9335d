"""Environments of TorchRL as the games of a control task: batched ones, and those that step on a GPU.

    games = TorchRLGames(task, first, agents=2, each=1024)     # first: what the task's function has made
    games.seed(range(2048))
    observation = games.reset(np.arange(2048))                 # (2048, O)

They have the interface of ``decouple.envs.control.backends``. Each agent has environments of its own, so that its
numbers do not depend on the agents beside it: one whose batch holds all its games where the task's function takes
``batch_size``, else as many as it takes of those that the function makes. What an environment draws from torch's
generators comes from numbers of its own, too. Numbers pass through the processor's memory once a step.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from decouple.checks import at_least, check_setting, checked
from decouple.envs.control.backends import seeds_after
from decouple.envs.control.making import Task, made
from decouple.envs.control.spaces import as_vector, read_entries, split_space

__all__ = ["TorchRLGames", "make_first"]

# Keys of an observation spec that tell of the episode, by TorchRL's transforms, and that no network reads.
OF_THE_EPISODE = ("step_count", "is_init", "episode_reward", "time")


@checked(each=at_least(1))
def make_first(task: Task, each: int, device: str = "cpu") -> Any:
    """What a task's function makes: a Gymnasium environment, or TorchRL's with `each` games where that can be asked.

    A function that makes TorchRL's environments gets `[each]` for an argument `batch_size`, and the device for an
    argument `device`. One that makes Gymnasium's gets neither: such an argument is its own, and keeps its default.

    Raises:
        ValueError: a function that does not take the task's options, or whose Gymnasium environments need one of the
            two arguments.
        ImportError: a package that it needs is missing.
    """
    takes = _taken(task)
    needed = [name for name, default in takes.items() if default is inspect.Parameter.empty]
    if needed or (isinstance(task.make, type) and issubclass(task.make, EnvBase)):
        first = _make(task, each, device)
        if not isinstance(first, EnvBase):
            first.close()
            says = f"with {' and '.join(needed)}, which {task.name} needs and only a function of TorchRL's is given"
            check_setting("env_kwargs", task.options, lambda _: False, says)
        return first
    with torch.random.fork_rng(devices=[]):  # whoever draws numbers next gets the same, made once or twice
        first = _make(task, None, device)
    if not (takes and isinstance(first, EnvBase)):
        return first
    first.close()
    return _make(task, each, device)


def _make(task: Task, each: int | None, device: str) -> Any:
    """What a task's function makes, given games and device where it takes them; `each` is None: not given."""
    from gymnasium.error import DependencyNotInstalled

    assert task.make is not None
    offered = {} if each is None else {"batch_size": [each], "device": device}
    try:
        return made(task, task.make, **{name: value for name, value in offered.items() if name in _taken(task)})
    except (ImportError, DependencyNotInstalled) as error:
        raise ImportError(f"{task.name} needs its simulator: {error}") from error


def _taken(task: Task) -> dict[str, Any]:
    """The arguments `batch_size` and `device` of a task's function, with their defaults; not those in its options."""
    # The metaclass of TorchRL's environments hides what their classes take.
    made_by: Any = task.make.__init__ if isinstance(task.make, type) else task.make
    try:
        takes: Mapping[str, Any] = inspect.signature(made_by).parameters
    except (TypeError, ValueError):  # a builtin
        takes = {}
    return {n: takes[n].default for n in ("batch_size", "device") if n in takes and n not in task.options}


class TorchRLGames:
    """Games that environments of TorchRL's step, agent by agent.

    Observations are the key ``observation`` and, where it is there, ``pixels``; without them all keys of the
    observation spec, as a Dict's. Keys that only the value network reads are told apart by ``privileged``.

    Attributes:
        observation_space: Gymnasium's space of what one game shows, as a vector.
        action_space: Gymnasium's space of one game.
        number: number of games: as many as asked for or, where batches have a fixed size, the next whole batches.
        entries: parts of an observation. privileged: how many numbers at a row's end the value network alone reads.
        resumable: False: TorchRL cannot save an environment's games.

    Raises:
        ValueError: an environment of several batch axes, with several agents of its own, or with keys that are no
            numbers; or a function that makes one twice.
    """

    resumable = False
    simulator = "other"

    @checked(agents=at_least(1), each=at_least(1))
    def __init__(
        self,
        task: Task,
        first: EnvBase,
        agents: int,
        each: int,
        *,
        privileged: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        _check(task, first)
        self.task, self.size = task, first.batch_size.numel()  # games in one environment
        copies = -(-each // self.size)
        self.number = agents * copies * self.size
        further = (_make(task, each, device) for _ in range(agents * copies - 1))
        self.envs: list[EnvBase] = [first, *further]
        if len({id(env) for env in self.envs}) < len(self.envs):
            raise ValueError(f"name must be of a function that makes a new environment each time; got {task.name}")
        try:
            self._read_spaces(privileged)
        except BaseException:
            self.close()
            raise
        self.seeds = [0] * self.number
        self.carried: list[Any] = [None] * len(self.envs)
        self.drawn: list[list[Tensor]] = []

    def _read_spaces(self, privileged: Sequence[str]) -> None:
        from gymnasium.spaces import Dict

        env, lead = self.envs[0], len(self.envs[0].batch_size)
        specs = {_name(key): (key, spec) for key, spec in env.observation_spec.items(True, True)}
        says = f"some of the observation's keys, {', '.join(specs)}"
        check_setting("privileged", list(privileged), lambda keys: set(keys) <= set(specs), says)
        names = [name for name in specs if name in ("observation", "pixels", *privileged)]
        if not set(names) & {"observation", "pixels"}:
            names = [name for name in specs if name not in OF_THE_EPISODE]
        self.keys = {name: specs[name] for name in sorted(names)}
        spaces = {name: _space(spec, lead, self.task, key) for name, (key, spec) in self.keys.items()}
        space: Any = next(iter(spaces.values())) if list(spaces) == ["observation"] else Dict(spaces)
        public, hidden = split_space(space, privileged)
        self.order = [name for name in self.keys if name not in privileged] + sorted(privileged)
        self.entries = read_entries(public)
        self.observation_space, _ = as_vector(public)
        self.privileged = 0 if hidden is None else as_vector(hidden)[0].shape[0]
        bytes_ = self.observation_space.dtype == np.uint8 and not self.privileged
        self.dtype: Any = np.uint8 if bytes_ else np.float64
        self.action_space: Any = _space(env.action_spec, lead, self.task, env.action_key)
        self.one_hot = isinstance(env.action_spec, OneHot)

    def seed(self, seeds: Sequence[int]) -> None:
        """Seed each environment by the seed of its first game; its episodes begin anew."""
        self.seeds, self.carried = list(seeds), [None] * len(self.envs)
        firsts = self.seeds[:: self.size]
        self.drawn = [[torch.Generator(place).manual_seed(seed).get_state() for place in self._places(env)]
                      for env, seed in zip(self.envs, firsts, strict=True)]  # fmt: skip
        for index, env in enumerate(self.envs):
            with self._own_numbers(index):
                env.set_seed(firsts[index] & 0x7FFFFFFF)

    def reset(self, which: np.ndarray) -> np.ndarray:
        """Begin episodes of the games ``which``, ascending indices (K,); return their observations (K, O)."""
        asked = np.zeros(self.number, dtype=np.bool_)
        asked[which] = True
        rows = []
        for index, (env, mine) in enumerate(zip(self.envs, asked.reshape(-1, self.size), strict=True)):
            if not mine.any():
                continue
            with self._own_numbers(index):
                self.carried[index] = shown = self._begun(env, self.carried[index], mine)
            rows.append(self._numbers(shown)[mine])
        return np.concatenate(rows) if rows else np.empty((0, 0), self.dtype)

    def _begun(self, env: EnvBase, carried: Any, mine: np.ndarray) -> Any:
        """An environment's TensorDict, with new episodes where `mine`, bool (size,), is True."""
        if carried is None or mine.all():
            return env.reset()
        ends = carried.get(env.done_keys[0])
        mask = torch.from_numpy(mine).to(ends.device).reshape(ends.shape)
        # As `maybe_reset`, which TorchRL's collectors call: what the step left does not count as a state to begin in.
        return env.reset(carried.set("_reset", mask), select_reset_only=True).exclude("_reset")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Step every game. ``action``: (G, A), or (G,) if discrete, in the dtype of ``action_space``."""
        found = []
        for index, env in enumerate(self.envs):
            chosen = torch.from_numpy(action[index * self.size : (index + 1) * self.size])
            if self.one_hot:
                chosen = one_hot(chosen, int(self.action_space.n))
            spec = env.action_spec
            chosen = chosen.to(device=env.device or "cpu", dtype=spec.dtype).reshape(spec.shape)
            with self._own_numbers(index):
                stepped = env.step(self.carried[index].set(env.action_key, chosen))
                self.carried[index] = env.step_mdp(stepped)
            after = stepped["next"]
            done, terminated = (_column(after.get(key)) for key in ("done", "terminated"))
            found.append((self._numbers(after), _column(after.get(env.reward_key)), terminated, done & ~terminated))
        observation, reward, terminated, truncated = map(np.concatenate, zip(*found, strict=True))
        return observation, reward.astype(np.float64), terminated, truncated

    def _numbers(self, shown: Any) -> np.ndarray:
        """What an environment's games show, as rows (size, O)."""
        parts = []
        for name in self.order:
            key, spec = self.keys[name]
            part = shown.get(key)
            if isinstance(spec, MultiCategorical):
                choices = _choices(spec, part.shape[-1])
                part = torch.cat([one_hot(part[..., i].long(), n) for i, n in enumerate(choices)], -1)
            elif isinstance(spec, Categorical) and not isinstance(spec, Binary):  # Binary is a Categorical of TorchRL's
                part = one_hot(part.long(), int(spec.n))
            parts.append(part.reshape(self.size, -1).numpy(force=True).astype(self.dtype))
        return np.concatenate(parts, axis=1)

    def state(self) -> list[dict[str, Any]]:
        """The seeds of the games, of which new ones are drawn."""
        return [{"first_seed": seed} for seed in self.seeds]

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Begin new episodes, by seeds drawn from the saved ones: a resumed run does not repeat its first episodes."""
        self.seed(seeds_after(states))

    def close(self) -> None:
        for env in self.envs:
            if not env.is_closed:
                env.close()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            f"games of {self.task.name} cannot be copied or pickled: TorchRL cannot save them; make new ones"
        )

    @staticmethod
    def _places(env: EnvBase) -> list[torch.device]:
        """The devices from whose generators an environment may draw."""
        device = torch.device(env.device or "cpu")
        return [torch.device("cpu"), *([device] if device.type == "cuda" else [])]

    @contextlib.contextmanager
    def _own_numbers(self, index: int) -> Iterator[None]:
        """Within it torch draws from this environment's own numbers; afterwards all others are as they were."""
        places = self._places(self.envs[index])
        with torch.random.fork_rng(devices=[place.index or 0 for place in places[1:]]):
            for place, state in zip(places, self.drawn[index], strict=True):
                _generator(place)[1](state)
            yield
            self.drawn[index] = [_generator(place)[0]() for place in places]


def _generator(place: torch.device) -> tuple[Callable[[], Tensor], Callable[[Tensor], None]]:
    """The functions that read and set the state of torch's generator on a device."""
    if place.type == "cpu":
        return torch.get_rng_state, torch.set_rng_state
    return (lambda: torch.cuda.get_rng_state(place)), (lambda state: torch.cuda.set_rng_state(state, place))


def _check(task: Task, env: EnvBase) -> None:
    """Refuse an environment that has no games side by side with one action, one reward and one end each; ValueError."""
    says = "name must be of a function that makes TorchRL environments of one batch axis at most"
    if len(env.batch_size) > 1:
        raise ValueError(f"{says}; {task.name} made one of {tuple(env.batch_size)}")
    single = len(env.action_keys) == len(env.reward_keys) == len(env.reset_keys) == 1
    if not single or list(env.reset_keys) != ["_reset"] or "terminated" not in env.done_keys:
        keys = [*env.action_keys, *env.reward_keys, *env.done_keys]
        raise ValueError(f"{says}, and of one agent, with one action, reward and done; {task.name} made one of {keys}")
    if env.reward_spec.shape.numel() != env.batch_size.numel():
        raise ValueError(f"{says}, with one reward a game; {task.name} has {tuple(env.reward_spec.shape)}")


def _space(spec: TensorSpec, lead: int, task: Task, key: Any) -> Any:
    """Gymnasium's space of a spec, without its batch axes.

    Raises:
        ValueError: a spec of other kinds.
    """
    from gymnasium import spaces

    shape = tuple(spec.shape[lead:])
    one = (0,) * lead
    if isinstance(spec, OneHot) and len(shape) == 1:
        return spaces.Discrete(shape[0])
    if isinstance(spec, Binary):  # before Categorical, of which both are kinds in TorchRL
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else list(shape))
    if isinstance(spec, MultiCategorical) and len(shape) == 1:
        return spaces.MultiDiscrete(_choices(spec, shape[0]))
    if isinstance(spec, Categorical) and math.prod(shape) == 1:
        return spaces.Discrete(int(spec.n))
    if isinstance(spec, Bounded | Unbounded) and spec.dtype == torch.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
        bounds: Any = spec.space
        low, high = bounds.low[one].numpy(force=True), bounds.high[one].numpy(force=True)
        return spaces.Box(low, high, shape, low.dtype.type)
    if isinstance(spec, Unbounded) and spec.dtype.is_floating_point:
        return spaces.Box(-np.inf, np.inf, shape, torch.empty(0, dtype=spec.dtype).numpy().dtype.type)
    if isinstance(spec, Bounded | Unbounded):  # other whole numbers
        return spaces.Box(-np.inf, np.inf, shape, np.float32)
    raise ValueError(f"name must be a task whose observations and actions are numbers; {task.name} has {key}: {spec}")


def _choices(spec: MultiCategorical, count: int) -> list[int]:
    """How many values each of a game's `count` components has."""
    return spec.nvec.reshape(-1, count)[0].tolist()


def _name(key: Any) -> str:
    return key if isinstance(key, str) else ".".join(key)


def _column(values: Tensor) -> np.ndarray:
    """One number of each game, (size,)."""
    return values.reshape(-1).numpy(force=True)
