"""One self-contained HTML page: no network, no script, readable on a phone. What it says is decided
by the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mmv_jax.files import write_whole


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, an interval beside it in a softer colour, and a tone ("good", "bad",
    "best" or "").
    """

    text: str
    ci: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """The first cell of a line names it. On a phone each line becomes a block, its cells labelled
    by their columns.
    """

    columns: Sequence[str]
    lines: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Strip:
    """Images in a row, each an HTML piece of `figures` with a caption."""

    images: Sequence[tuple[str, str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page, in this order: text, tables, figures, strips, and folded preformatted
    text.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()
    strips: Sequence[Strip] = ()
    pre: str = ""
    pre_title: str = ""


def write_page(
    path: Path, title: str, subtitle: str, verdict: Sequence[str], sections: Sequence[Section]
) -> None:
    """Writes the page. All text is escaped; only figures and images are HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    text = environment.get_template("page.html").render(
        title=title, subtitle=subtitle, verdict=verdict, sections=sections
    )
    write_whole(path, text)
