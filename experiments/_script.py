"""What scripts of this folder share; import it first, for it mends what later imports would meet.

`python experiments/procgen.py` puts this folder first on `sys.path`, where `import procgen` then finds the script in
place of the games: in the script, in TorchRL (which imports procgen where it is installed), and in worker processes,
which inherit the path. Nothing else here is imported by name, so the folder leaves the path for good.

And gym, which procgen and TorchRL import, prints four lines to stderr about its age: a notice from a table, emptied.

Ctrl-C, and SIGTERM as Slurm sends it, end a command with one line instead of a stack: at once while it imports, and
from then on as `plain_interrupts` says.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import os
import re
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}  # what ends a command, and the name that a user knows
RECEIVED: list[int] = []  # of them, by this process


def end_at_once(number: int, _: object) -> None:
    """A handler of `SIGNALS`: say so and end, with nothing unwound; a run is whole on the disk at every moment."""
    says = f"stopped by {SIGNALS[signal.Signals(number)]}; the same command goes on from what is on the disk\n"
    os.write(2, says.encode())
    os._exit(128 + number)


def on_signals(handler: Callable[[int, object], None], *before: Callable[[int, object], None]) -> None:
    """Handle `SIGNALS` in place of Python and `before`; somebody else's handler, and nohup's none, is left alone."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, *before):
            signal.signal(number, handler)


if Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve().parent == Path(__file__).resolve().parent:
    on_signals(end_at_once)

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

with contextlib.suppress(ImportError):
    from gym_notices import notices

    notices.notices.clear()


def run_command(main: Callable[[], object]) -> None:
    """Run a script's `main`, Hydra's, as a command: what is wrong with it, or ends it, is said in a line or a few.

    A bug keeps its trace, and HYDRA_FULL_ERROR=1 shows that of any error.
    """
    full = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on, in place of printing them
    arguments = sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    with plain_interrupts():
        try:
            main()
        except Exception as error:
            if full or interrupted(error):
                raise
            sys.argv[1:] = arguments
            if (says := what_is_wrong(error, main)) is None:
                raise
            sys.exit(f"{says}\n(HYDRA_FULL_ERROR=1 shows where)")


def quoted(argument: str) -> str:
    """`argument` as Hydra can read it: a value with an equals sign, such as a path of a sweep's run, in quotes."""
    key, sign, value = argument.partition("=")
    several = "," in value and {"-m", "--multirun"} & set(sys.argv)
    if argument.startswith("-") or not sign or several or readable(argument):
        return argument
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
    return f"{key}='{escaped}'" if readable(f"{key}='{escaped}'") else argument


def readable(argument: str) -> bool:
    """Whether it is of Hydra's grammar, https://hydra.cc/docs/1.3/advanced/override_grammar/basic."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def what_is_wrong(error: Exception, main: Callable[[], object]) -> str | None:
    """What an error says of the command, or of the folder that it goes on with; None: it is a bug."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from decouple.runs.checkpoint import CheckpointError
    from decouple.runs.finite import NotFiniteError
    from decouple.studies.actor_size.workers import CellError

    name, text = type(error).__name__, str(error)
    if isinstance(error, HydraException):
        unread = [argument for argument in sys.argv[1:] if not argument.startswith("-") and not readable(argument)]
        if unread:
            says = """an argument is setting=value, and quotes within quotes make text of any value: run_dir="'a=b'\""""
            return f"ValueError: {' '.join(unread)} cannot be read ({text.splitlines()[0]}); {says}"
        because = str(error.__cause__).splitlines()[0] if isinstance(error.__cause__, OmegaConfBaseException) else ""
        what = " ".join(text.partition("Config search path:")[0].split())  # on one line, without where Hydra looked
        return f"{name}: {what}" + f": {because}" * bool(because)
    if isinstance(error, OmegaConfBaseException):
        what = " ".join(text.splitlines()[:1])
        return f"{name}: {error.full_key}: {what}" if error.full_key else f"{name}: {what}"
    if any(frame.name == "load_configuration" for frame in traceback.extract_tb(error.__traceback__)):
        return f"{name}: {' '.join(culprits(main))}: {text}"  # Hydra stumbled over it
    known = isinstance(
        error, ValueError | ImportError | OSError | sqlite3.Error | CheckpointError | CellError | NotFiniteError
    )
    return f"{name}: {text}" if known else None


def culprits(main: Callable[[], object]) -> list[str]:
    """The arguments without which the settings can be composed; all, where no single one is to blame."""
    arguments, found = sys.argv[1:], []
    for index, argument in enumerate(arguments):
        sys.argv[1:] = ["--cfg", "job", *arguments[:index], *arguments[index + 1 :]]
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            main()
            found.append(argument)
    return found or arguments


@contextlib.contextmanager
def plain_interrupts() -> Iterator[None]:
    """Around a whole command: a signal of `SIGNALS` ends it with one line and exit code 130 (Ctrl-C) or 143 (SIGTERM).

    The first raises KeyboardInterrupt, so that games, workers and records are closed, with what is to be said as its
    argument where `says_what_goes_on` is around; a second one ends the command at once.
    """

    def stop(number: int, _: object) -> None:
        RECEIVED.append(number)
        on_signals(end_at_once, stop)
        raise KeyboardInterrupt

    def lost(what: Any) -> None:  # raised in a destructor or a callback, whose exceptions Python drops
        if RECEIVED and issubclass(what.exc_type, KeyboardInterrupt):
            end_at_once(RECEIVED[0], None)
        sys.__unraisablehook__(what)

    on_signals(stop, end_at_once)
    sys.unraisablehook = lost
    try:
        yield
    except BaseException as error:
        if not interrupted(error):
            raise
        number = RECEIVED[0] if RECEIVED else signal.SIGINT  # none: a launcher's worker alone was interrupted
        swept = {"-m", "--multirun"} & set(sys.argv)
        default = "the same command " + ("goes on with the jobs that are not done" if swept else "starts over")
        says = error.args[0] if isinstance(error, KeyboardInterrupt) and error.args else default
        print(f"stopped by {SIGNALS[signal.Signals(number)]}; {says}", file=sys.stderr, flush=True)
        sys.exit(128 + number)


def interrupted(error: BaseException) -> bool:
    """Whether it comes of a signal: what an interrupted import, or what is closed after it, raises comes of it too."""
    return isinstance(error, KeyboardInterrupt) or bool(RECEIVED)


@contextlib.contextmanager
def says_what_goes_on(says: Callable[[], str]) -> Iterator[None]:
    """Around what may be interrupted: `says()` is what the one line of `plain_interrupts` then says."""
    try:
        yield
    except BaseException as error:
        if not interrupted(error):
            raise
        raise KeyboardInterrupt(says()) from None


def run_goes_on(run_dir: str) -> str:
    """Where a run stands that was interrupted, and what the same command does when it is started again."""
    from decouple.runs.checkpoint import CheckpointError
    from decouple.studies.actor_size.workers import frames_done

    try:
        _, state = run_checkpoint(run_dir)
    except FileNotFoundError:
        return f"there is no checkpoint in {run_dir} yet: the same command begins the run anew"
    except (CheckpointError, OSError) as error:
        return str(error)
    seen, kept = frames_done(run_dir), frames_of(state)
    return f"at {max(seen, kept):,} frames: the same command goes on from the checkpoint at {kept:,} in {run_dir}"


def frames_of(state: dict[str, Any]) -> int:
    """The frames that a run's checkpoint was written at, of each agent where there are several."""
    if "frames" in state:
        return state["frames"]
    return state["iteration"] * state["settings"]["rollout_steps"] * state["settings"]["num_envs"]


def settings_of(config: Any) -> Any:
    """What Hydra composed, as the dataclass that it is of.

    Raises:
        ValueError: a setting was added (`+name=...`) that the dataclass does not have.
    """
    from omegaconf import OmegaConf

    refuse_added(OmegaConf.get_type(config), config)
    return OmegaConf.to_object(config)


def refuse_added(kind: Any, given: Mapping[Any, Any], group: str = "") -> None:
    """Refuse settings that the dataclass `kind` does not have; `group` is what stands before their names."""
    added = [f"{group}{name}" for name in given if name not in {setting.name for setting in dataclasses.fields(kind)}]
    if added:
        raise ValueError(f"{', '.join(added)} must not be added: {kind.__name__} has no such setting")


def register_control() -> None:
    """Make the algorithms of control tasks, with all their settings, choices of Hydra's group `algorithm`."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from decouple.studies.actor_size.settings import CONTROL_ALGORITHMS, sizes_name

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
    from decouple.runs.checkpoint import load_checkpoint

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
    return script, config, model, frames_of(state)


def in_sweep() -> bool:
    """Whether this is a job of a sweep, Hydra's `-m`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


# Settings that a sweep does not sweep over.
OF_THE_RECORD = ("tracker", "mode", "show_progress", "keep_replay", "restart")


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
    """The result of a sweep's job that has been done with the very same settings; None: it is to be run.

    CheckpointError where it was done under other rules.
    """
    from decouple.runs.metrics import read_result, read_yaml
    from decouple.runs.settings import defaults_of
    from decouple.studies.actor_size.cell import run_result
    from decouple.studies.actor_size.settings import ControlSettings

    files = [Path(settings.run_dir) / name for name in ("config.yaml", "result.json")]
    if not in_sweep() or settings.restart or not all(file.exists() for file in files):
        return None
    config, result = files
    before = defaults_of(settings) | read_yaml(config) | {"restart": False}  # which an older version did not have
    if isinstance(settings, ControlSettings):
        run_result(settings)
    same = before == dataclasses.asdict(settings)
    if not same or result.stat().st_mtime_ns < config.stat().st_mtime_ns:  # of an earlier session
        return None
    report = read_result(result)
    return report if report["frames"] >= settings.total_frames else None
