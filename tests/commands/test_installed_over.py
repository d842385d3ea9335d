"""torchrl_decouple.py: the command says which other distribution was installed over this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONSOLE = "from torchrl_decouple import main; main()"


def install(folder: Path, name: str, version: str, file: str) -> None:
    """A distribution of one module, as pip leaves it."""
    (folder / file).parent.mkdir(exist_ok=True, parents=True)
    (folder / file).write_text("def config(name): ...\n")
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "RECORD").write_text(f"{file},,\n{about.name}/METADATA,,\n{about.name}/RECORD,,\n")


def run(path: list[Path], *command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": ":".join(map(str, path))}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd="/")


@pytest.mark.parametrize(
    ("name", "version", "file"),
    [("decouple", "0.0.7", "decouple/__init__.py"), ("python-decouple", "3.8", "decouple.py")],
)
def test_a_distribution_installed_over_this_package_is_named(tmp_path, name, version, file):
    other = {"decouple": "python-decouple", "python-decouple": "decouple"}[name]
    install(tmp_path, name, version, file)
    install(tmp_path, other, "9", "something_else.py")  # its module is not the one imported
    script = str(ROOT / "experiments" / "control.py")
    for command in (["-c", CONSOLE, "--version"], [script, "env=toy"], [script, "--help"]):
        ran = run([tmp_path, ROOT], *command)
        assert ran.returncode == 1 and ran.stdout == ""
        assert ran.stderr == (
            f"import decouple finds {tmp_path / file}, of {name} {version}, which was installed over torchrl-decouple: "
            f"pip uninstall {name}, then install torchrl-decouple again (--force-reinstall --no-deps)\n"
        )


def test_a_package_whose_first_file_is_gone_is_named_too(tmp_path):
    (tmp_path / "decouple" / "commands").mkdir(parents=True)
    (tmp_path / "torchrl_decouple.py").write_text((ROOT / "torchrl_decouple.py").read_text())
    ran = run([tmp_path], "-S", "-c", CONSOLE)  # without site-packages
    assert ran.stderr.startswith("import decouple finds no package: pip uninstall decouple python-decouple, then ")


def test_a_distribution_beside_this_package_is_left_alone(tmp_path):
    install(tmp_path, "python-decouple", "3.8", "decouple.py")
    ran = run([ROOT, tmp_path], "-c", CONSOLE, "--version")
    assert ran.returncode == 0 and ran.stdout.startswith("decouple 0.") and ran.stderr == ""
