"""For tests of what reads run folders: what may befall a file of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

BOM = b"\xef\xbb\xbf"

# What befell it: the file, and its content from what it was.
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "truncated result": ("result.json", lambda old: old[: len(old) // 2]),
    "truncated record": ("record.json", lambda old: old[: len(old) // 2]),
    "empty result": ("result.json", lambda old: b""),
    "result that is a list": ("result.json", lambda old: b"[1, 2]"),
    "result without its frames": ("result.json", lambda old: b"{}"),
    "result with a text": ("result.json", lambda old: b'{"frames": 300, "final/test_return": "many"}'),
    "record without its sessions": ("record.json", lambda old: b'{"sessions": [3]}'),
    "result with a byte-order mark": ("result.json", lambda old: BOM + old),
    "table with a byte-order mark": ("metrics.csv", lambda old: BOM + old),
    "settings with a byte-order mark": ("config.yaml", lambda old: BOM + old),
    "settings in UTF-16": ("config.yaml", lambda old: old.decode().encode("utf-16")),
    "broken settings": ("config.yaml", lambda old: b"env: [maze\n" + old),
    "settings that are a text": ("config.yaml", lambda old: b"maze"),
    "empty settings": ("config.yaml", lambda old: b""),
    "no UTF-8 in the settings": ("config.yaml", lambda old: old + b"name: \xff\xfe\n"),
    "no UTF-8 in the table": ("metrics.csv", lambda old: old.replace(b"\n", b"\n\xe9", 1)),
    "no UTF-8 in the result": ("result.json", lambda old: old.replace(b"frames", b"fr\xe4mes")),
    "no UTF-8 in the record": ("record.json", lambda old: old.replace(b"sessions", b"\xff")),
    "bad cell": ("metrics.csv", lambda old: old[: old.rindex(b",")] + b",five\n"),
    "frames that are none": ("metrics.csv", lambda old: old + b"many" + b"," * old.splitlines()[0].count(b",") + b"\n"),
    "frames that fall": ("metrics.csv", lambda old: old + b"1" + b"," * old.splitlines()[0].count(b",") + b"\n"),
    "missing cells": ("metrics.csv", lambda old: old + b"1000\n"),
    "a column twice": ("metrics.csv", lambda old: b"frames,a,a\n1,2,3\n"),
    "empty table": ("metrics.csv", lambda old: b""),
    "no table at all": ("metrics.csv", lambda old: bytes(range(256)) + b"\n"),
}


def damage(folder: Path, what: str) -> Path:
    """Do it to a run's folder; returns the file."""
    name, change = DAMAGES[what]
    file = folder / name
    file.write_bytes(change(file.read_bytes()))
    return file
