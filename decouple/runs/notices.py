"""Lines that other packages print, which a user can do nothing about.

drop_gym_notice()       # before anything imports procgen or TorchRL
"""

from __future__ import annotations

import contextlib

__all__ = ["drop_gym_notice"]


def drop_gym_notice() -> None:
    """Empty the table from which Gym, which procgen and TorchRL import, prints four lines about its age to stderr."""
    with contextlib.suppress(ImportError):
        from gym_notices import notices

        notices.notices.clear()
