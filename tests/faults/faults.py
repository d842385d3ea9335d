"""Planted faults: are the tests, quick as they are, still the ones that notice?

    pip install coverage                                                   # not needed by the tests themselves
    python tests/faults/faults.py measure measured                         # the whole suite, with coverage: minutes
    python tests/faults/faults.py run measured                             # each patch of tests/faults/, minutes each
    python tests/faults/faults.py lost measured_before measured_after      # lines and branches no longer executed
    python tests/faults/faults.py draw --seed 1 --count 30 folder          # other faults, or when the patches are stale

A fault is one change of one line of decouple/ (`KINDS`), kept as a patch. `run` applies it to a clone of the last
commit and runs the tests that execute its statement, quickest first, up to the first that fails. What runs at import (a
default, a constant) is left to the tests that execute its file and those of its room.

`measure` follows processes that the tests start too, and knows for which test. What a fixture wider than one test
executes counts for every test of the fixture's file.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MANY = 60.0  # seconds of tests from which on they run in two processes

# ------------------------------------------------------------------------------------------------------------- to draw
FLIPPED = {"+": "-", "-": "+", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "and": "or"}
FLIPPED |= {"or": "and", "min": "max", "max": "min", "True": "False", "False": "True"}
SKIPPED = (ast.Raise, ast.Import, ast.ImportFrom)
KINDS = ("sign", "comparison", "off_by_one", "swapped", "and_or", "min_max", "truth")


class Fault(NamedTuple):
    """Bytes [start, end) of a file become `new`."""

    file: Path
    line: int
    kind: str
    start: int
    end: int
    new: bytes


def faults_of(file: Path) -> Iterator[Fault]:
    """Every fault that can be planted in a file."""
    source = file.read_bytes()
    starts = [0, *itertools.accumulate(len(line) for line in source.splitlines(keepends=True))]

    def span(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def fault(kind: str, start: int, end: int, new: bytes) -> Fault:
        return Fault(file, source.count(b"\n", 0, start) + 1, kind, start, end, new)

    def operator(kind: str, left: ast.AST, right: ast.AST, pattern: bytes) -> Iterator[Fault]:
        start, end = span(left)[1], span(right)[0]
        found = re.search(pattern, source[start:end])
        if found and b"#" not in source[start:end]:
            new = FLIPPED[found[0].decode()].encode()
            yield fault(kind, start + found.start(), start + found.end(), new)

    for node in executed(ast.parse(source)):
        match node:
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                yield from operator("sign", left, right, rb"[+-]")
            case ast.UnaryOp(op=ast.USub()):
                start, _ = span(node)
                yield fault("sign", start, start + 1, b"")
            case ast.Compare(left=left, comparators=[right]):
                yield from operator("comparison", left, right, rb"[<>]=?|[=!]=")
            case ast.BoolOp(values=[left, right, *_]):
                yield from operator("and_or", left, right, rb"\b(?:and|or)\b")
            case ast.Constant(value=bool()):
                yield fault("truth", *span(node), FLIPPED[str(node.value)].encode())
            case ast.Constant(value=int()):
                yield fault("off_by_one", *span(node), str(node.value + 1).encode())
            case ast.Call():
                start, end = span(node.func)
                name = re.search(rb"\b(?:min|max)$", source[start:end])
                if name:
                    yield fault("min_max", start + name.start(), end, FLIPPED[name[0].decode()].encode())
                elif len(node.args) > 1 and not any(isinstance(value, ast.Starred) for value in node.args[:2]):
                    (a, b), (c, d) = map(span, node.args[:2])
                    if source[a:b] != source[c:d]:
                        yield fault("swapped", a, d, source[c:d] + source[b:c] + source[a:b])


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below one, without annotations, decorators, imports, error messages and lists of public names."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            public = isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__"
            if (
                isinstance(child, ast.AST)
                and not public
                and not isinstance(child, ast.Raise | ast.Import | ast.ImportFrom)
            ):
                yield child
                yield from executed(child)


def draw(folder: Path, seed: int, count: int) -> None:
    """Write faults as patches: over the rooms in proportion to their lines, and over the kinds evenly."""
    chance = random.Random(seed)
    lines: collections.Counter[str] = collections.Counter()
    possible: dict[str, dict[str, list[Fault]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for file in sorted((ROOT / "decouple").rglob("*.py")):
        room = file.relative_to(ROOT / "decouple").parts[0]
        room = "" if room.endswith(".py") else room
        lines[room] += len(file.read_text().splitlines())
        for fault in faults_of(file):
            possible[room][fault.kind].append(fault)
    share = {room: count * of / lines.total() for room, of in lines.items()}
    drawn = {room: int(of) for room, of in share.items()}
    for room in sorted(share, key=lambda room: drawn[room] - share[room])[: count - sum(drawn.values())]:
        drawn[room] += 1

    folder.mkdir(parents=True, exist_ok=True)
    kinds = itertools.cycle(chance.sample(KINDS, len(KINDS)))
    rooms = [room for room in sorted(drawn) for _ in range(drawn[room])]
    for number, room in enumerate(rooms, start=1):
        kind = next(kind for kind in kinds if possible[room][kind])
        fault = possible[room][kind].pop(chance.randrange(len(possible[room][kind])))
        old = fault.file.read_bytes()
        new = old[: fault.start] + fault.new + old[fault.end :]
        name = str(fault.file.relative_to(ROOT))
        a, b = (text.decode().splitlines(keepends=True) for text in (old, new))
        patch = folder / f"{number:02}_{fault.file.stem}_{kind}.patch"
        patch.write_text("".join(difflib.unified_diff(a, b, f"a/{name}", f"b/{name}")))


# ---------------------------------------------------------------------------------------------------------- to measure
CONFIGURATION = """
[run]
branch = true
parallel = true
source = {tree}/decouple
data_file = {folder}/data
context = ${{FAULTS_TEST-}}
patch = fork, _exit
disable_warnings = no-data-collected, module-not-imported, module-not-measured, couldnt-parse
"""


def measure(folder: Path, tree: Path, arguments: list[str]) -> int:
    """Run the suite with coverage of every process; the folder gets data, of coverage, and seconds.json."""
    import coverage

    folder = folder.resolve()
    folder.mkdir(parents=True)
    settings = folder / "coveragerc"
    settings.write_text(CONFIGURATION.format(tree=tree.resolve(), folder=folder))
    variables = {"COVERAGE_PROCESS_START": str(settings), "PYTHONPATH": f"{tree.resolve()}:{HERE}"}
    command = [sys.executable, "-m", "pytest", "-p", "faults", "-q", "-p", "no:cacheprovider", *arguments]
    code = subprocess.run(command, cwd=tree, env={**os.environ, **variables, "FAULTS_FOLDER": str(folder)}).returncode
    measured = coverage.Coverage(data_file=folder / "data")
    measured.combine([str(folder)])
    measured.save()
    return code


if "FAULTS_FOLDER" in os.environ:  # this file as a plugin of pytest, in the processes of `measure`
    import coverage
    import pytest

    def count_for(name: str) -> str:
        """From here on, lines of this process and of those that it starts are of this test; returns the one before."""
        before = os.environ.get("FAULTS_TEST", "")
        os.environ["FAULTS_TEST"] = name
        coverage.Coverage.current().switch_context(name)
        return before

    os.register_at_fork(after_in_child=lambda: count_for(os.environ.get("FAULTS_TEST", "")))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
        count_for(item.nodeid)
        try:
            return (yield)
        finally:
            count_for("")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
        """A wider fixture is set up for the first test that asks for it, and tested by the others too."""
        if fixturedef.scope == "function":
            return (yield)
        before = count_for(f"{fixturedef.baseid}::*")
        try:
            return (yield)
        finally:
            count_for(before)

    seconds: collections.Counter[str] = collections.Counter()

    def pytest_runtest_logreport(report: pytest.TestReport) -> None:
        seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):
            Path(os.environ["FAULTS_FOLDER"], "seconds.json").write_text(json.dumps(seconds))


class Measured:
    """What `measure` left in a folder: lines, branches, and the tests that execute a line."""

    def __init__(self, folder: Path):
        import coverage

        self.data = coverage.CoverageData(str(folder / "data"))
        self.data.read()
        self.files = {file[file.rindex("/decouple/") + 1 :]: file for file in self.data.measured_files()}
        self.seconds: dict[str, float] = json.loads((folder / "seconds.json").read_text())

    def branches(self, file: str) -> set[tuple[int, int]]:
        """Steps from one line to the next that were taken; a negative line is the entry or exit of a function."""
        return set(self.data.arcs(self.files[file]) or ()) if file in self.files else set()

    def lines(self, file: str) -> set[int]:
        return set(self.data.lines(self.files[file]) or ()) if file in self.files else set()

    def tests(self, file: str, lines: Iterable[int]) -> set[str]:
        """Tests that execute one of the lines."""
        if file not in self.files:
            return set()
        contexts = self.data.contexts_by_lineno(self.files[file])
        found = {part for line in lines for name in contexts.get(line, ()) for part in name.split("|")}
        files = tuple(name[:-1] if name[0] != ":" else "" for name in found if name.endswith("::*"))
        return {test for test in self.seconds if test in found or (files and test.startswith(files))}


def lost(before: Measured, after: Measured) -> bool:
    """Print the executed lines and branches of each, and those that only the first executes."""
    gone = False
    for name, of in (("lines", Measured.lines), ("branches", Measured.branches)):
        counts = [sum(len(of(measured, file)) for file in measured.files) for measured in (before, after)]
        print(f"{name}: {counts[0]} before, {counts[1]} after")
        for file in sorted(before.files):
            if missing := sorted(of(before, file) - of(after, file)):
                gone = True
                print(f"  {file}: {', '.join(map(str, missing))}")
    return gone


# -------------------------------------------------------------------------------------------------------------- to run
def place(patch: Path) -> tuple[str, int]:
    """The file of a patch and the line that it changes."""
    lines = patch.read_text().splitlines()
    file, line = lines[0].removeprefix("--- a/"), int(re.match(r"@@ -(\d+)", lines[2])[1])
    return file, line + next(i for i, text in enumerate(lines[3:]) if text.startswith("-"))


def tests_of(patch: Path, measured: Measured) -> list[str]:
    """Tests that execute the statement that a patch changes, quickest first."""
    file, line = place(patch)
    tree = ast.parse((ROOT / file).read_text())
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt | ast.excepthandler) and node.lineno <= line <= node.end_lineno
    ]
    around.sort(key=lambda node: node.end_lineno - node.lineno)
    statement = around[0]
    inside = [node for node in around[1:] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):  # a default
        found = measured.tests(file, range(body[0].lineno, statement.end_lineno + 1))
    elif inside:
        found = measured.tests(file, range(statement.lineno, max(last, statement.lineno) + 1))
    else:
        found = set()
    if not found:
        room = tuple(f"{top}/{Path(file).parent.relative_to('decouple')}/" for top in ("tests", "decouple"))
        found = measured.tests(file, range(1, 10_000)) | {test for test in measured.seconds if test.startswith(room)}
    return sorted(found, key=lambda test: (measured.seconds[test], test))


def first_failure(tree: Path, tests: list[str], seconds: float, limit: float) -> str:
    """Run tests, which took so long once, up to the first that fails: its name, or what else came of it; "": none."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as names, tempfile.TemporaryFile("w+") as output:
        names.write("\n".join(tests))
        names.flush()
        many = ["-n", "2", "--dist", "worksteal"] if seconds > MANY else ["-n", "0"]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE", *many]
        variables = {**os.environ, "PYTHONPATH": str(tree)}
        options: dict[str, Any] = {"cwd": tree, "env": variables, "stdout": output, "stderr": subprocess.STDOUT}
        with subprocess.Popen([*command, f"@{names.name}"], start_new_session=True, **options) as process:
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"no end within {limit:.0f} s"
        output.seek(0)
        failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", output.read(), re.MULTILINE)
        return "" if code == 0 else failed[1] if failed else f"pytest's exit code {code}"


def run(measured: Measured, patches: list[Path], limit: float) -> None:
    """Print for each patch whether a test notices it, and which. A test that fails without it is left out."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(tree)], check=True)
        for patch in patches:
            started, tests = time.monotonic(), tests_of(patch, measured)
            of, failed = len(tests), ""
            while tests:
                subprocess.run(["git", "apply", str(patch.resolve())], cwd=tree, check=True)
                failed = first_failure(tree, tests, sum(measured.seconds[test] for test in tests), limit)
                subprocess.run(["git", "checkout", "--quiet", "."], cwd=tree, check=True)
                if failed not in tests or not first_failure(tree, [failed], 0, limit):
                    break
                tests.remove(failed)
            outcome = failed if failed.startswith("no end") else f"caught by {failed}" if failed else "survived"
            print(f"{patch.name}: {outcome} ({of} tests, {time.monotonic() - started:.0f} s)", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="write patches")
    drawing.add_argument("folder", type=Path, nargs="?", default=HERE)
    drawing.add_argument("--seed", type=int, default=0)
    drawing.add_argument("--count", type=int, default=30)
    measuring = commands.add_parser("measure", help="run the suite with coverage")
    measuring.add_argument("folder", type=Path, help="new, for what is measured")
    measuring.add_argument("--tree", type=Path, default=ROOT, help="of another commit, with tests of its own")
    measuring.add_argument(
        "arguments", nargs="*", default=["-n", "2", "--dist", "worksteal"], help="of pytest, after --"
    )
    running = commands.add_parser("run", help="run each fault's tests")
    running.add_argument("measured", type=Path)
    running.add_argument("patches", type=Path, nargs="*", default=sorted(HERE.glob("*.patch")))
    running.add_argument("--limit", type=float, default=600, help="seconds for the tests of one fault")
    losing = commands.add_parser("lost", help="compare two measured suites of the same decouple/")
    losing.add_argument("before", type=Path)
    losing.add_argument("after", type=Path)
    asked = parser.parse_args()
    if asked.command == "draw":
        draw(asked.folder, asked.seed, asked.count)
    elif asked.command == "measure":
        return measure(asked.folder, asked.tree, asked.arguments or ["-n", "2", "--dist", "worksteal"])
    elif asked.command == "run":
        run(Measured(asked.measured), asked.patches, asked.limit)
    else:
        return int(lost(Measured(asked.before), Measured(asked.after)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
