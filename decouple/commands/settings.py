"""A command's settings: the folder of their YAML files, and the dataclass made of Hydra's configuration."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from decouple.checks import check_setting, positive_whole
from decouple.commands.folders import CONFIGS
from decouple.commands.task_names import register_task_names
from decouple.runs.settings import flat
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.settings import ControlSettings, sizes_name

__all__ = ["control_settings", "refuse_added", "register_algorithms", "schema", "settings_beside", "settings_of"]


def settings_of(config: Any) -> Any:
    """The dataclass that Hydra's configuration was composed for.

    Raises:
        ValueError: a setting was added (`+name=...`) that the dataclass does not have.
    """
    refuse_added(OmegaConf.get_type(config), config)
    return OmegaConf.to_object(config)


def refuse_added(kind: Any, given: Mapping[Any, Any], group: str = "") -> None:
    """Raise ValueError for settings that the dataclass `kind` does not have; `group` is the prefix of their names."""
    added = [f"{group}{name}" for name in given if name not in {setting.name for setting in dataclasses.fields(kind)}]
    if added:
        raise ValueError(f"{', '.join(added)} must not be added: {kind.__name__} has no such setting")


def control_settings(config: Mapping[Any, Any], given: Collection[str] | None = None) -> ControlSettings:
    """The settings of a run on a control task, from what Hydra composed, or from plain values by their flat keys.

    Args:
        config: the composed settings.
        given: names of those that the user has set; None: all. A published `learning_starts` that is not among them
            gives way to a smaller `total_frames`, and a line on stderr says so.

    Raises:
        ValueError: no algorithm of this name, a setting that it does not have, or a value that is not allowed.
    """
    plain: Any = config
    if OmegaConf.is_config(config):
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    known = f"one of {list(CONTROL_ALGORITHMS)}"
    check_setting("algorithm", plain.get("algorithm"), CONTROL_ALGORITHMS.__contains__, known)
    algorithm, published = CONTROL_ALGORITHMS[plain["algorithm"]], plain.get("learning_starts")
    gives_way = given is not None and "learning_starts" not in given and positive_whole(plain.get("total_frames"))
    if not gives_way or published is None or published < plain["total_frames"]:
        return algorithm(**plain)
    del plain["learning_starts"]
    settings = algorithm(**plain)
    own = flat(settings)
    _say_once(
        f"learning_starts is {own['learning_starts']:,} here: the default {published:,} would leave nothing to learn "
        f"from of total_frames={own['total_frames']:,}"
    )
    return settings


def settings_beside(group: str, kind: type, config: Any, given: Collection[str]) -> tuple[Any, ControlSettings]:
    """The settings of a study, which stand in a group of their own, and those of its runs on a control task.

    Args:
        group: name of the group, as `search`.
        kind: dataclass of the study's settings.
        config: what Hydra composed.
        given: names of the settings that the user has set, as for `control_settings`.

    Raises:
        ValueError: as `control_settings`, and for the study's settings.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    own = plain.pop(group)
    check_setting(group, own, lambda v: isinstance(v, dict), f"settings of the {group}, {group}.<name>=...")
    refuse_added(kind, own, f"{group}.")
    return kind(**own), control_settings(plain, given)


@functools.cache
def _say_once(line: str) -> None:
    """Print a line on stderr, once for all cells of a study."""
    print(line, file=sys.stderr)


def schema(kind: type) -> DictConfig:
    """A dataclass of settings as Hydra's schema; in its dicts, as `env_kwargs`, any key may be set."""
    node = OmegaConf.structured(kind)
    for setting in dataclasses.fields(kind):
        if isinstance(node[setting.name], DictConfig) and not dataclasses.is_dataclass(setting.type):
            OmegaConf.set_struct(node[setting.name], False)
    return node


def register_algorithms(beside: Sequence[tuple[str, type]] = ()) -> None:
    """Register the choices of two groups with Hydra: each algorithm's settings on control tasks, and any task's name.

    Args:
        beside: further groups of settings in each choice, each a name and a dataclass.
    """
    groups = [(name, kind, dataclasses.field(default_factory=kind)) for name, kind in beside]
    for name, algorithm in CONTROL_ALGORITHMS.items():
        own = algorithm.keys.structured()
        kind = dataclasses.make_dataclass(own.__name__, groups, bases=(own,)) if groups else own
        ConfigStore.instance().store(group="algorithm", name=name, node=schema(kind), package="_global_")
    _register_pages()
    OmegaConf.register_new_resolver("sizes", _sizes_in_path, replace=True)
    register_task_names()


def _register_pages() -> None:
    """Register a page for each task and algorithm that takes another's published settings and has no page of its own.

    The groups are `departures`, pages by task, `pictures`, a page for all tasks that show pictures, and `presets`,
    pages of `preset=`.
    """
    for name, algorithm in CONTROL_ALGORITHMS.items():
        for page in (CONFIGS / "control").glob(f"*/*{algorithm.published_as}.yaml"):
            group, of = page.parent.name, page.stem.removesuffix(str(algorithm.published_as))
            own = page.with_name(f"{of}{name}.yaml")
            if group in ("departures", "pictures", "presets") and not own.exists():
                node = {"defaults": [page.stem]}
                ConfigStore.instance().store(group=group, name=own.stem, node=node, package="_global_")


def _sizes_in_path(sizes: Any) -> str:
    """`sizes_name`; the text of what are no sizes, which the settings' own check refuses by the setting's name."""
    try:
        return sizes_name(sizes)
    except ValueError:
        return str(sizes)
