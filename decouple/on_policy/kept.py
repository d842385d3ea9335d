"""Rollouts of the past, for phases that learn from several: kept in memory or on a disk, and written once for a resume.

    kept = KeptRollouts(phases, Path("runs/one"), on_disk=False)
    kept.add(batch, iteration)                         # a flat rollout (B,)
    kept.frames()                                      # the last rollouts, (past B,)
    state = kept.save(iterations)                      # writes the files that are not there yet; their checksums
    kept.tidy(state)                                   # deletes what a killed run has left beside the checkpoint

A checkpoint holds no rollouts. Each lies in a file of its own beside it, which is written once and deleted when no
phase needs it any more, and whose checksum is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import MemoryMappedTensor, NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.runs.checkpoint import CheckpointError, checkpoint_digest, load_checkpoint, save_checkpoint
from decouple.runs.files import reserve_file
from decouple.runs.locks import BEGIN_ANEW

__all__ = ["KeptRollouts", "check_room", "idle_text", "kept_bytes", "kept_text", "runs_on"]

FOLDER = "rollouts"  # folder of the kept rollouts beside a checkpoint
MAPPED = ".memory-"  # beginning of the name of the folder of memory-mapped files in it
_OF_A_ROLLOUT = re.compile(r"\d{7,}\.pt|\.\d{7,}\.pt\.\d+-[0-9a-f]{8}\.tmp")  # its file, and a killed save's


def runs_on(phase: Any, iteration: int) -> bool:
    """Whether a phase runs on this rollout, counted from 0."""
    since = iteration - getattr(phase, "start", 0)
    return since >= 0 and since % phase.every == 0


def kept_bytes(phases: Sequence[Any], env: EnvBase, rollout_steps: int) -> int:
    """Bytes of the rollouts that phases learn from together; 0 where each learns from one.

    Args:
        phases: the algorithm's phases.
        env: environment whose specs give the size of a frame; what is not the environment's has four bytes a frame.
        rollout_steps: steps of a rollout.
    """
    games, total = env.batch_size.numel(), 0
    for key in _keys(phases):
        spec = env.action_spec if key == env.action_key else env.observation_spec.get(key, None)
        total += 4 * games if spec is None else spec.shape.numel() * spec.dtype.itemsize
    return _past(phases) * rollout_steps * total


def kept_text(phases: Sequence[Any], env: EnvBase, rollout_steps: int) -> str:
    """What `kept_bytes` finds, as the end of a line on a run; empty where it is nothing."""
    needed = kept_bytes(phases, env, rollout_steps)
    return f"; keeps {_past(phases)} rollouts, {_size(needed)}" if needed else ""


def idle_text(phases: Sequence[Any], total_frames: int, frames: int) -> str:
    """Which phases a run is too short for, as the end of a line on it; empty where all of them run.

    Args:
        phases: the algorithm's phases.
        total_frames: length of the run.
        frames: frames of one agent in a rollout.
    """
    rollouts = -(-total_frames // frames)
    idle = [phase for phase in phases if getattr(phase, "start", 0) >= rollouts]
    return "".join(
        f"; its {phase.name} phase never runs: it comes after {phase.start + 1} rollouts, and the run has {rollouts}"
        for phase in idle
    )


def check_room(
    phases: Sequence[Any],
    env: EnvBase,
    rollout_steps: int,
    folder: Path | None,
    *,
    on_disk: bool,
    checkpoints: Sequence[int] = (),
) -> None:
    """Raise ValueError where the rollouts that phases learn from do not fit in memory, or on the disk.

    On the disk lie the memory-mapped file, with `on_disk`, and the files beside a checkpoint; what is in their folder
    already counts as free.

    Args:
        phases, env, rollout_steps: as for `kept_bytes`.
        folder: the checkpoint's folder; None where the run writes no checkpoint.
        on_disk: whether they are kept in a memory-mapped file.
        checkpoints: numbers of rollouts after which a checkpoint is written.
    """
    needed = kept_bytes(phases, env, rollout_steps)
    if not needed:
        return
    if not on_disk and needed > (room := _free_memory()):
        what = f"they need {_size(needed)}, and {_size(room)} of memory are free"
        raise ValueError(f"rollouts_in must be disk, or fewer rollouts kept (auxiliary_past): {what}; got memory")
    files = 0 if folder is None else _most_files(phases, checkpoints) * (needed // _past(phases))
    stored, room = files + needed * on_disk, _free_disk(folder) + _held(folder)
    if stored > room:
        what = f"they need {_size(stored)}{', with those beside the checkpoint' * bool(files)}"
        what += f", and {_size(room)} are free on the disk; got {'disk' if on_disk else 'memory'}"
        raise ValueError(f"rollouts_in must be of fewer rollouts (auxiliary_past): {what}")


def _size(number: float) -> str:
    unit = 2 if number >= 1e8 else 1
    return f"{number / 1000 ** (unit + 1):,.1f} {('MB', 'GB')[unit - 1]}"


def _free_memory() -> float:
    """Bytes that can be had without swapping; infinity where the system does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return math.inf


def _free_disk(folder: Path | None) -> float:
    place = Path(tempfile.gettempdir()) if folder is None else folder
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)


def _held(folder: Path | None) -> int:
    """Bytes that an earlier session has written to the folder of kept rollouts."""
    files = [] if folder is None else (folder / FOLDER).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _past(phases: Sequence[Any]) -> int:
    return max((getattr(phase, "past", 1) for phase in phases), default=1)


def _needed(phases: Sequence[Any], iterations: int) -> list[int]:
    """Numbers of the rollouts done that the next runs of phases that learn from several learn from."""
    needed: set[int] = set()
    for phase in phases:
        if (past := getattr(phase, "past", 1)) > 1:
            due = iterations
            while not runs_on(phase, due):
                due += 1
            needed |= set(range(max(0, due - past + 1), iterations))
    return sorted(needed)


def _most_files(phases: Sequence[Any], checkpoints: Sequence[int]) -> int:
    """Most rollouts that have a file at once: while a checkpoint is written, those of the last one are there too."""
    needed = [set(_needed(phases, iterations)) for iterations in checkpoints[:1000]]  # by then they come again
    return max((len(last | new) for last, new in zip([set(), *needed], needed, strict=False)), default=0)


def _keys(phases: Sequence[Any]) -> list[NestedKey]:
    """The keys that phases read in rollouts of the past."""
    keys = [key for phase in phases if getattr(phase, "past", 1) > 1 for key in phase.keeps]
    return list(dict.fromkeys(keys))


def _on_its_own(value: Tensor) -> Tensor:
    """A copy of a tensor, since a file would hold all the memory that it is a part of, and none that is mapped."""
    return value.as_subclass(Tensor).clone(memory_format=torch.contiguous_format)


class KeptRollouts:
    """The last rollouts, (past B,) or (S, past B), without what no phase reads.

    Args:
        phases: the algorithm's phases; those with `past` above 1 say what they read, and how many rollouts.
        folder: the checkpoint's folder; None where the run writes no checkpoint.
        on_disk: keep them in a memory-mapped file in that folder, or where there is none in the system's folder for
            temporary files. Its place on the disk is reserved at the first rollout; OSError where there is none.

    Raises:
        ValueError: phases that learn from different numbers of past rollouts.
    """

    def __init__(self, phases: Sequence[Any], folder: Path | None, *, on_disk: bool):
        self.phases = [phase for phase in phases if getattr(phase, "past", 1) > 1]
        numbers = sorted({phase.past for phase in self.phases})
        if len(numbers) > 1:
            raise ValueError(f"past must be the same for all phases that learn from several rollouts; got {numbers}")
        self.past = numbers[0] if numbers else 0
        self.keys, self.on_disk = _keys(phases), on_disk
        self.folder = None if folder is None else folder / FOLDER
        self.memory: TensorDictBase | None = None
        self.length, self.filled = 0, 0  # frames of a rollout; rollouts that the memory holds
        self.scratch: tempfile.TemporaryDirectory | None = None
        self.digests: dict[int, str] = {}  # of the rollouts that have a file, by their number

    def add(self, batch: TensorDictBase, iteration: int) -> None:
        """Keep a flat rollout, (B,) or (S, B), the run's rollout of this number, in place of the oldest."""
        if not self.past or not any(self._learns(phase, iteration) for phase in self.phases):
            return
        own = batch.select(*self.keys)
        if self.memory is None:
            self.length, self.memory = own.shape[-1], self._reserve(own)
        self._slot(iteration).update_(own.cpu())
        self.filled = min(iteration + 1, self.past)

    def frames(self) -> TensorDictBase:
        """The last rollouts, as many as there are, in one batch; what is added to it is not kept."""
        assert self.memory is not None
        return self.memory[..., : self.filled * self.length].copy()

    def _slot(self, iteration: int) -> TensorDictBase:
        assert self.memory is not None
        begin = iteration % self.past * self.length
        return self.memory[..., begin : begin + self.length]

    def _reserve(self, like: TensorDictBase) -> TensorDictBase:
        batch = torch.Size([*like.shape[:-1], self.past * like.shape[-1]])
        if self.on_disk:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            self.scratch = tempfile.TemporaryDirectory(prefix=MAPPED, dir=self.folder)
        memory = TensorDict({}, batch)
        for number, key in enumerate(like.keys(True, True)):
            value: Any = like[key]
            shape = (*batch, *value.shape[like.ndim :])
            if self.scratch is None:
                memory[key] = torch.empty(shape, dtype=value.dtype)
                continue
            file, size = Path(self.scratch.name) / str(number), math.prod(shape) * value.dtype.itemsize
            try:
                reserve_file(file, size)  # else a disk that fills up later ends the process
            except OSError as error:
                self.close()
                raise OSError(f"no room for the rollouts in {file.parent}: {size:,} bytes; {error}") from error
            memory[key] = MemoryMappedTensor.empty(shape, dtype=value.dtype, filename=str(file), existsok=True)
        return memory

    # ------------------------------------------------------------------------------------------------ for a checkpoint

    def save(self, iterations: int, *, end: bool = False) -> dict[str, Any]:
        """Write the rollouts that a later phase needs and that have no file yet; what a checkpoint holds of them.

        Empty where no phase learns from several rollouts.

        Args:
            iterations: rollouts done so far.
            end: the run ends here and drops its rollouts: none is written.
        """
        if not self.past:
            return {}
        needed = _needed(self.phases, iterations)
        if self.folder is None or end:
            return {"kept": {"dropped": bool(needed), "files": {}}}
        for number in needed:
            if number not in self.digests:
                own = self._slot(number)
                frames: Any = own.apply(_on_its_own)
                state = {"batch_size": list(own.batch_size), "frames": frames.to_dict()}
                save_checkpoint(self._file(number), state)
                self.digests[number] = checkpoint_digest(self._file(number))
        return {"kept": {"dropped": False, "files": {str(number): self.digests[number] for number in needed}}}

    def forget(self, iterations: int, *, end: bool = False) -> None:
        """Delete the files that no later phase needs; called once a checkpoint that does not name them is written."""
        for number in self.digests.keys() - (set() if end else set(_needed(self.phases, iterations))):
            del self.digests[number]
            self._file(number).unlink(missing_ok=True)

    def load(self, state: Mapping[str, Any], checkpoint: Path) -> None:
        """Read the rollouts that a checkpoint names; `state` is the run's.

        Raises:
            CheckpointError: a file that is gone, damaged, or not the checkpoint's; or a run that ended and dropped its
                rollouts.
        """
        kept = state["kept"] if self.past else {}
        if kept.get("dropped"):
            raise CheckpointError(
                f"{checkpoint} is of a run that had ended, and dropped the rollouts that a later phase learns from "
                f"(see keep_rollouts); {BEGIN_ANEW}"
            )
        for number, digest in sorted((int(name), digest) for name, digest in kept.get("files", {}).items()):
            file = self._file(number)
            if not file.exists() or checkpoint_digest(file) != digest:
                what = "is not the one that the checkpoint was written with" if file.exists() else "is gone"
                message = f"{file}, a rollout that a later phase learns from, {what}; put it back, or {BEGIN_ANEW}"
                raise CheckpointError(message)
            saved = load_checkpoint(file)
            self.add(TensorDict(saved["frames"], saved["batch_size"]), number)
            self.digests[number] = digest

    def tidy(self, state: Mapping[str, Any] | None) -> None:
        """Delete what a killed run has left beside its checkpoint: mapped files, and rollouts that it does not name.

        Args:
            state: what the checkpoint holds; None where there is none.
        """
        if not self.past or self.folder is None or not self.folder.is_dir():
            return
        named = {self._file(int(number)) for number in (state or {}).get("kept", {}).get("files", {})}
        for entry in self.folder.iterdir():
            if entry.name.startswith(MAPPED):
                shutil.rmtree(entry, ignore_errors=True)
            elif _OF_A_ROLLOUT.fullmatch(entry.name) and entry not in named:
                with contextlib.suppress(OSError):
                    entry.unlink()

    def close(self) -> None:
        """Release the memory, and delete its file where it is on a disk."""
        self.memory = None
        if self.scratch is not None:
            self.scratch.cleanup()

    def _learns(self, phase: Any, number: int) -> bool:
        """Whether a run of a phase learns from this rollout: one of it and the `past` - 1 that come after it."""
        return any(runs_on(phase, iteration) for iteration in range(number, number + self.past))

    def _file(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{number:07d}.pt"
