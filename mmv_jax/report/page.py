"""One self-contained HTML page, without network or script, readable on a phone.

The caller decides its contents. They are also written as JSON beside the page, from which `mmv
report` makes it again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mmv_jax.errors import UserError
from mmv_jax.files import write_whole
from mmv_jax.report.as_data import from_data, to_data
from mmv_jax.report.flow_chart import FlowChart
from mmv_jax.report.plots import ForestPlot, Plot, PlotGrid, ShareBars, draw

FORMAT = 1  # of the contents as JSON
NO_DEVICE = (
    "Research software. This is no medical device, it has not been cleared by any authority, and"
    " its results must not guide the care of a patient."
)
# With at most so many columns an interval stays on one line.
ROOMY_COLUMNS = 9
# A table of more columns shows each line as a block of labelled cells at any width.
MOST_COLUMNS = 12
PLOTS: dict[str, type] = {
    "forest": ForestPlot,
    "grid": PlotGrid,
    "shares": ShareBars,
    "flow": FlowChart,
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, an interval beside it, and a tone ("good", "bad", "best" or "")."""

    text: str
    ci: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first cell of a line names the line.

    On a phone each line becomes a block, its cells labelled by their columns. A compact table is
    small enough to stay a table.
    """

    columns: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    compact: bool = False


@dataclass(frozen=True)
class Strip:
    """Images in a row, each an HTML piece of `figures` with a caption.

    `pairs` of them stay on one line.
    """

    images: Sequence[tuple[str, str]]
    caption: str = ""
    pairs: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page: text, facts, pictures, figures, tables, then folded preformatted text.

    Attributes:
      figures: plots as data, or pieces of HTML.
      facts: (term, description).
      fold: whether the section is closed at first. The first such section begins the details.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Plot | FlowChart | str] = ()
    strips: Sequence[Strip] = ()
    pre: str = ""
    pre_title: str = ""
    facts: Sequence[tuple[str, str]] = ()
    fold: bool = False

    @property
    def pieces(self) -> list[tuple[bool, str]]:
        """The figures as HTML, each with True if it is a picture of fixed shape.

        Such a picture shares a line with the next.
        """
        return [
            (True, f)
            if isinstance(f, str)
            else (False, f.draw() if isinstance(f, FlowChart) else draw(f))
            for f in self.figures
        ]


@dataclass(frozen=True)
class Page:
    """A page as data.

    Attributes:
      notices: sentences that a reader must not miss, above everything.
      verdict: the main conclusions.
      glance: the verdict as a picture, beside it.
    """

    title: str
    subtitle: str
    verdict: Sequence[str]
    sections: Sequence[Section]
    notices: Sequence[str] = ()
    glance: Sequence[Plot | FlowChart | str] = ()

    def html(self) -> str:
        """The page as text. All text is escaped; only figures and images are HTML."""
        # StrictUndefined: a misspelt name in a template is an error, not an empty place.
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        folded = [section.fold for section in self.sections]
        return environment.get_template("page.html").render(
            page=self,
            glance=Section("", figures=self.glance).pieces,
            notices=[NO_DEVICE, *self.notices],
            details_at=folded.index(True) if True in folded else len(folded),
            most_columns=MOST_COLUMNS,
            roomy_columns=ROOMY_COLUMNS,
        )

    def as_json(self) -> str:
        """The page as JSON text; numbers that are not defined are null."""
        # `to_data` has replaced NaN by null; any NaN left is an error, not invalid JSON.
        return json.dumps({"format": FORMAT, **to_data(self, PLOTS)}, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Page":
        """The page that `as_json` wrote.

        Raises:
          ValueError: the text is not such a page.
        """
        data = json.loads(text)
        # Remove the format: it is not a field of a page.
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise ValueError("not the contents of a page")
        return from_data(cls, data, PLOTS, parts=(Section, Table, Cell, Strip))


def write_page(
    path: Path,
    title: str,
    subtitle: str,
    verdict: Sequence[str],
    sections: Sequence[Section],
    *,
    notices: Sequence[str] = (),
    glance: Sequence[Plot | FlowChart | str] = (),
) -> None:
    """Write the page and its contents: `report.html` and `report.json`."""
    page = Page(title, subtitle, verdict, sections, notices=notices, glance=glance)
    write_whole(path, page.html())
    write_whole(path.with_suffix(".json"), page.as_json())


def remake(path: Path) -> Path:
    """Make a page again from its contents, and return its path.

    Args:
      path: `report.json`, or its folder.
    Raises:
      UserError: there is no such file, or it is not the contents of a page.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        page = Page.from_json(file.read_text())
    except OSError as error:
        raise UserError(
            f"{file}: {error.strerror or error}. Give a workdir of `mmv evaluate`, or its"
            " report.json."
        ) from None
    # Foreign JSON raises any of these on its way into dataclasses; one sentence covers them all.
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{file} is not the contents of a report of this version. Run `mmv evaluate` again."
        ) from None
    out = file.with_suffix(".html")
    write_whole(out, page.html())
    return out
