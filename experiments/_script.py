"""What scripts of this folder share; import it first, for it mends two things that later imports would meet.

`python experiments/procgen.py` puts this folder first on `sys.path`, where `import procgen` then finds the script in
place of the games: in the script, in TorchRL (which imports procgen where it is installed), and in worker processes,
which inherit the path. Nothing else here is imported by name, so the folder leaves the path for good.

And gym, which procgen and TorchRL import, prints four lines to stderr about its age: a notice from a table, emptied.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

with contextlib.suppress(ImportError):
    from gym_notices import notices

    notices.notices.clear()


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """What is wrong with a command, or with the folder it goes on with, in a line or a few; bugs keep their trace.

    In a sweep Hydra must see errors, to go on with the other jobs.
    """
    from decouple.checkpoint import CheckpointError

    try:
        yield
    except (ValueError, ImportError, OSError, CheckpointError) as error:
        if "HYDRA_FULL_ERROR" in os.environ or in_sweep():
            raise
        sys.exit(f"{type(error).__name__}: {error}\n(HYDRA_FULL_ERROR=1 shows where)")


def register_control() -> None:
    """Make the algorithms of control tasks, with all their settings, choices of Hydra's group `algorithm`."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from decouple.control import CONTROL_ALGORITHMS, sizes_name

    for name, settings in CONTROL_ALGORITHMS.items():
        ConfigStore.instance().store(group="algorithm", name=name, node=settings, package="_global_")
    OmegaConf.register_new_resolver("sizes", sizes_name, replace=True)


def procgen_script() -> ModuleType:
    """experiments/procgen.py, by its file: by its name it would be the games."""
    name = "procgen_experiment"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("procgen.py"))
    assert spec and spec.loader  # a file that is there
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_checkpoint(given: str) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a run, given by its folder or by its file: where it lies, and what it holds."""
    from decouple.checkpoint import load_checkpoint

    path = Path(given)
    path = path / "checkpoint.pt" if path.is_dir() else path
    return path, load_checkpoint(path)


def procgen_agent(state: dict[str, Any]) -> tuple[ModuleType, Any, Any, int]:
    """experiments/procgen.py; of a checkpoint of it settings, model (on the CPU, in full precision) and frames."""
    script = procgen_script()
    fields = {field.name for field in dataclasses.fields(script.ProcgenExperiment)}
    here = state["settings"] | {"device": "cpu", "precision": "fp32"}  # whatever the run was computed with
    config = script.ProcgenExperiment(**{key: value for key, value in here.items() if key in fields})
    with contextlib.closing(script.make_env(config, 1, config.seed, test=False, training=False)) as env:
        model = script.make_model(config, env)
    model.load_state_dict(state["model"])
    return script, config, model, state["iteration"] * config.rollout_steps * config.num_envs


def in_sweep() -> bool:
    """Whether this is a job of a sweep, Hydra's `-m`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


# Settings that a sweep does not sweep over.
OF_THE_RECORD = ("tracker", "mode", "show_progress", "keep_replay")


def run_folder(config: Any) -> str:
    """`config.run_dir`; in a sweep with one more level, of the command's settings that the path does not say.

    `seeds0_6/gamma=0.9,learning_rate=0.001`: no two jobs share a folder, and the same sweep started again finds each
    job's own. A W&B agent's commands are jobs too. A `run_dir` given on the command line stands as it is, and so does
    one that says everything.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    given = dict(text.lstrip("+~").partition("=")[::2] for text in HydraConfig.get().overrides.task)
    if "run_dir" in given or not (in_sweep() or os.environ.get("WANDB_SWEEP_ID")):
        return config.run_dir
    template: Any = OmegaConf.to_container(config, resolve=False)
    said = {*re.findall(r"\$\{(\w+)\}", template["run_dir"]), *OF_THE_RECORD}
    name = ",".join(f"{key}={value}" for key, value in sorted(given.items()) if key not in said)
    plain = re.sub(r"[^\w.,=+-]", "_", name)[:150]
    if plain != name:  # a path as a value, or too many settings for a folder's name
        plain += "_" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{config.run_dir}/{plain}" if name else config.run_dir


def sweep_result(settings: Any) -> dict[str, float] | None:
    """The result of a sweep's job that has been done with the very same settings; None: it is to be run."""
    from decouple.metrics import read_result, read_yaml

    files = [Path(settings.run_dir) / name for name in ("config.yaml", "result.json")]
    if not in_sweep() or not all(file.exists() for file in files):
        return None
    config, result = files
    same = read_yaml(config) == dataclasses.asdict(settings)
    if not same or result.stat().st_mtime_ns < config.stat().st_mtime_ns:  # of an earlier session
        return None
    report = read_result(result)
    return report if report["frames"] >= settings.total_frames else None
