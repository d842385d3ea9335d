"""Results of a study's cells in one SQLite file, shared by any number of workers, killed ones among them.

    store = CellStore("runs/smallest_actor/cells.sqlite")
    batch = store.claim(cell, seeds=range(6), folder="toy/td3")         # the seeds that nobody trains yet
    store.renew(batch)                                                  # now and then, while it trains
    store.finish(batch, {0: -150.2, 1: -148.9, ...})
    store.returns(cell)                                                 # {seed: return}

A cell is a task, an algorithm, its settings, and the sizes of actor and critic; a batch is some seeds of one cell, to
be trained together. A seed is in one batch at most, so nothing is trained twice, and an added seed is a batch of its
own. A claim is held by a living process: on its own machine by a lock (`decouple.runs.locks`), which ends with the
process, so that the batch goes at once to the next who asks, and never while it lives. From another machine a claim is
seen by its renewals. One that has not changed for `lease` seconds while another process looks, by that process's clock,
is taken over with its run folder, and training goes on from the last checkpoint there.

Each change is a transaction, on the disk before the call returns, and a kill at any moment leaves it done or not begun.
The journal is SQLite's rollback journal: writes are rare (a claim, a renewal, a result), so a write-ahead log would
gain nothing, and it needs memory that all processes share, which a network file system cannot give
(https://www.sqlite.org/wal.html). On a network file system this file is as safe as its POSIX locks; where those are in
doubt, let one machine hold it and Ray train the cells. No two clocks are compared: they may differ, and jump.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decouple.checks import A_FILE, ANY_NUMBER, above, all_of, at_least, check_fields, check_seeds, checked
from decouple.runs.locks import FileLock
from decouple.version import VERSION

__all__ = ["Batch", "Cell", "CellStore"]

_FORMAT = 2
_TABLES = """
CREATE TABLE cells (
    id INTEGER PRIMARY KEY, task TEXT, algorithm TEXT, settings TEXT, actor TEXT, critic TEXT,
    UNIQUE (task, algorithm, settings, actor, critic)
);
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, cell INTEGER REFERENCES cells, first INTEGER, count INTEGER, run_dir TEXT,
    state TEXT, worker TEXT, heartbeat REAL, starts INTEGER, seconds REAL, error TEXT
);
CREATE TABLE results (
    cell INTEGER REFERENCES cells, seed INTEGER, batch INTEGER REFERENCES batches, return REAL NOT NULL,
    PRIMARY KEY (cell, seed)
);
CREATE TABLE searches (
    task TEXT, algorithm TEXT, settings TEXT, options TEXT, state TEXT, updated REAL, result TEXT,
    PRIMARY KEY (task, algorithm, settings, options)
);
"""
# Format 2 adds to each row the version of decouple that wrote it last, NULL for 0.1; format 1 is the tables above.
_VERSIONS = ("cells", "batches", "results", "searches")


@dataclass(frozen=True)
class Cell:
    """The owner of results. `settings` has all that can change a result, as text; equal settings give equal text."""

    task: str
    algorithm: str
    settings: str
    actor: tuple[int, ...]
    critic: tuple[int, ...]

    def __post_init__(self) -> None:
        check_fields(self, actor=all_of(at_least(1)), critic=all_of(at_least(1)))
        for name in ("actor", "critic"):  # a list serves as well, for an equal cell with an equal hash
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Batch:
    """Seeds of one cell that are trained together."""

    id: int
    first: int  # first seed
    count: int
    run_dir: str  # folder of its run
    state: str  # running, done, failed (an error) or released (interrupted)
    starts: int  # number of starts
    seconds: float  # seconds of training, up to the last renewal
    error: str | None  # error of a start that failed
    worker: str  # worker that has, or had, the claim
    version: str | None  # version of decouple that claimed it last; None: 0.1

    @property
    def seeds(self) -> range:
        return range(self.first, self.first + self.count)


class CellStore:
    """The results in `path`, which is made where it is missing. Threads and processes may share one or open several.

    Args:
        path: the SQLite file.
        lease: seconds without a renewal after which a worker of another machine counts as dead.

    Raises:
        ValueError: a file of a later format. One of 0.1 gets the columns that it lacks.
        sqlite3.DatabaseError: a file that is damaged or no SQLite database, or a full disk; it names the file. Every
            method may raise it.
    """

    @checked(path=A_FILE, lease=above(0))
    def __init__(self, path: str | os.PathLike[str], *, lease: float = 300.0) -> None:
        if not lease > 0:
            raise ValueError(f"lease must be positive, in seconds; got {lease!r}")
        self.path, self.lease = Path(path), lease
        self._seen: dict[int, tuple[tuple, float]] = {}  # batch -> another machine's claim, and when it was first seen
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found == 0:
                for statement in _TABLES.split(";"):
                    db.execute(statement)
            if found < _FORMAT:
                for table in _VERSIONS:
                    db.execute(f"ALTER TABLE {table} ADD COLUMN version TEXT")
                db.execute(f"PRAGMA user_version = {_FORMAT}")
        if found > _FORMAT:
            raise ValueError(f"{path} is in format {found}, and this version of decouple reads format {_FORMAT}")

    @checked()
    def claim(self, cell: Cell, seeds: Iterable[int], folder: str) -> Batch | None:
        """Claim those of the seeds that have no result and no living worker; None where there are none.

        A batch whose worker died, was interrupted or met an error is claimed as it was. New seeds become a batch of
        their own, as many as are consecutive.

        Args:
            cell, seeds: the cell, and the seeds that are wanted, at least one and none twice.
            folder: folder of the cell's runs, relative to the store's, so that both can be moved together.
        """
        seeds = check_seeds(list(seeds))
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO cells VALUES (NULL, ?, ?, ?, ?, ?, ?)", [*_row(cell), VERSION])
            number = self._number(db, cell)
            missing = set(seeds) - {seed for (seed,) in db.execute("SELECT seed FROM results WHERE cell = ?", [number])}
            unfinished = "SELECT * FROM batches WHERE cell = ? AND state != 'done' ORDER BY id"
            for row in db.execute(unfinished, [number]).fetchall():
                of_batch = missing & set(range(row["first"], row["first"] + row["count"]))
                if of_batch and not self._alive(row):
                    return self._take(db, row["id"])
                missing -= of_batch
            if not missing:
                return None
            first = min(missing)
            count = next(n for n in range(1, len(missing) + 1) if first + n not in missing)
            insert = "INSERT INTO batches VALUES (NULL, ?, ?, ?, ?, 'running', '', 0, 0, 0, NULL, NULL)"
            values = [number, first, count, f"{folder}/seeds{first}_{count}"]
            return self._take(db, db.execute(insert, values).lastrowid)

    @checked()
    def renew(self, batch: Batch) -> bool:
        """Renew the claim on a batch in training; False where another worker has it by now."""
        with self._transaction() as db:
            held = self._beat(db, batch, "running")
        if not held:
            self._let_go(batch)
        return held

    @checked(returns=ANY_NUMBER)
    def finish(self, batch: Batch, returns: Mapping[int, float | None]) -> bool:
        """Record the results, one for each seed of the batch; False, with nothing done, where another worker has it.

        A return that is None, or not finite, is recorded as -inf: the agent failed.

        Raises:
            ValueError: returns of other seeds.
        """
        if sorted(returns) != list(batch.seeds):
            raise ValueError(f"returns must be of the seeds {list(batch.seeds)}; got {sorted(returns)}")
        with self._transaction() as db:
            held = self._beat(db, batch, "done")
            if held:
                (number,) = db.execute("SELECT cell FROM batches WHERE id = ?", [batch.id]).fetchone()
                rows = [(number, seed, batch.id, _recorded(value), VERSION) for seed, value in returns.items()]
                db.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?)", rows)
        self._let_go(batch)
        return held

    @checked(returns=all_of(ANY_NUMBER, least=1), seconds=at_least(0))
    def add(self, cell: Cell, returns: Mapping[int, float | None], *, seconds: float, version: str | None) -> list[int]:
        """Record results that were trained elsewhere; returns the seeds that were added.

        A seed with a result keeps it, and one in a batch that is not done is left to that batch. `seconds` is the time
        that they took to train, `version` that of decouple which trained them, None for 0.1.
        """
        check_seeds(list(returns))
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO cells VALUES (NULL, ?, ?, ?, ?, ?, ?)", [*_row(cell), version])
            number = self._number(db, cell)
            has = {seed for (seed,) in db.execute("SELECT seed FROM results WHERE cell = ?", [number])}
            for row in db.execute("SELECT first, count FROM batches WHERE cell = ? AND state != 'done'", [number]):
                has |= set(range(row["first"], row["first"] + row["count"]))
            added = sorted(set(returns) - has)
            insert = "INSERT INTO batches VALUES (NULL, ?, ?, 1, 'elsewhere', 'done', '', 0, 0, ?, NULL, ?)"
            for seed in added:
                batch = db.execute(insert, [number, seed, seconds / len(returns), version]).lastrowid
                values = [number, seed, batch, _recorded(returns[seed]), version]
                db.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?)", values)
        return added

    @checked()
    def release(self, batch: Batch, error: str | None = None) -> None:
        """Give the batch back: interrupted, or with the error that it met."""
        with self._transaction() as db:
            if self._beat(db, batch, "failed" if error else "released"):
                db.execute("UPDATE batches SET error = ? WHERE id = ?", [error, batch.id])
        self._let_go(batch)

    def cells(self) -> list[Cell]:
        """Each cell that was ever claimed, with results or without, in the order of claims."""
        with self._transaction("DEFERRED") as db:
            rows = db.execute("SELECT task, algorithm, settings, actor, critic FROM cells ORDER BY id").fetchall()
        return [Cell(*row[:3], *(tuple(json.loads(size)) for size in row[3:])) for row in map(tuple, rows)]

    @checked()
    def returns(self, cell: Cell) -> dict[int, float]:
        """Seed -> return, for the seeds that are done."""
        with self._transaction("DEFERRED") as db:
            rows = db.execute("SELECT seed, return FROM results WHERE cell = ?", [self._number(db, cell)]).fetchall()
            return dict(sorted(map(tuple, rows)))

    @checked()
    def batches(self, cell: Cell) -> list[Batch]:
        """Each batch of the cell, in the order in which they were first claimed."""
        with self._transaction("DEFERRED") as db:
            rows = db.execute("SELECT * FROM batches WHERE cell = ? ORDER BY id", [self._number(db, cell)])
            return [self._batch(row) for row in rows]

    @checked()
    def record_search(
        self,
        task: str,
        algorithm: str,
        settings: str,
        options: Mapping[str, Any],
        state: str,
        result: Mapping[str, Any],
    ) -> None:
        """Record a search's result so far, in place of the same search's earlier one."""
        key = [task, algorithm, settings, json.dumps(options, sort_keys=True)]
        with self._transaction() as db:
            values = [*key, state, time.time(), json.dumps(result), VERSION]
            db.execute("INSERT OR REPLACE INTO searches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def searches(self) -> list[dict[str, Any]]:
        """Each search: task, algorithm, settings, options, state, updated (seconds since 1970), result and version."""
        with self._transaction("DEFERRED") as db:
            rows = [
                dict(row) for row in db.execute("SELECT * FROM searches ORDER BY task, algorithm, settings, options")
            ]
        return [row | {name: json.loads(row[name]) for name in ("settings", "options", "result")} for row in rows]

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """A transaction on a new connection: threads and forked processes share none. DEFERRED is for reading."""
        try:
            db = sqlite3.connect(self.path, timeout=60, isolation_level=None)  # seconds to wait for another's lock
            with contextlib.closing(db):
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA synchronous = EXTRA")  # the journal's removal is on the disk too
                db.execute(f"BEGIN {kind}")  # a writer locks before it reads
                with db:  # commits, or rolls back where an exception passes
                    yield db
        except sqlite3.DatabaseError as error:
            raise type(error)(f"{self.path}: {error}{_advice(str(error))}") from error

    def _number(self, db: sqlite3.Connection, cell: Cell) -> int | None:
        select = "SELECT id FROM cells WHERE (task, algorithm, settings, actor, critic) = (?, ?, ?, ?, ?)"
        row = db.execute(select, _row(cell)).fetchone()
        return row and row["id"]

    def _take(self, db: sqlite3.Connection, number: int | None) -> Batch:
        update = """UPDATE batches SET state = 'running', worker = ?, heartbeat = ?, starts = starts + 1, version = ?
                    WHERE id = ?"""
        worker = f"{_processes_of()} {os.getpid()} {secrets.token_hex(8)}"  # unique to this claim
        _CLAIMS[worker] = FileLock(self._claim_file(worker)), time.monotonic()
        db.execute(update, [worker, time.time(), VERSION, number])
        return self._batch(db.execute("SELECT * FROM batches WHERE id = ?", [number]).fetchone())

    def _claim_file(self, worker: str) -> Path:
        """The file that is locked while a claim lasts."""
        return self.path.with_name(f".{self.path.name}.{worker.rsplit(' ', 1)[1]}.claim")

    def _batch(self, row: sqlite3.Row) -> Batch:
        names = ("id", "first", "count", "state", "starts", "seconds", "error", "worker", "version")
        return Batch(run_dir=str(self.path.parent / row["run_dir"]), **{name: row[name] for name in names})

    def _beat(self, db: sqlite3.Connection, batch: Batch, state: str) -> bool:
        """Add the time since the last beat and set the state; returns whether the worker still has the batch."""
        _, since = _CLAIMS.get(batch.worker, (None, None))
        elapsed = 0.0 if since is None else time.monotonic() - since
        update = """UPDATE batches SET state = ?, seconds = seconds + ?, heartbeat = ?
                    WHERE id = ? AND worker = ? AND state = 'running'"""
        held = db.execute(update, [state, elapsed, time.time(), batch.id, batch.worker]).rowcount == 1
        if batch.worker in _CLAIMS and held and state == "running":
            _CLAIMS[batch.worker] = _CLAIMS[batch.worker][0], time.monotonic()
        return held

    def _let_go(self, batch: Batch) -> None:
        """Release a claim's lock, once its end is written: on a full disk the claim is still this process's."""
        lock, _ = _CLAIMS.pop(batch.worker, (None, None))
        if lock:
            lock.release(delete=True)

    def _alive(self, batch: sqlite3.Row) -> bool:
        """Whether a worker is training the batch, as far as this machine can tell."""
        if batch["state"] != "running":
            return False
        processes, process, _ = batch["worker"].rsplit(" ", 2)
        if _machine(processes) == _machine(_processes_of()):
            locked = self._locked(batch["worker"])
            if locked is not None:
                return locked
            if processes == _processes_of():  # a claim of 0.1, or no locks here
                return _runs(int(process))
        claim, now = (batch["worker"], batch["heartbeat"]), time.monotonic()
        before, since = self._seen.get(batch["id"], (None, now))
        if claim != before:
            self._seen[batch["id"]] = claim, now
            return True
        return now - since <= self.lease

    def _locked(self, worker: str) -> bool | None:
        """Whether a claim's lock is held; None where it has none, or the file system has none."""
        file = self._claim_file(worker)
        if not file.exists():
            return None
        try:
            lock = FileLock(file)
        except BlockingIOError:
            return True
        lock.release(delete=lock.exclusive)
        return False if lock.exclusive else None


# The claims of this process, in any store: worker -> its lock, and the time of its last renewal.
_CLAIMS: dict[str, tuple[FileLock, float]] = {}


def _advice(error: str) -> str:
    """Advice on an error of SQLite's, chosen by its text."""
    advice = {
        "not a database": "it must be a store of decouple; choose another run_dir, or move it away",
        "malformed": "it is damaged: put a whole copy back, or move it away, and its cells are trained anew",
        "full": "the disk has no room; what was recorded before stays, and the same command goes on",
        "disk I/O error": "the disk may have no room, or fail; what was recorded before stays",
        "unable to open": "it must be a file, in a folder that can be written",
        "readonly": "it must be a file that can be written",
        "locked": "another process has been writing to it for a minute",
    }
    return next((f"; {text}" for part, text in advice.items() if part in error), "")


def _recorded(value: float | None) -> float:
    """The return that is recorded: -inf where the agent failed."""
    return -math.inf if value is None or not math.isfinite(value) else float(value)


def _row(cell: Cell) -> tuple[str, ...]:
    return cell.task, cell.algorithm, cell.settings, json.dumps(cell.actor), json.dumps(cell.critic)


def _processes_of() -> str:
    """Name of the system in which process numbers are unique: a machine since its boot, on Linux with a namespace."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _machine(processes: str) -> str:
    return processes.partition(" pid:")[0]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
