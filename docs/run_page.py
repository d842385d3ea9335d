"""The `>>>` examples of a page, run in order: by tests/test_docs.py for all pages, by the build for the tutorial.

Where an example's number depends on the machine the page says `...`; what the build shows is what it printed there.
"""

from __future__ import annotations

import doctest
import re

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Recorder(doctest.DocTestRunner):
    """Keeps what each example printed."""

    def __init__(self) -> None:
        super().__init__(optionflags=FLAGS)
        self.printed: list[tuple[doctest.Example, str]] = []

    def report_success(self, out, test, example, got):
        self.printed.append((example, got))


def run(page: str, name: str) -> tuple[str, str]:
    """The page with what its examples printed in place of what it says, and what was not as it says."""
    # Without fences, since doctest would take a closing one for expected output; lines keep their numbers.
    bare = re.sub(r"^[ \t]*(```|:::).*$", "", page, flags=re.MULTILINE)
    recorder, wrong = Recorder(), []
    recorder.run(doctest.DocTestParser().get_doctest(bare, {}, name, name, 0), out=wrong.append)
    lines = page.split("\n")
    for example, got in reversed(recorder.printed):
        if example.want:
            first = example.lineno + example.source.count("\n")
            lines[first : first + example.want.count("\n")] = got.rstrip("\n").split("\n")
    return "\n".join(lines), "".join(wrong)


def code_of(page: str) -> str:
    """The code of the page's examples alone, without what they print."""
    bare = re.sub(r"^[ \t]*(```|:::).*$", "", page, flags=re.MULTILINE)
    return "".join(example.source for example in doctest.DocTestParser().get_examples(bare))
