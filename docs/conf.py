"""Sphinx settings: Markdown by MyST, the reference from the docstrings. `make docs` builds with warnings as errors.

The tutorial is run while it is built, and shows what it printed and the picture that it drew there.
"""

import os
import re
import sys
from pathlib import Path

from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))
import run_page

import decouple

project = "decouple"
author = "decouple contributors"
project_copyright = "2026, decouple contributors"
version = release = decouple.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "decouple"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # a single backtick in a docstring is code, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # PyTorch's own sentences are in PyTorch's documentation
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
autodoc_default_options = {"show-inheritance": True}
napoleon_numpy_docstring = False


def keep_asterisks(app, what, name, obj, options, lines):
    """Let a docstring say (*batch, 256): outside code an asterisk is an asterisk and starts no emphasis."""
    literal = None  # the indentation of the line that a literal block belongs to
    for number, line in enumerate(lines):
        indentation = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indentation <= literal:
            literal = None
        if literal is None and not line.lstrip().startswith((">>>", "...")):
            text_and_code = line.split("`")
            text_and_code[::2] = [text.replace("*", r"\*") for text in text_and_code[::2]]
            lines[number] = "`".join(text_and_code)
            if line.rstrip().endswith("::"):
                literal = indentation


def shell_where_nothing_is_said(app, name, source):
    """Let a fence without a language be a shell's commands or plain text: it would get the colours of Python."""
    lines, inside = source[0].split("\n"), None
    for number, line in enumerate(lines[:-1]):
        fence = re.match(r" *(```+|:::+)(.*)$", line)
        if fence is None:
            continue
        if inside is not None:  # only as many marks, with nothing behind them, close it
            inside = None if fence[1] == inside and not fence[2].strip() else inside
            continue
        inside = fence[1]
        if fence[1] == "```" and not fence[2].strip():
            command = re.match(r" *(#|decouple|git|make|pip|python|wandb) ", lines[number + 1])
            lines[number] = line.rstrip() + ("sh" if command else "text")
    source[0] = "\n".join(lines)


def indented_is_code(app, what, name, obj, options, lines):
    """Let an indented block in a module's docstring be code, as in Markdown."""
    if what == "module":
        for number in range(len(lines) - 1, 0, -1):
            if lines[number].startswith("    ") and not lines[number - 1].strip():
                lines[number:number] = ["::", ""]


def run_tutorial(app, name, source):
    """Put what the tutorial's examples print, and the picture that they draw, in the place of what the page holds."""
    if name == "tutorial":
        folder = Path(app.outdir) / "_tutorial"
        folder.mkdir(parents=True, exist_ok=True)
        before = os.getcwd()
        os.chdir(folder)
        try:
            page, wrong = run_page.run(source[0], name)
        finally:
            os.chdir(before)
        if wrong:
            logging.getLogger(__name__).warning("docs/tutorial.md does not do what it says:\n%s", wrong)
        drawn = os.path.relpath(folder / "tutorial.png", app.srcdir)
        source[0] = page.replace("(pictures/tutorial.png)", f"({drawn})")


def setup(app):
    app.connect("source-read", run_tutorial)
    app.connect("source-read", shell_where_nothing_is_said)
    app.connect("autodoc-process-docstring", indented_is_code, priority=90)
    app.connect("autodoc-process-docstring", keep_asterisks, priority=100)  # before napoleon reads the sections
