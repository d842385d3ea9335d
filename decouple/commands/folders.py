"""Folders of the package: its own, and the one of the settings' YAML files."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONFIGS", "PACKAGE"]

PACKAGE = Path(__file__).resolve().parents[1]


def _configs(package: Path) -> Path:
    """The folder configs/: inside of an installed package, beside that of a clone."""
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


CONFIGS = _configs(PACKAGE)
