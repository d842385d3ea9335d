"""The pages: their examples run, and the reference leaves out no public name."""

import importlib
import inspect
import pydoc
import re
import shlex
import sys
from pathlib import Path

import pytest
from commands import composing
from hydra.core.override_parser.overrides_parser import OverridesParser

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
from run_page import run  # noqa: E402

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "studies").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(page.read_text(), page.name)[1] == ""


def test_the_code_of_the_landing_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "index.md").read_text(), re.M | re.S):
        exec(compile(code.replace("20_000", "300"), "docs/index.md", "exec"), names := {})
    assert len(capsys.readouterr().out.split()) == 2 and names["model"].at == 1


def test_an_example_that_is_wrong_is_seen():
    assert run("```python\n>>> 1 + 1\n2\n```\n", "right")[1] == ""
    assert "Expected:\n    3\nGot:\n    2" in run("```python\n>>> 1 + 1\n3\n```\n", "wrong")[1]


def test_what_an_example_prints_takes_the_place_of_dots():
    page = "Text.\n\n```python\n>>> for i in (0, 1):\n...     print(i, i / 3)\n{}\n\n```\n\n>>> 1 + 1\n2\n\nEnd."
    ran = page.format("0 0.0\n1 0.3333333333333333")
    assert run(page.format("0 0...\n1 0.3..."), "page") == (ran, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_that_a_page_points_to_exist(page):
    text = page.read_text()
    for file in re.findall(r"\b(?:\w+/)+\w+\.py\b", text):
        assert any((ROOT / place / file).exists() for place in ("", "decouple")), file
    for name in re.findall(r"\{py:\w+\}`~?(decouple[\w.]+)`", text):
        assert pydoc.locate(name) is not None, name


def modules() -> list[str]:
    files = [file.relative_to(ROOT).with_suffix("") for file in sorted((ROOT / "decouple").rglob("*.py"))]
    return [".".join(file.parts) for file in files if not file.name.startswith("_")]


def public_names(module: str) -> list[str]:
    imported = importlib.import_module(module)
    here = [name for name, value in vars(imported).items() if getattr(value, "__module__", None) == module]
    return getattr(imported, "__all__", [name for name in here if not name.startswith("_")])


def members(reference: str) -> dict[str, list[str]]:
    """Names per module, as `.. automodule:: module` and `:members: a, b` give them."""
    found = re.findall(r"^\.\. automodule:: (\S+)\n((?:   .*\n)*)", reference, flags=re.MULTILINE)
    return {
        module: re.findall(r"\w+", " ".join(re.findall(r":members:((?:.*\n)(?:      +.*\n)*)", options)))
        for module, options in found
    }


@pytest.mark.parametrize("module", modules())
def test_the_reference_has_every_public_name(module):
    public = public_names(module)
    listed = members((ROOT / "docs" / "reference.md").read_text()).get(module, [])
    entry = f".. automodule:: {module}\n   :members: {', '.join(public)}"
    assert sorted(listed) == sorted(public), f"docs/reference.md should have\n\n{entry}\n"


@pytest.mark.parametrize("module", modules())
def test_every_public_name_has_a_docstring(module):
    imported = importlib.import_module(module)
    assert imported.__doc__
    for name in public_names(module):
        value = getattr(imported, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue  # a constant has its sentence as a comment
        assert value.__doc__ and not value.__doc__.startswith(f"{name}("), (
            f"{module}.{name} has no docstring of its own"
        )


def test_the_names_of_the_package_are_public_in_the_file_they_come_from():
    of_files = {name for module in modules() for name in public_names(module)}
    assert set(public_names("decouple")) - of_files - {"__version__"} == set()


def commands() -> list[str]:
    """Each command of an experiment that a page or a script's docstring shows, on one line and without a comment."""
    texts = [page.read_text() for page in PAGES] + [script.read_text() for script in ROOT.glob("experiments/*.py")]
    found = [re.findall(r"^ *(python experiments/\w+\.py .*?)(?: {2,}#.*)?$", unfolded(text), re.M) for text in texts]
    return sorted({command for of_text in found for command in of_text if "<" not in command and "..." not in command})


def unfolded(text: str) -> str:
    return re.sub(r" *\\\n *", " ", text)


@pytest.mark.parametrize("command", commands())
def test_the_settings_of_a_command_exist(command):
    """The command composes; of a sweep, its first job. What the launchers and sweepers say of themselves is theirs."""
    _, script, *arguments = shlex.split(command)
    given = [argument for argument in arguments if "=" in argument and not argument.startswith(("hydra", "+sweep"))]
    given = [argument for argument in given if "glob(" not in argument and "interval(" not in argument]
    given = [re.sub(r"^(separation=)(\d)$", r"\1'\2'", argument) for argument in given]  # as procgen.py does
    overrides = []
    for override in OverridesParser.create().parse_overrides(given):
        first = next(override.sweep_string_iterator()) if override.is_sweep_override() else None
        overrides.append(override.input_line if first is None else f"{override.get_key_element()}={first}")
    with composing(Path(script).stem) as configuration:
        assert configuration(*overrides)
