"""Folders of the package: its own, and the one of the settings' YAML files."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONFIGS", "PACKAGE"]

PACKAGE = Path(__file__).resolve().parents[1]
# In an installed package the folder lies inside of it, in a clone beside it.
CONFIGS = next(folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir())
