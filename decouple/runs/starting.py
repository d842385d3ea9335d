"""Where another process is started: away from the current folder, whose files may shadow modules that it imports."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["elsewhere"]


@contextlib.contextmanager
def elsewhere(**variables: str) -> Iterator[None]:
    """A context in which the current folder is Python's own, for all threads; Python puts it first on a process's path.

    Args:
        variables: of the environment, which have these values in the context.
    """
    folder, before = os.getcwd(), {name: os.environ.get(name) for name in variables}
    os.chdir(sys.prefix)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.chdir(folder)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
