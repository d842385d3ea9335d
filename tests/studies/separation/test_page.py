"""decouple/studies/separation/page.py: a page that holds all it needs, and shows text as it is."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from decouple.studies.separation.page import HTMLTable, Picture, Section, write_page


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "one_curve.png"
    Figure().savefig(path)
    return Picture(path, "A curve & its <band>")


class Reader(HTMLParser):
    """Tags that are opened and closed in order, and the text between them."""

    VOID = ("meta", "link", "img")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader


def test_a_page_needs_nothing_beside_it(tmp_path, picture):
    table = HTMLTable("Scores", [["game", "score"], ["maze", "5.1"]])
    page = read(write_page(tmp_path / "a.html", "Title", [Section("Results", ["Text."], [table], [picture])]))
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == picture.path.read_bytes()
    assert image["alt"] == "one curve"
    assert "script" not in [tag for tag, _ in page.tags]
    assert not re.search(r"https?:", (tmp_path / "a.html").read_text())


def test_text_is_shown_as_it_is(tmp_path, picture):
    section = Section("a < b", ["x <b>y</b> & z"], [HTMLTable("<i>", [["<th>"], ["<td>"]])], [picture], lead="<lead>")
    page = read(write_page(tmp_path / "a.html", "<title>", [section], introduction="<p>"))
    text = "".join(page.text)
    for part in ("<title>", "<p>", "a < b", "x <b>y</b> & z", "<i>", "<th>", "<td>", "<lead>", "its <band>"):
        assert part in text


def test_items_are_lists_and_titles_are_linked(tmp_path):
    sections = [Section("First part", ["Some:", "- one", "- two", "After."]), Section("Second (2)")]
    page = read(write_page(tmp_path / "a.html", "Title", sections))
    tags = [tag for tag, _ in page.tags]
    assert (tags.count("ul"), tags.count("li")) == (1, 4)  # two items, and two links to the parts
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"]
    assert links == ["#first-part", "#second-2"]


def test_words_stand_left_and_numbers_right(tmp_path):
    table = HTMLTable("", [["game", "note", "score"], ["maze", "late is " + "very " * 12 + "good", "5.1"]])
    page = read(write_page(tmp_path / "a.html", "Title", [Section("One", tables=[table])]))
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "td"]
    assert classes == ["words", "long", None]


def test_a_picture_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"pictures must be PNG files; got .*a\.png"):
        write_page(tmp_path / "a.html", "Title", [Section("One", pictures=[Picture(tmp_path / "a.png", "")])])
