"""The version of this package, which stands in every checkpoint and in every row of a store that it writes."""

from decouple.checks import checked

__all__ = ["VERSION", "written_by"]

VERSION = "0.2.0.dev0"


@checked()
def written_by(version: str | None) -> str:
    """Who wrote a file: `decouple 0.2.0`, or `decouple 0.1` where the file does not say, as 0.1 did not."""
    return f"decouple {version or '0.1'}"
