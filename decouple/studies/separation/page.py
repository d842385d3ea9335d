"""A page to read anywhere: one HTML file with its pictures in it, which needs no network and no JavaScript.

scores = HTMLTable("Mean scores", [["game", "score"], ["maze", "5.1"]])
write_page("report.html", "A study", [Section("Results", ["Nine runs."], [scores], [Picture(path, "Their curves")])])
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decouple.checks import A_FILE, checked
from decouple.runs.files import replace_file

__all__ = ["HTMLTable", "Picture", "Section", "write_page"]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; }
body { max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
p, li { max-width: 50rem; } nav ol { columns: 2; max-width: 50rem; }
.lead { background: #eef4fb; border-left: 4px solid #2f6cab; padding: .7rem 1rem; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #444; max-width: 50rem; }
.scroll { overflow-x: auto; margin: .4rem 0 1rem; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.long { white-space: normal; min-width: 14rem; text-align: left; } .words { text-align: left; }
th { border-bottom: 2px solid #999; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
@media (max-width: 40rem) {
  body { padding: 1rem; } nav ol { columns: 1; } h1 { font-size: 1.6rem; }
  figure { overflow-x: auto; } figure img { max-width: none; width: 44rem; }
}
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file, and what it shows, in words."""

    path: Path
    caption: str


@dataclass(frozen=True)
class HTMLTable:
    """Rows of text, the first of them the heads of the columns."""

    caption: str
    cells: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A part of a page: paragraphs, pictures, then tables. A paragraph after a dash and a space is a list item."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[HTMLTable] = ()
    pictures: Sequence[Picture] = ()
    lead: str | None = field(default=None)  # highlighted paragraph, before all others


@checked(path=A_FILE)
def write_page(path: str | os.PathLike[str], title: str, sections: Sequence[Section], introduction: str = "") -> Path:
    """Write the page; the file is replaced as a whole. All text is shown as it is, none of it read as HTML.

    Raises:
        ValueError: a picture that is no PNG.
    """
    body = [f"<h1>{html.escape(title)}</h1>", *_paragraphs([introduction] if introduction else [])]
    items = "".join(f'<li><a href="#{_anchor(s.title)}">{html.escape(s.title)}</a></li>' for s in sections)
    body.append(f"<nav><ol>{items}</ol></nav>")
    for section in sections:
        body.append(f'<section id="{_anchor(section.title)}"><h2>{html.escape(section.title)}</h2>')
        body += [f'<p class="lead">{html.escape(section.lead)}</p>'] if section.lead else []
        body += _paragraphs(section.paragraphs)
        body += map(_figure, section.pictures)
        body += map(_table, section.tables)
        body.append("</section>")
    head = [
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        '<link rel="icon" href="data:,">',  # empty: a browser would ask a server for one
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
    ]
    text = "\n".join(['<!doctype html><html lang="en"><head>', *head, "</head><body>", *body, "</body></html>", ""])
    path = Path(path)
    replace_file(path, text.encode())
    return path


def _paragraphs(texts: Sequence[str]) -> list[str]:
    parts: list[str] = []
    for text in texts:
        if not text.startswith("- "):
            parts.append(f"<p>{html.escape(text)}</p>")
        elif parts and parts[-1].endswith("</ul>"):
            parts[-1] = parts[-1].removesuffix("</ul>") + f"<li>{html.escape(text[2:])}</li></ul>"
        else:
            parts.append(f"<ul><li>{html.escape(text[2:])}</li></ul>")
    return parts


def _table(table: HTMLTable) -> str:
    head, *rows = table.cells
    heads = (f'<th scope="col"{_align(rows, column)}>{html.escape(cell)}</th>' for column, cell in enumerate(head))
    lines = ["".join(heads)]
    for row in rows:
        lines.append("".join(f"<td{_align(rows, column)}>{html.escape(cell)}</td>" for column, cell in enumerate(row)))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    caption = f"<figcaption>{html.escape(table.caption)}</figcaption>"
    return f'<figure>{caption}<div class="scroll"><table>{body}</table></div></figure>'


def _align(rows: Sequence[Sequence[str]], column: int) -> str:
    """The class of a column's cells: words stand at the left, numbers at the right, and long texts are broken."""
    cells = [row[column] for row in rows]
    if any(len(cell) > 60 for cell in cells):
        return ' class="long"'
    return ' class="words"' if any(cell[:1].isalpha() for cell in cells) else ""


def _figure(picture: Picture) -> str:
    content = picture.path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise ValueError(f"pictures must be PNG files; got {picture.path}")
    data = base64.b64encode(content).decode()
    caption = html.escape(picture.caption)
    return (
        f'<figure><img alt="{html.escape(picture.path.stem.replace("_", " "))}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
