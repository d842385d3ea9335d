"""Help, the console command, and what an import of the package brings in."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import decouple
from decouple.commands import help as command_help
from decouple.commands.help import COMMANDS, EXAMPLES, PARTS, help_text
from decouple.commands.main import main

ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("command", PARTS)
def test_help_has_every_setting_with_its_default_and_a_sentence(command):
    lines = help_text(command, width=1000).splitlines()
    says = {line.strip(): lines[at + 1] for at, line in enumerate(lines[:-1]) if line.startswith("  ")}
    for part in PARTS[command]:
        kind = getattr(importlib.import_module(f"decouple.{part.file[:-3].replace('/', '.')}"), part.name)
        own = {name for name in kind.__annotations__ if name not in part.without}
        for setting in dataclasses.fields(kind):
            if setting.name not in own or setting.metadata:  # inherited, or a part with settings of its own
                continue
            made = setting.default_factory
            default = made() if made is not dataclasses.MISSING else setting.default
            shown = part.default or (
                default if isinstance(default, str) else json.dumps(default, separators=(",", ":"))
            )
            texts = [f"{part.prefix}{setting.name}={shown}", f"{part.prefix}{setting.name}=..."]
            found = next((text for text in texts if text in says), None)
            assert found, texts
            assert len(says[found].strip()) >= 8, found


@pytest.mark.parametrize("width", [0, 19, 1001, 80.0, True, "80"])
def test_a_width_that_no_text_fits_is_refused(width):
    with pytest.raises(ValueError, match="width must be a whole number in"):
        help_text("control", width)


def test_settings_that_have_no_literal_default_are_few():
    shown = [line.strip() for command in PARTS for line in help_text(command).splitlines()]
    assert {line for line in shown if line.endswith("=...")} == {"algorithms=...", "search.sizes=..."}


def test_help_lists_the_games_and_speaks_of_null():
    text = help_text("procgen", width=1000)
    assert "one of the 16 games: bigfish, bossfight, " in text
    assert "None" not in "".join(map(help_text, PARTS))


@pytest.mark.parametrize("script", ["control.py", "procgen.py"])
def test_help_of_a_script_comes_without_pytorch(script):
    code = (
        "import runpy, sys, atexit; sys.argv = sys.argv[1:]; sys.path.insert(0, 'experiments');"
        "atexit.register(lambda: print('torch' in sys.modules)); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    ran = python(code, f"experiments/{script}", "--help")
    assert (
        ran.returncode == 0
        and ran.stdout.startswith(f"usage: decouple {script[:-3]} ")
        and ran.stdout.endswith("\nFalse\n")
    )


def test_the_console_command_tells_its_commands(monkeypatch, capsys):
    for argument in ("--help", "-h", None):
        monkeypatch.setattr(sys, "argv", ["decouple", *filter(None, [argument])])
        main()
        assert all(f"\n  {name} " in capsys.readouterr().out for name in ["procgen"])
    monkeypatch.setattr(sys, "argv", ["decouple", "contrl"])
    with pytest.raises(
        SystemExit, match=r"the command must be one of procgen, .*; got 'contrl' \(did you mean control\?\)"
    ):
        main()
    monkeypatch.setattr(sys, "argv", ["decouple", "--version"])
    main()
    assert capsys.readouterr().out == f"decouple {decouple.__version__}\n"


def test_each_console_command_is_a_script_with_help():
    scripts = {file.stem for file in (ROOT / "experiments").glob("[!_]*.py")}
    assert {module for module, _ in COMMANDS.values()} == scripts == PARTS.keys() == EXAMPLES.keys()
    ran = python("import sys; from decouple.commands.main import main; main()", "smallest-actor", "--help")
    usage = (
        "usage: decouple smallest-actor [setting=value ...]\n   or: python experiments/smallest_actor.py [setting=value"
    )
    assert ran.stdout.startswith(usage) and "Search for the smallest actor" in ran.stdout.split("the search:\n")[0]


def test_the_package_imports_nothing_until_a_name_is_used():
    ran = python(
        "import sys, decouple; print('torch' in sys.modules); decouple.separate; print('torch' in sys.modules,"
        "'torchrl' in sys.modules)"
    )
    assert ran.stdout.split() == ["False", "True", "False"], ran.stderr
    with pytest.raises(AttributeError, match="no_such_name"):
        decouple.no_such_name  # noqa: B018


def test_every_name_of_the_stub_is_there():
    tree = ast.parse((ROOT / "decouple" / "__init__.pyi").read_text())
    names = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(names) == decouple.__all__ and all(getattr(decouple, name) for name in names)


def test_the_wheel_holds_settings_tables_and_types(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    built = next(wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    import zipfile

    held = set(zipfile.ZipFile(built).namelist())
    pages = {f"decouple/{file.relative_to(ROOT)}" for file in (ROOT / "configs").rglob("*.yaml")}
    source = {str(file.relative_to(ROOT)) for file in (ROOT / "decouple").rglob("*.py")}
    assert pages | source | {"decouple/py.typed", "decouple/__init__.pyi"} <= held
    assert "decouple/studies/actor_size/published/table_1.csv" in held
    assert command_help.CONFIGS == ROOT / "configs"  # of a clone
