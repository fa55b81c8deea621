from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from benchmarks.report import page as html_page
from benchmarks.report.tables import Table

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class Reader(HTMLParser):
    """Attributes of all tags, the text, and whether every tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, words: str) -> None:
        self.words += words


def whole_page() -> str:
    table = html_page.table(Table(["a & b", "c"], [["<x>", "1"], ["y", "2"]], marked=1), caption='"both"')
    figure = html_page.figure(PNG, caption="one < two", command="python -m benchmarks.demo --out 'a b' && <x>")
    parts = html_page.text("<script>alert(1)</script>"), table, figure, html_page.details("more", '{"a": "<b>"}')
    return html_page.page("T & <T>", "sub<t>", [html_page.section("One & two", *parts), html_page.section("Three")])


def test_a_page_is_well_formed_and_says_everything_as_it_was_given():
    read = Reader(whole_page())
    assert read.open == []
    for words in ("T & <T>", "sub<t>", "One & two", "<script>alert(1)</script>", "a & b", "<x>", '"both"', "one < two"):
        assert words in read.words
    assert "python -m benchmarks.demo --out 'a b' && <x>" in read.words
    assert '{"a": "<b>"}' in read.words
    assert {tag for tag, _ in read.tags}.isdisjoint({"x", "b", "t", "link"})
    assert [attributes for tag, attributes in read.tags if tag == "script"] == [{}], "the page's own, from nowhere"


def test_a_page_fetches_nothing():
    page = whole_page()
    assert not re.search(r"https?:|url\(|@import|<link|<script [^>]", page)
    sources = [attributes["src"] for _, attributes in Reader(page).tags if "src" in attributes]
    assert len(sources) == 1
    kind, _, data = str(sources[0]).partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data, validate=True) == PNG


def test_links_lead_to_the_sections():
    tags = Reader(whole_page()).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in tags if tag == "h2"] == ["#s0", "#s1"]


def test_one_row_of_a_table_is_marked():
    rows = [attributes for tag, attributes in Reader(whole_page()).tags if tag == "tr"]
    assert rows == [{}, {}, {"class": "marked"}]


def test_rows_that_do_not_fit_and_pictures_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"row 1 has 1 cells under a header of 2: \['c'\]"):
        html_page.table(Table(["a", "b"], [["a", "b"], ["c"]]), caption="")
    with pytest.raises(ValueError, match=r"expected the bytes of a PNG, got b'GIF89a'"):
        html_page.figure(b"GIF89a", caption="", command="")


def test_columns_sort_by_number_and_names_as_names(browser: Any):
    rows = [["9.5 % (8 % … 10 %)", "vit2, layer 10"], ["50.0 %", "vit2, layer 9"], ["", "net30"], ["-1.0 %", "vit10"]]
    table = html_page.table(Table(["value", "encoder"], rows), caption="")
    shown = browser.new_page()
    shown.set_content(html_page.page("t", "s", [html_page.section("All", table)]))
    found = []
    for head in shown.locator("th").all():
        head.click()
        found.append(shown.evaluate("[...document.querySelectorAll('tbody tr')].map(row => row.cells[1].textContent)"))
    shown.close()
    assert found[0] == ["vit2, layer 9", "vit2, layer 10", "vit10", "net30"], "largest first, nothing last"
    assert found[1] == ["vit10", "vit2, layer 10", "vit2, layer 9", "net30"]
