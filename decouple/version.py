"""The version of this package; every checkpoint and every row of a store records it."""

from __future__ import annotations

__all__ = ["VERSION", "written_by"]

VERSION = "0.2.0.dev0"


def written_by(version: str | None) -> str:
    """The writer of a file, as `decouple 0.2.0`; `decouple 0.1` where no version is recorded, since 0.1 wrote none.

    Raises:
        ValueError: a version that is no string.
    """
    if not isinstance(version, str | None):
        raise ValueError(f"version must be a string or None; got {version!r}")
    return f"decouple {version or '0.1'}"
