"""The page: escaped, self-contained, made anew from its contents, and readable in a browser."""

import json
import re

import numpy as np
import pytest
from browser import assert_readable, look_at

from mmv_jax.errors import UserError
from mmv_jax.report.figures import growth_curves, roc_curves
from mmv_jax.report.flow_chart import FlowChart, FlowStep
from mmv_jax.report.page import Cell, Page, Section, Strip, Table, remake, write_page
from mmv_jax.report.plots import ForestGroup, ForestPlot, ForestRow, Share, ShareBars

WIDE = [f"a long name of column {n}" for n in range(9)]


def forest(tasks=2, encoders=3):
    """A forest with long names, where words would touch if anything did."""
    rows = [
        ForestRow(
            ("trained", "random weights", "another-encoder-base")[n % 3],
            0.7 + n / 100,
            0.6,
            0.8,
            text="0.700",
            ci="[0.600, 0.800]",
            tip="a tip",
            series=n,
        )
        for n in range(encoders)
    ]
    groups = [
        ForestGroup(
            "Cardiothoracic ratio (CXR)",
            rows,
            "25 test studies of 20 patients, 8 positive",
            [("Better, against random weights.", "good"), ("No significant difference.", "")],
        )
    ] * tasks
    return ForestPlot("AUROC", groups, 0.5)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with everything that a page can have."""
    rng = np.random.default_rng(0)
    curves = {"pneumothorax": {"trained": (rng.integers(0, 2, 50), rng.normal(size=50))}}
    growth = {"effusion": {"trained": [(3, 0.5, 0.4, 0.6), (160, 0.7, np.nan, np.nan)]}}
    cells = [Cell("0.700", "[0.600, 0.800]", "good")]
    sections = [
        Section("Results", ["<b>escaped</b> & kept"], figures=[forest()]),
        Section("About", facts=[("run", "x" * 90), ("step", "250")]),
        Section(
            "Images",
            strips=[Strip([('<img alt="grey" src="data:,">', "one slice")] * 6, "caption")],
        ),
        Section("Table", tables=[Table(["task", *WIDE], [[Cell("effusion"), *cells * 9]])]),
        Section(
            "Wider than any page",
            tables=[Table(["task", *WIDE, *WIDE], [[Cell("effusion"), *cells * 18]])],
            fold=True,
        ),
        Section(
            "Curves",
            figures=[roc_curves(curves), growth_curves(growth, {"effusion": "AUROC"})],
            fold=True,
        ),
        Section(
            "Flow",
            figures=[
                FlowChart(
                    [FlowStep("lines of manifests", 1200, [("refused: truncated", 3)])],
                    [FlowStep("train", 800), FlowStep("test", 397)],
                )
            ],
            pre="x" * 300,
            pre_title="config",
            fold=True,
        ),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    glance = [ShareBars("won", [Share("against random", [(3, "better in", "good")])])]
    write_page(
        path, "Title", "subtitle", ["A verdict."], sections, notices=["Phantoms."], glance=glance
    )
    return path


def test_text_is_escaped_and_figures_are_not(page):
    text = page.read_text()
    assert "&lt;b&gt;escaped&lt;/b&gt; &amp; kept" in text
    assert text.count("<svg") == 2
    assert not list(page.parent.glob("*.part"))


def test_every_cell_of_a_table_names_its_column_for_a_phone(page):
    text = page.read_text()
    assert len(re.findall(r'<td data-label="a long name of column \d" class="good">', text)) == 27


def test_it_says_what_it_is_not_and_what_must_not_be_missed(page):
    notices = re.search(r'<div class="notices".*?</div>', page.read_text(), re.DOTALL)[0]
    assert "no medical device" in notices
    assert "Phantoms." in notices


def test_it_needs_no_network_and_no_script_and_knows_the_dark(page):
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_details_are_folded_and_the_contents_name_every_section(page):
    text = page.read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert re.findall(r'<a href="#s\d+">(.*?)</a>', text) == titles
    assert text.index('id="details"') < text.index("<h2>Wider than any page</h2>")
    assert text.count('<details class="section">') == 3
    assert text.count('<details class="section" open>') == 4


def test_the_same_page_is_made_from_its_contents(page, tmp_path):
    text = page.with_suffix(".json").read_text()
    assert Page.from_json(text).html() == page.read_text()
    (tmp_path / "report.json").write_text(text)
    assert remake(tmp_path).read_text() == page.read_text()


def test_the_contents_are_numbers_that_others_can_draw(page):
    found = json.loads(page.with_suffix(".json").read_text())
    rows = found["sections"][0]["figures"][0]["groups"][0]["rows"]
    assert (rows[1]["value"], rows[1]["low"], rows[1]["high"]) == (0.71, 0.6, 0.8)
    band = found["sections"][5]["figures"][1]["panels"][0]["lines"][0]["band"]
    assert band == [[0.4, 0.6], [None, None]]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1, "title": 1, "colour": 2}'])
def test_what_is_no_page_is_a_mistake_in_one_sentence(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=r"report\.json is not the contents of a report"):
        remake(tmp_path)


def test_a_folder_without_a_report_is_a_mistake_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"report\.json: No such file"):
        remake(tmp_path)


def test_a_browser_shows_it_whole_at_every_width(page):
    assert_readable(page, (390, 768, 1280))


def test_a_browser_tells_a_page_that_is_cut_or_overlaps(tmp_path):
    """The check itself: names that overlap are found, and a table that is wider than its box."""
    page = tmp_path / "report.html"
    words = '<p style="position:absolute;left:9px;top:90px">one label</p>' * 2
    wide = f'<div class="wide"><table><tr><td>{"w" * 300}</td></tr></table></div>'
    write_page(page, "Title", "", [], [Section("A", ["b"], figures=[words, wide])])
    seen = look_at(page, (390,))[390]
    assert seen["overlaps"]
    assert seen["cut"]
