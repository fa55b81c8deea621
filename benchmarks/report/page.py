"""Pages as one HTML file each: headings, text, tables and pictures, with nothing to fetch from anywhere.

Every helper gives a piece of HTML, `page` puts pieces together. Plain strings are escaped; only what these
helpers made counts as HTML.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import NewType

Html = NewType("Html", str)
Section = tuple[str, Html]
"""A title, and what stands under it."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5c6670; --line: #dde1e6; --paper: #ffffff;
  --card: #f5f7f9; --accent: #1565c0; --mark: #e3effb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a0a9b3; --line: #343b43;
  --paper: #15181c; --card: #1e2328; --accent: #7cb7f5; --mark: #1d3350; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: 1.3rem; }
p { margin: .75rem 0; max-width: 46rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.25rem 0 0; }
.subtitle, figcaption, caption { color: var(--soft); }
.table { overflow-x: auto; margin: 1.25rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; padding-top: .5rem; text-align: left; font-size: .9rem; }
th, td { padding: .4rem 1rem .4rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.marked td { background: var(--mark); font-weight: 600; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; padding: .5rem; border: 1px solid var(--line);
  border-radius: .5rem; background: #ffffff; }
figcaption { margin-top: .5rem; max-width: 46rem; font-size: .9rem; }
code, pre { font: .85em/1.5 ui-monospace, monospace; background: var(--card); border-radius: .25rem; }
code { padding: .1rem .3rem; overflow-wrap: anywhere; }
pre { padding: 1rem; overflow-x: auto; }
summary { cursor: pointer; color: var(--soft); }
"""


def text(paragraph: str) -> Html:
    """One paragraph."""
    return Html(f"<p>{html.escape(paragraph)}</p>")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, marked: int | None = None) -> Html:
    """Rows of cells under a header, the first column aligned left, all others right; `marked`: a row to stress.

    Raises:
        ValueError: a row has not as many cells as the header.
    """
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells under a header of {len(header)}: {list(row)}")
    body = [_row("td", row, ' class="marked"' if number == marked else "") for number, row in enumerate(rows)]
    lines = [f"<caption>{html.escape(caption)}</caption>", _row("th", header), *body]
    return Html('<div class="table"><table>\n' + "\n".join(lines) + "\n</table></div>")


def _row(tag: str, values: Sequence[str], attributes: str = "") -> str:
    cells = "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
    return f"<tr{attributes}>{cells}</tr>"


def figure(png: bytes, *, caption: str, command: str) -> Html:
    """A PNG inside the page, with what it shows and the command that made it.

    Raises:
        ValueError: `png` is no PNG.
    """
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"expected the bytes of a PNG, got {png[:8]!r}")
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    shown = html.escape(caption)
    return Html(
        f'<figure><img src="{source}" alt="{shown}">\n'
        f"<figcaption>{shown} <code>{html.escape(command)}</code></figcaption></figure>"
    )


def details(summary: str, content: str) -> Html:
    """Preformatted text that is folded away until asked for."""
    return Html(f"<details><summary>{html.escape(summary)}</summary>\n<pre>{html.escape(content)}</pre></details>")


def section(title: str, *parts: Html) -> Section:
    """The parts one below the other, under a title."""
    return title, Html("\n".join(parts))


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document, with links to its sections."""
    links = "".join(f'<a href="#s{n}">{html.escape(name)}</a>' for n, (name, _) in enumerate(sections))
    body = [f'<h2 id="s{n}">{html.escape(name)}</h2>\n{content}' for n, (name, content) in enumerate(sections)]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>',
            '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{html.escape(title)}</h1>",
            f'<div class="subtitle">{html.escape(subtitle)}</div>\n<nav>{links}</nav>',
            *body,
            "</body>\n</html>\n",
        ]
    )
