"""The version of this package; every checkpoint and every row of a store records it."""

from decouple.checks import checked

__all__ = ["VERSION", "written_by"]

VERSION = "0.2.0.dev0"


@checked()
def written_by(version: str | None) -> str:
    """The writer of a file, as `decouple 0.2.0`; `decouple 0.1` where no version is recorded, since 0.1 wrote none."""
    return f"decouple {version or '0.1'}"
