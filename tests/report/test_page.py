"""The page: escaped, self-contained, and no wider than a phone in a real browser."""

import html
import re
import shutil
import subprocess

import numpy as np
import pytest

from mmv_jax.report.figures import Bar, forest, roc_curves
from mmv_jax.report.page import Cell, Section, Strip, Table, write_page


@pytest.fixture
def page(tmp_path):
    """A page with everything that a page can have."""
    rng = np.random.default_rng(0)
    bars = [
        Bar(task, series, 0.7, 0.6, 0.8)
        for task in ("pneumothorax", "effusion")
        for series in ("trained", "random")
    ]
    curves = {"pneumothorax": {"trained": (rng.integers(0, 2, 50), rng.normal(size=50))}}
    columns = ["task", *(f"a long name of column {n}" for n in range(9))]
    sections = [
        Section("Text", ["<b>escaped</b> & kept"], pre="x" * 300, pre_title="config"),
        Section(
            "Table",
            tables=[
                Table(
                    columns,
                    [
                        [
                            Cell("cxr_cardiothoracic_ratio"),
                            *[Cell("0.700", "[0.600, 0.800]", "good")] * 9,
                        ]
                    ],
                )
            ],
        ),
        Section("Figures", figures=[forest(bars, "AUROC", 0.5), roc_curves(curves)]),
        Section(
            "Images",
            strips=[Strip([('<img alt="grey" src="data:,">', "one slice")] * 5, "caption")],
        ),
    ]
    write_page(tmp_path / "report.html", "Title", "subtitle", ["A verdict."], sections)
    return tmp_path / "report.html"


def test_text_is_escaped_and_figures_are_not(page):
    text = page.read_text()
    assert "&lt;b&gt;escaped&lt;/b&gt; &amp; kept" in text
    assert text.count("<svg") == 2
    assert not page.with_suffix(".part").exists()


def test_every_cell_of_a_table_names_its_column_for_a_phone(page):
    text = page.read_text()
    assert len(re.findall(r'<td data-label="a long name of column \d" class="good">', text)) == 9


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_nothing_beyond_the_edge(page, width):
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    asks = "this.title = this.contentDocument.documentElement.scrollWidth"
    outer = page.with_name("outer.html")
    outer.write_text(
        f'<iframe id="frame" width="{width}" height="2000" style="border:0" onload="{asks}"'
        f' srcdoc="{html.escape(page.read_text())}"></iframe>'
    )
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=4000",
        "--dump-dom",
        outer.as_uri(),
    ]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'title="(\d+)"', said)
    assert found is not None
    assert int(found.group(1)) <= width
