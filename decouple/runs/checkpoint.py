"""Checkpoints: a run's whole state in one file, which a killed process or a full disk cannot leave half-written.

    save_checkpoint("runs/one/checkpoint.pt", {"settings": settings, "frames": frames, "model": model.state_dict(),
                                               "optimizer": optimizer.state_dict(), "rng": rng_state()})
    state = load_checkpoint("runs/one/checkpoint.pt", expect=settings)
    set_rng_state(state["rng"])

The file is one line of text (format version, SHA-256, length), followed by the output of `torch.save`. It is written
under a temporary name beside its destination, flushed to the disk, and then renamed: under the final name there is
always the whole old file or the whole new one. Loading refuses a file that is cut short or altered, and anything but
plain data: `torch.load` runs with `weights_only=True`, so that a file from a stranger cannot run code. The file also
holds the version of decouple that wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from decouple.checks import A_FILE, TEXTS_BY_NAME, at_least, check_setting, checked
from decouple.runs.files import naming_file
from decouple.runs.locks import BEGIN_ANEW
from decouple.runs.metrics import check_run_files, read_table, rows_up_to, table_sum
from decouple.runs.rules import idle_settings, rule_text
from decouple.version import VERSION, written_by

__all__ = [
    "CheckpointError",
    "checkpoint_digest",
    "checkpoint_exists",
    "frames_to_resume",
    "load_checkpoint",
    "reading_checkpoint",
    "save_checkpoint",
]

_FORMAT = 1
_WRITTEN_BY = "decouple version"  # key in the state: the version that wrote the file; missing in files of 0.1
_RECORD = "decouple record"  # key in the state: facts about the files beside the checkpoint
_HEADER = re.compile(rb"decouple checkpoint (\d{4}) sha256 ([0-9a-f]{64}) bytes (\d{20})\n")
_HEADER_BYTES = len(b"decouple checkpoint 0001 sha256 \n bytes ") + 64 + 20
_CHUNK_BYTES = 1 << 20
_MISSING = object()
_NUMBERS_AND_TEXT = (bool, int, float, complex, str, bytes, type(None))
_LEAVES = (*_NUMBERS_AND_TEXT, Tensor, torch.nn.Parameter, torch.Size, torch.device, torch.dtype)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file, what is wrong with it and what to do."""


def save_checkpoint(
    path: str | os.PathLike[str], state: dict[Any, Any], *, record: Mapping[str, str] | None = None
) -> None:
    """Write `state` to `path` so that a kill at any moment leaves the whole old file or the whole new one.

    Only one process at a time may save to a path. Temporary files of earlier, killed saves to it are removed.

    Args:
        path: the file; its folder is made where it is missing.
        state: tensors (any device), numbers, strings, bytes, None, and lists, tuples and dicts of them, with strings
            or numbers as keys. The entry "settings" is the one that `load_checkpoint(expect=...)` compares.
        record: facts about the files beside the checkpoint, from `Tracker.marks`, which `frames_to_resume` checks;
            not part of the state that `load_checkpoint` returns.

    Raises:
        TypeError: `state` is not a dict, or holds a value that `load_checkpoint` would refuse; the message says where.
        OSError: the disk is full or the folder cannot be written; the file under `path` is unchanged.
    """
    check_setting("path", path, A_FILE)
    if record is not None:
        check_setting("record", record, TEXTS_BY_NAME)
    if not isinstance(state, dict):
        raise TypeError(f"state must be a dict; got {type(state).__name__}")
    _check_plain(state, "state")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    of_a_killed_save = re.compile(rf"\.{re.escape(path.name)}\.\d+-[0-9a-f]{{8}}\.tmp")
    for entry in path.parent.iterdir():
        if of_a_killed_save.fullmatch(entry.name):
            entry.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming_file(path), open(temporary, "xb") as file:
            file.write(bytes(_HEADER_BYTES))  # room for the header, whose SHA-256 is known at the end
            writer = _HashingWriter(file)
            try:
                # It calls nothing of the writer but write and flush.
                torch.save({**state, _WRITTEN_BY: VERSION, _RECORD: dict(record or {})}, writer)
            except RuntimeError as error:
                raise writer.failed or error from None  # torch's error says only that bytes are missing
            file.seek(0)
            digest = writer.sha256.hexdigest()
            file.write(b"decouple checkpoint %04d sha256 %s bytes %020d\n" % (_FORMAT, digest.encode(), writer.length))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@checked()
def load_checkpoint(path: str | os.PathLike[str], *, expect: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, with all tensors on the CPU.

    Args:
        path: the file.
        expect: settings that must equal `state["settings"]`: the same keys, the same values. Nested dicts and dotted
            keys (`{"env": {"game": ...}}`, `{"env.game": ...}`) count as equal, and so do a list and a tuple. Those
            that are idle on both sides (`decouple.runs.rules.idle_settings`) may differ.

    Returns:
        The state as it was saved.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is cut short, altered, no checkpoint or of another format; or settings differ, which
            the message lists with both values.
    """
    return _load(Path(path), expect)[0]


def _load(path: Path, expect: Mapping[str, Any] | None) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The state, and the record of the files beside the checkpoint."""
    with open(path, "rb") as file:
        _check_content(path, file)
        file.seek(_HEADER_BYTES)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            message = f"{path}: its content is whole, but this torch ({torch.__version__}) cannot read it ({error}); "
            raise CheckpointError(message + "load it with the version of torch that saved it") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} must hold a dict, and holds a {type(state).__name__}; save it again")
    version, record = state.pop(_WRITTEN_BY, None), state.pop(_RECORD, {})
    if expect is not None:
        _check_settings(path, state, expect, version)
    return state, record


@checked()
@contextlib.contextmanager
def reading_checkpoint(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """A context for code that uses a checkpoint's content: errors inside it become a CheckpointError with the file.

    Args:
        path: the checkpoint.
        what: name of the expected content for the message, as "agents of train_agents".

    Raises:
        CheckpointError: the content does not fit: a key is missing, a shape differs.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} must hold {what}, of settings that this version knows; its content gave {error!r}"
        ) from error


@checked(total_frames=at_least(1), frames_per_iteration=at_least(1))
def frames_to_resume(
    run_dir: str | os.PathLike[str],
    expect: Mapping[str, Any],
    *,
    total_frames: int,
    frames_per_iteration: int,
) -> int | None:
    """The frame count at which a run in this folder resumes; None in a fresh folder.

    Args:
        run_dir: the run's folder, with `metrics.csv` and `checkpoint.pt`, whose state holds `frames` or `iteration`.
        expect: settings that the checkpoint must have, as for `load_checkpoint`.
        total_frames, frames_per_iteration: length of the run, rounded up to whole iterations.

    Raises:
        CheckpointError: the checkpoint is damaged, has other settings or rules, or is missing although metrics.csv has
            rows; or metrics.csv is not the one that was there when the checkpoint was written.
        ValueError: the run in the folder already has more than `total_frames`; or metrics.csv, config.yaml or
            record.json is damaged.
    """
    folder = Path(run_dir)
    table = folder / "metrics.csv"
    rows: list[list[str]] = []
    if table.exists() and table.stat().st_size:
        check_run_files(folder)
        rows = read_table(table)[1]
    if not checkpoint_exists(folder / "checkpoint.pt"):
        # The first checkpoint is written before anything is trained: a table without one has no rows.
        if rows:
            raise CheckpointError(
                f"{folder / 'checkpoint.pt'} is gone, and {table} has rows up to {int(rows[-1][0]):,} frames; put the "
                f"checkpoint back, or {BEGIN_ANEW}"
            )
        return 0 if table.exists() else None
    state, record = _load(folder / "checkpoint.pt", expect)
    done = state["frames"] if "frames" in state else state["iteration"] * frames_per_iteration
    if done >= total_frames + frames_per_iteration:
        raise ValueError(
            f"total_frames must be at least {done:,}, as far as the run in {run_dir} has come (or choose another "
            f"run_dir); got {total_frames:,}"
        )
    if table.exists():
        _check_table(table, rows, done, record)
    return done


def _check_table(table: Path, rows: list[list[str]], done: int, record: Mapping[str, str]) -> None:
    """Refuse a table whose rows up to the checkpoint are missing or have changed since."""
    if done and str(done) not in (row[0] for row in rows):
        last = f"rows up to {int(rows[-1][0]):,} frames" if rows else "no rows"
        raise CheckpointError(
            f"{table} was cut: it has {last}, and none of the checkpoint's {done:,}; put a whole copy of it back, "
            f"or {BEGIN_ANEW}"
        )
    if done and "table" in record and table_sum(*rows_up_to(table, done)) != record["table"]:
        raise CheckpointError(
            f"{table} is not what it was at the checkpoint's {done:,} frames (SHA-256 differs); put a whole copy of it "
            f"back, or {BEGIN_ANEW}"
        )


@checked()
def checkpoint_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 that a checkpoint's first line gives for its content; empty where the line is damaged."""
    with open(path, "rb") as file:
        header = _HEADER.fullmatch(file.read(_HEADER_BYTES))
    return header[2].decode() if header else ""


@checked()
def checkpoint_exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint to resume from.

    Raises:
        CheckpointError: `path` is a link to a file that is gone.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"{path} is a link to {os.readlink(path)}, which is gone; put that file back, or {BEGIN_ANEW}"
        )
    return path.exists()


class _HashingWriter:
    """A file with the two methods that `torch.save` calls; computes the SHA-256 of the bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.length = 0
        self.failed: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write `data` to the file."""
        self.sha256.update(data)
        self.length += len(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        try:
            self.file.flush()
        except OSError as error:
            self.failed = error
            raise


def _check_content(path: Path, file: BinaryIO) -> None:
    """Refuse a file whose header, length or SHA-256 is wrong."""
    advice = f"go back to an older copy of it, or {BEGIN_ANEW}"
    header = _HEADER.fullmatch(file.read(_HEADER_BYTES))
    size = os.fstat(file.fileno()).st_size
    if header is None and size < _HEADER_BYTES:
        raise CheckpointError(f"{path} is truncated: it has {size} bytes, less than its first line; {advice}")
    if header is None:
        raise CheckpointError(f"{path} is no checkpoint of decouple, or its first line is corrupt; {advice}")
    version, digest, length = int(header[1]), header[2].decode(), int(header[3])
    if version != _FORMAT:
        message = f"{path} is in format {version}, and this version of decouple reads format {_FORMAT}; "
        raise CheckpointError(message + "load it with the version of decouple that saved it")
    if size != _HEADER_BYTES + length:
        message = f"{path} is truncated or was appended to: it has {size} bytes"
        raise CheckpointError(f"{message}, and {_HEADER_BYTES + length} were saved; {advice}")
    found = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        found.update(chunk)
    if found.hexdigest() != digest:
        raise CheckpointError(f"{path} is corrupt: its bytes are not those that were saved (SHA-256 differs); {advice}")


def _check_settings(path: Path, state: Mapping[str, Any], expect: Mapping[str, Any], version: str | None) -> None:
    """Refuse a checkpoint whose settings, or the rules among them, differ from `expect`."""
    if not isinstance(state.get("settings"), Mapping):
        raise CheckpointError(f"{path} holds no settings to compare with; save them under state['settings']")
    saved, wanted = dict(_flatten(state["settings"])), dict(_flatten(expect))
    other_algorithm = saved.get("algorithm") != wanted.get("algorithm")
    rules, settings, alone = [], [], 0  # alone: how many settings only one of the two has
    for key in sorted((saved.keys() | wanted.keys()) - (idle_settings(saved) & idle_settings(wanted))):
        there, here = saved.get(key, _MISSING), wanted.get(key, _MISSING)
        if there == here or (there != there and here != here):
            continue
        if other_algorithm and _MISSING in (here, there):  # each algorithm has settings, and rules, of its own
            alone += 1
        elif key.startswith("rules."):
            numbers = [None if value is _MISSING else value for value in (there, here)]
            rules.append(rule_text(key.removeprefix("rules."), *numbers))
        else:
            sides = ["no such setting" if value is _MISSING else repr(value) for value in (there, here)]
            settings.append(f"{key}: checkpoint has {sides[0]}, this run has {sides[1]}")
    settings += [f"and {alone} settings that only one of the two has"] * bool(alone)
    if rules:
        advice = f"start a new run in another folder or with restart=true, or go on with {written_by(version)}"
        raise CheckpointError(
            f"{path}, written by {written_by(version)}, is from a run under other rules; {advice}:\n  "
            + "\n  ".join(rules + settings)
        )
    if settings:
        advice = "go on with the checkpoint's settings, or start a new run in another folder or with restart=true"
        raise CheckpointError(
            f"{path}, written by {written_by(version)}, is from a run with other settings; {advice}:\n  "
            + "\n  ".join(settings)
        )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its dotted key; an empty dict is a setting too."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _without_tuples(value)


def _without_tuples(value: Any) -> Any:
    """`value` with lists in place of tuples, as YAML returns it."""
    return [_without_tuples(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check_plain(value: Any, where: str) -> None:
    """Refuse a value that `torch.load(weights_only=True)` would not read back."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) not in (str, int, float, bool):
                raise TypeError(f"{where} must have strings or numbers as keys; got {key!r}")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif type(value) not in _LEAVES:
        allowed = "a tensor, number, string, bytes, None, or a list, tuple or dict of those"
        raise TypeError(f"{where} must be {allowed}; got {type(value).__module__}.{type(value).__qualname__}")


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, where the system can (not on Windows)."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
