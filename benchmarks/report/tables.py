"""Tables of results: one form for Markdown and for pages, and one way to write a share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

MISSING = "–"


class Table(NamedTuple):
    """Cells under a header; `marked` is the row to stress."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None


def markdown(table: Table) -> str:
    """Pipes and dashes; the stressed row in bold."""
    lines = [table.header, ["---"] * len(table.header)]
    lines += [[f"**{c}**" if c and i == table.marked else c for c in row] for i, row in enumerate(table.rows)]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines)


MARKDOWN = str.maketrans({character: f"\\{character}" for character in "|<>[]`"})


def markdown_text(text: str) -> str:
    """A name of any kind, such as a file's, that Markdown shows as it is and takes for no HTML and no link."""
    return printable(text).translate(MARKDOWN)


def printable(text: str) -> str:
    """The text with a dot for what cannot be printed: control characters of a terminal, bytes that are not UTF-8."""
    return "".join(character if character.isprintable() else "·" for character in text)


def printable_lines(text: str) -> str:
    """`printable` of each line."""
    return "\n".join(map(printable, text.split("\n")))


def cell(value: Any) -> str:
    """A setting: nothing for None, "0 + 1" for several."""
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    return "" if value is None else str(value)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a number of per cent, without the sign; "–" for None."""
    return MISSING if share is None else f"{100 * share:.{digits}f}"


def percents(bounds: Sequence[float], digits: int = 1) -> str:
    """An interval of shares, as "12.3 … 45.6"."""
    return " … ".join(percent(bound, digits) for bound in bounds)


def points(difference: float, bounds: Sequence[float]) -> str:
    """A difference of shares in points, with its sign and its interval, as "+1.2 (-0.5 … +3.0)"."""
    low, high = (f"{100 * bound:+.1f}" for bound in bounds)
    return f"{100 * difference:+.1f} ({low} … {high})"
