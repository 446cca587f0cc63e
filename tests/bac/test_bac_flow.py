"""Every line, mammogram and woman of an evaluation is counted once, and the checklists say so."""

import csv
import json

import numpy as np
import pydicom
import pytest

from mmv_jax.bac import evaluate
from mmv_jax.bac.flow import LinesFlow, MammogramFlow, ViewsFlow, WomenFlow
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.stated import Evaluated, state_mammograms
from mmv_jax.outcomes.analysis import analyse
from mmv_jax.outcomes.simulate import simulate_cohort
from mmv_jax.phantom.files import write_png
from mmv_jax.report.about import About, Studies
from mmv_jax.report.page import remake


def planted_lines(women):
    """Of four women: a mask of another grid, two views without a mask, a broken file, a film
    without a pixel spacing; and lines of another modality, another split and no split.
    """
    with (women / "manifest.csv").open(newline="") as file:
        lines = [line | {"split": "test"} for line in csv.DictReader(file)]
    write_png(women / "small_mask.png", np.zeros((35, 25), np.uint8))
    (women / "broken.dcm").write_bytes(b"no image" * 100)
    pixels = pydicom.dcmread(women / lines[8]["path"]).pixel_array
    write_png(women / "film.png", (pixels // 64).clip(0, 255).astype(np.uint8))
    film = {"path": "film.png", "patient_id": "d", "spacing_mm": ""}
    chosen = [
        lines[0] | {"bac_mask": "small_mask.png"},
        *lines[1:4],
        *(line | {"bac_mask": ""} for line in lines[4:6]),
        lines[8],
        lines[9] | {"path": "broken.dcm"},
        lines[10] | film,
        lines[11] | {"patient_id": "e", "modality": "CXR"},
        lines[11] | {"patient_id": "f", "split": "val"},
        lines[11] | {"patient_id": "g", "split": "never"},
    ]
    return [line | {"study_id": f"s{n}"} for n, line in enumerate(chosen)]


@pytest.fixture(scope="module")
def planted(women, fitted, tmp_path_factory):
    """The workdir of an evaluation."""
    lines = planted_lines(women)
    with (women / "planted.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, lines[0])
        out.writeheader()
        out.writerows(lines)
    workdir = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        # What is found does not matter here, and the network is slow.
        patch.setattr(Finder, "_of_tiles", lambda self, tiles: [np.zeros((32, 32))] * len(tiles))
        evaluate.evaluate_mammograms(women / "planted.csv", fitted, workdir, splits=("test",))
    return workdir


def test_every_line_mammogram_and_woman_is_counted_once(planted):
    flow = json.loads((planted / "protocol.json").read_text())["flow"]
    assert flow["manifest"] == {
        "lines": 12,
        "refused": {"bad_split": 1},
        "other_modality": 1,
        "other_split": 1,
        "listed": 9,
    }
    views = flow["mammograms"]
    assert sum(views["refused"].values()) == 1 and views["read"] == 8
    assert sorted(views["without_truth"].values()) == [1, 1, 2]
    assert views["without_truth"]["no bac_mask named"] == 2
    assert views["without_truth"]["no pixel spacing"] == 1
    assert views["compared"] == 4
    women = flow["women"]
    counts = [women[name] for name in ("read", "without_area", "without_truth", "compared")]
    assert counts == [4, 1, 1, 2]
    assert sum(women["by_true_severity"].values()) == 2 and women["examinations"] == 4
    metrics = json.loads((planted / "metrics.json").read_text())
    assert metrics["bac_women"]["trained"]["area_mae"]["n"] == women["compared"]


def test_the_checklists_say_what_is_there_and_what_is_not(planted):
    protocol = json.loads((planted / "protocol.json").read_text())
    assert [item["item"] for item in protocol["claim_2024"]] == [str(n) for n in range(1, 45)]
    said = {item["item"]: item["fulfilled"] for item in protocol["claim_2024"]}
    # Both women are calcified, so that there is no specificity.
    assert (said["18"], said["33"], said["38"]) == ("no", "no", "partly")
    points = {(i["item"], i["asks"]): i["fulfilled"] for i in protocol["metrics_reloaded"]}
    assert points["calcified pixels", "overlap"] == "yes"
    assert points["calcified pixels", "boundary"] == "no"
    assert points["area", "category"] == "no"
    assert "strobe_2007" not in protocol


def test_the_page_shows_the_flow_and_is_made_anew_from_its_file(planted):
    page = (planted / "report.html").read_text()
    assert "<h2>Flow of mammograms" in page and "<h2>Checklist of CLAIM" in page
    assert "mammograms compared with their truth <b>4</b>" in page
    (planted / "report.html").unlink()
    remake(planted)
    assert (planted / "report.html").read_text() == page


def test_a_cohort_beside_mammograms_adds_its_women_and_strobe():
    analysis = analyse(simulate_cohort(1500, 4), adjust=("age",), horizons=())
    lines = LinesFlow(lines=1600, refused={}, other_modality=0, other_split=0, listed=1600)
    views = ViewsFlow({}, 1600, {}, without_truth={"no bac_mask named": 1600}, compared=0)
    women = WomenFlow(1600, 1600, 0, without_truth=1600, compared=0, by_true_severity={})
    seen = Evaluated(
        Studies(1600, 0, About()),
        MammogramFlow(lines, views, women),
        {},
        analysis=analysis,
        drawn=False,
    )
    protocol, sections = state_mammograms(seen)
    cohort = protocol["flow"]["cohort"]
    assert (cohort["measured_and_not_in_the_file"], cohort["analysed"]) == (100, 1500)
    assert len(protocol["strobe_2007"]) == 32
    said = {item["item"]: item["fulfilled"] for item in protocol["claim_2024"]}
    # Without a truth nobody read it, and nothing is compared with it.
    assert (said["14"], said["37"], said["38"]) == ("no", "no", "no")
    titles = [section.title for section in sections]
    assert titles[:2] == ["Flow of mammograms", "Flow of women"]
    assert [t.removeprefix("Checklist of ") for t in titles[2:]] == [
        "CLAIM",
        "STROBE",
        "Metrics Reloaded",
    ]
