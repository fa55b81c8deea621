"""Pages as one HTML file each: headings, text, tables and pictures, without references to other files.

Every helper gives a piece of HTML; `page` puts the pieces together with page.html. Plain strings are escaped by jinja2,
and characters that cannot be printed as in messages. Only the pieces of these helpers count as HTML.
"""

import base64
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from benchmarks.report.tables import Table
from randar_features.store.records import printable

Html = Markup
Section = tuple[str, Markup]
"""A title, and what stands under it."""

FILTERED_FROM = 6
"""Lines from which on a table has a field to filter them."""

_environment = Environment(loader=PackageLoader("benchmarks", "report"), autoescape=True)
_table = _environment.from_string(
    '<div class="table">{% if filtered %}<input type="search" placeholder="filter lines" aria-label="filter lines">'
    '{% endif %}<div class="scroll"><table>\n<caption>{{ caption }}</caption>\n<thead><tr>'
    "{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr></thead>\n<tbody>\n"
    '{% for row in rows %}<tr{% if loop.index0 == marked %} class="marked"{% endif %}>'
    "{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>\n{% endfor %}</tbody></table></div></div>"
)
_figure = _environment.from_string(
    '<figure><img src="data:image/png;base64,{{ data }}" alt="{{ caption }}">\n'
    "<figcaption>{{ caption }} <code>{{ command }}</code></figcaption></figure>"
)


def text(paragraph: str) -> Html:
    """One paragraph."""
    return Markup("<p>{}</p>").format(printable(paragraph))


def warning(paragraph: str) -> Html:
    """One paragraph that stands out."""
    return Markup('<p class="warning">{}</p>').format(printable(paragraph))


def table(content: Table, *, caption: str) -> Html:
    """Lines of cells under a header; a click on a name sorts by it, and a field filters many lines.

    Raises:
        ValueError: a line has not as many cells as the header.
    """
    for number, row in enumerate(content.rows):
        if len(row) != len(content.header):
            raise ValueError(f"row {number} has {len(row)} cells under a header of {len(content.header)}: {list(row)}")
    header, *rows = ([printable(cell) for cell in line] for line in (content.header, *content.rows))
    about = {"caption": printable(caption), "marked": content.marked, "filtered": len(rows) >= FILTERED_FROM}
    return Markup(_table.render(header=header, rows=rows, **about))


def figure(png: bytes, *, caption: str, command: str) -> Html:
    """A PNG inside the page, with what it shows and the command that made it; a click shows it large."""
    data = base64.b64encode(checked_png(png)).decode("ascii")
    return Markup(_figure.render(data=data, caption=printable(caption), command=printable(command)))


def checked_png(png: bytes) -> bytes:
    """The same bytes; ValueError if they are no PNG."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"expected the bytes of a PNG, got {png[:8]!r}")
    return png


def details(summary: str, content: str) -> Html:
    """Preformatted text that is folded away."""
    return Markup("<details><summary>{}</summary>\n<pre>{}</pre></details>").format(summary, content)


def section(title: str, *parts: Html) -> Section:
    """The parts one below the other, under a title."""
    return printable(title), Markup("\n").join(parts)


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document, with links to its sections."""
    return _environment.get_template("page.html").render(title=title, subtitle=subtitle, sections=sections)
