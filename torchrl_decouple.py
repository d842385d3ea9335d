"""The console command's first step, outside the package, whose name two other distributions have too.

`main` is the command `decouple`. If `decouple` or `python-decouple` was installed over this package, it ends with a
sentence that says so; the scripts of experiments/ do the same through `refuse_others`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys

__all__ = ["installed_over", "main", "refuse_others"]

OTHERS = ("decouple", "python-decouple")  # distributions that install a module `decouple` of their own


def installed_over() -> str | None:
    """A sentence on the distribution whose `decouple` is imported in place of this package's; None if ours is."""
    try:
        import decouple
    except ModuleNotFoundError as error:
        if error.name != "decouple":
            raise
        decouple = None
    if "separate" in dir(decouple):
        return None
    file, there = getattr(decouple, "__file__", None), []
    for name in OTHERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            there.append(importlib.metadata.distribution(name))
    owners = [one for one in there if file in [str(one.locate_file(each)) for each in one.files or ()]]
    found = [f"{one.metadata['Name']} {one.version}" for one in owners or there]
    what = f"import decouple finds {file}" if file else "import decouple finds no package"
    whose = f", of {' or '.join(found)}, which was installed over torchrl-decouple" if found else ""
    names = " ".join(each.split()[0] for each in found) or " ".join(OTHERS)
    return f"{what}{whose}: pip uninstall {names}, then install torchrl-decouple again (--force-reinstall --no-deps)"


def refuse_others() -> None:
    """End the process with that sentence, if there is one."""
    if says := installed_over():
        sys.exit(says)


def main() -> None:
    """`decouple <command> setting=value ...`."""
    refuse_others()
    from decouple.commands.main import main

    main()
