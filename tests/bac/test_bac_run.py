"""From files to tables and to the report, with a model that knows the truth in the place of one
that was trained.
"""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from mmv_jax.bac import evaluate, run, sources
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.view import ViewFrame
from mmv_jax.bac.write import MUSCLE_COLOUR
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.phantom.files import write_png
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def knowing(women, fitted, monkeypatch):
    """Every view's probability is its truth: what is tested is the way there and back."""
    finder = Finder.restore(fitted)
    truth = {}
    for line in lines_of(women / "manifest.csv"):
        study = read_study(women / line["path"])
        truth[study.voxels.tobytes()] = read_mask(women / line["bac_mask"], like=study)[0]

    def probabilities(self, voxels, spacing_mm, *, mirrored):
        assert mirrored
        frame = ViewFrame.of(voxels, spacing_mm)
        known = truth.get(np.ascontiguousarray(voxels[None]).tobytes())
        return (known if known is not None else np.zeros(voxels.shape)).astype(np.float32), frame

    monkeypatch.setattr(Finder, "probabilities", probabilities)
    monkeypatch.setattr(
        Finder,
        "restore",
        classmethod(
            lambda cls, *_: replace(finder, measure=replace(finder.measure, least_mm2=0.0))
        ),
    )
    return lines_of(women / "manifest.csv")


def test_the_views_of_a_woman_are_one_study(women):
    tags = [pydicom.dcmread(women / line["path"]) for line in lines_of(women / "manifest.csv")]
    assert len({tag.StudyInstanceUID for tag in tags}) == len({tag.PatientID for tag in tags}) == 3


def test_areas_of_views_and_women_are_those_of_the_truth(women, knowing, fitted, tmp_path):
    told = run.measure_files([women / line["path"] for line in knowing], fitted, tmp_path / "out")
    views, found = lines_of(tmp_path / "out/views.csv"), lines_of(tmp_path / "out/women.csv")
    for line, view in zip(knowing, views):
        assert (view["side"], view["view"], view["counted"]) == (
            line["laterality"],
            line["view"],
            "yes",
        )
        assert float(view["area_mm2"]) == pytest.approx(float(line["area_mm2"]), abs=2e-4)
    areas = {
        line["patient_id"]: (float(line["woman_area_mm2"]), line["severity"]) for line in knowing
    }
    for woman, (area, severity) in zip(found, areas.values()):
        assert (float(woman["area_mm2"]), woman["severity"]) == (
            pytest.approx(area, abs=2e-4),
            severity,
        )
    assert len(lines_of(tmp_path / "out/breasts.csv")) == 2 * len(areas)
    record = json.loads((tmp_path / "out/provenance.json").read_text())
    assert record["digest"] and record["studies"] == len(views) and record["versions"]["jax"]
    assert record["config"]["measure"]["of_views"]
    assert not any(name in told + (tmp_path / "out/views.csv").read_text() for name in areas)


def test_each_view_has_an_overlay_and_each_calcified_one_a_segmentation(
    women, knowing, fitted, tmp_path
):
    run.measure_files([women / line["path"] for line in knowing[:4]], fitted, tmp_path / "out")
    assert [path.name for path in sorted((tmp_path / "out/overlays").iterdir())] == [
        f"{n + 1:04d}_{line['laterality']}_{line['view']}.png" for n, line in enumerate(knowing[:4])
    ]
    calcified = [n for n, line in enumerate(knowing[:4], start=1) if float(line["area_mm2"]) > 0]
    assert [path.name for path in sorted((tmp_path / "out/segmentations").iterdir())] == [
        f"{n:04d}.dcm" for n in calcified
    ]
    maps = sorted((tmp_path / "out/anatomy").iterdir())
    areas = lines_of(tmp_path / "out/anatomy.csv")
    assert [path.name for path in maps] == [f"{n:04d}.png" for n in range(1, 5)]
    for line, path, row in zip(knowing[:4], maps, areas):
        shown = np.asarray(Image.open(path))
        assert shown.shape == read_study(women / line["path"]).voxels.shape[1:]
        assert float(row["breast_mm2"]) == pytest.approx((shown == 1).sum() * 0.25, rel=0.1)


def test_a_breast_in_which_too_little_is_sure_has_no_calcification_anywhere(
    women, knowing, fitted, tmp_path, monkeypatch
):
    """In no table, no overlay, no segmentation: as with a view in which nothing is seen."""
    finder = Finder.restore(fitted)
    files = [women / line["path"] for line in knowing[:2]]
    monkeypatch.setattr(
        Finder, "restore", classmethod(lambda cls, *_: finder.with_measure(least_mm2=1e6))
    )
    run.measure_files(files, fitted, tmp_path / "unsure")
    monkeypatch.setattr(
        Finder,
        "restore",
        classmethod(lambda cls, *_: finder.with_measure(threshold=0.999, least_group_mm2=1e6)),
    )
    run.measure_files(files, fitted, tmp_path / "none")
    for out in ("unsure", "none"):
        assert {
            (view["pixels"], float(view["area_mm2"]))
            for view in lines_of(tmp_path / out / "views.csv")
        } == {("0", 0.0)}
        assert not list((tmp_path / out / "segmentations").iterdir())
    shown = [
        [path.read_bytes() for path in sorted((tmp_path / out / "overlays").iterdir())]
        for out in ("unsure", "none")
    ]
    assert shown[0] == shown[1]
    left, right = np.split(
        np.asarray(Image.open(next((tmp_path / "unsure/overlays").iterdir()))), 2, axis=1
    )
    lined = (left != right).any(axis=-1)
    assert not lined.any() or set(map(tuple, right[lined])) == {MUSCLE_COLOUR}  # no other line


def test_a_file_that_changes_while_others_are_measured_costs_its_pictures_alone(
    women, knowing, fitted, tmp_path, monkeypatch
):
    plain, seen = run.read_mammogram, []

    def gone_the_second_time(entry):
        seen.append(entry.number)
        if seen.count(1) == 2 and entry.number == 1:
            raise Refused("not_found", "there is no such file, or no right to read it")
        return plain(entry)

    monkeypatch.setattr(run, "read_mammogram", gone_the_second_time)
    told = run.measure_files(
        [women / line["path"] for line in knowing[:2]], fitted, tmp_path / "out"
    )
    assert "file 1: not all of its pictures are written: there is no such file" in told
    assert [view["number"] for view in lines_of(tmp_path / "out/views.csv")] == ["1", "2"]
    assert [path.name[:4] for path in (tmp_path / "out/overlays").iterdir()] == ["0002"]


def test_tables_of_an_earlier_run_do_not_stay_where_the_next_one_fails(
    women, knowing, fitted, tmp_path
):
    run.measure_files([women / knowing[0]["path"]], fitted, tmp_path / "out")
    (tmp_path / "broken.dcm").write_bytes(b"not an image")
    with pytest.raises(WorkFailed):
        run.measure_files([tmp_path / "broken.dcm"], fitted, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.csv"))


def test_one_key_gives_a_woman_one_name(women, knowing, fitted, tmp_path):
    file = [women / knowing[0]["path"]]
    for out in ("a", "b"):
        run.measure_files(file, fitted, tmp_path / out, key_path=tmp_path / "key")
    run.measure_files(file, fitted, tmp_path / "c")
    first, second, third = (lines_of(tmp_path / out / "women.csv")[0]["woman"] for out in "abc")
    assert first == second != third


def test_without_a_spacing_there_are_pixels_and_no_area(knowing, fitted, tmp_path):
    write_png(tmp_path / "view.png", np.tile(np.arange(200, dtype=np.uint16), (200, 1)))
    with pytest.raises(WorkFailed, match="No area in mm²"):
        run.measure_files([tmp_path / "view.png"], fitted, tmp_path / "out")
    (view,) = lines_of(tmp_path / "out/views.csv")
    assert (view["counted"], view["area_mm2"], view["pixels"]) == ("no", "", "0")


def test_an_image_that_is_given_twice_counts_once(women, knowing, fitted, tmp_path):
    first = women / knowing[0]["path"]
    told = run.measure_files([first, women / knowing[1]["path"], first], fitted, tmp_path / "out")
    assert "file 3: the same image as file 1 (SOP Instance UID)" in told
    assert [view["number"] for view in lines_of(tmp_path / "out/views.csv")] == ["1", "2"]


def test_one_woman_in_two_spellings_is_told_by_hashes(women, knowing, fitted, tmp_path):
    for n, name in enumerate(("PAT-007", "pat7", "PAT-008")):
        ds = pydicom.dcmread(women / knowing[0]["path"])
        ds.PatientID, ds.SOPInstanceUID = name, f"1.2.{n + 1}"
        ds.save_as(tmp_path / f"{n}.dcm")
    told = run.measure_files(sorted(tmp_path.glob("*.dcm")), fitted, tmp_path / "out")
    hashes = [woman["woman"] for woman in lines_of(tmp_path / "out/women.csv")]
    assert f"{hashes[0]} and {hashes[1]} may be one woman" in told
    assert hashes[2] not in told.split("may be one woman")[1] and "PAT" not in told


def test_a_broken_file_stops_nothing(women, knowing, fitted, tmp_path):
    (tmp_path / "broken.dcm").write_bytes(b"not an image")
    told = run.measure_files(
        [tmp_path / "broken.dcm", women / knowing[0]["path"]], fitted, tmp_path / "out"
    )
    assert "file 1:" in told
    assert [view["number"] for view in lines_of(tmp_path / "out/views.csv")] == ["2"]
    with pytest.raises(WorkFailed, match="No mammogram"):
        run.measure_files([tmp_path / "broken.dcm"], fitted, tmp_path / "nothing")


def test_the_report_of_a_model_that_knows_is_perfect(women, knowing, fitted, tmp_path):
    about = {"title": "Women of the generator", "data": "three women"}
    told = evaluate.evaluate_mammograms(women / "manifest.csv", fitted, tmp_path, about=about)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    views, found = (metrics[task]["trained"] for task in ("bac_views", "bac_women"))
    assert views["dice"]["value"] == views["dice_pooled"]["value"] == views["area_r2"]["value"] == 1
    assert (found["severity_accuracy"]["value"], found["severity_accuracy"]["n"]) == (1.0, 3)
    assert metrics["bac_anatomy"]["trained"]["dice_breast"]["n"] == 12  # views
    low, high = found["severity_accuracy"]["ci95"]
    assert low == pytest.approx(0.025 ** (1 / 3)) and high == 1  # three of three, exactly
    kept = json.loads((tmp_path / "provenance.json").read_text())
    assert kept["file"] == "manifest.csv" and kept["digest"] and kept["step"]
    areas = pd.read_parquet(tmp_path / "predictions.parquet")
    assert areas["predicted"].tolist() == areas["truth"].tolist()
    assert areas["woman"].nunique() == 3  # numbers: the manifest's own names do not leave
    page = (tmp_path / "report.html").read_text()
    assert "Bland" in page and "<h1>Women of the generator</h1>" in page
    assert "three women; phantoms: computed images" in page
    assert "Green: the truth" in page
    assert "All studies are phantoms" in page and "nobody: the generator of the phantoms" in page
    assert "Dice of calcified pixels" in told


@pytest.mark.full
def test_the_rule_in_use_has_the_same_figures_among_the_other_rules(
    women, knowing, fitted, tmp_path
):
    """A rule of the table, on probabilities that are 0 and 1: each threshold finds the same, and
    each least area another.
    """
    evaluate.evaluate_mammograms(
        women / "manifest.csv",
        fitted,
        tmp_path,
        measure={"threshold": 0.5, "least_group_mm2": 0.3, "least_mm2": 0.5},
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    page = (tmp_path / "report.html").read_text()
    line = re.search(r"0\.5, 0\.3 and 0\.5 mm².*?</tr>", page, re.DOTALL)[0]
    figures = [float(number) for number in re.findall(r">\s*(-?\d\.\d{3})", line)]
    scores = metrics["bac_views"]["trained"] | metrics["bac_women"]["trained"]
    names = ("dice", "area_r2", "severity_accuracy", "sensitivity")
    assert figures == [round(scores[name]["value"], 3) for name in names]
    assert "zero_specificity" not in scores  # every woman is calcified


def bare_manifest(women, lines, **changed):
    """The lines with some columns set to other words, beside the images."""
    with (women / "changed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(line | changed for line in lines)
    return women / "changed.csv"


@pytest.mark.full
def test_women_without_any_calcification_are_compared_without_dice(
    women, knowing, fitted, tmp_path
):
    write_png(women / "empty.png", np.zeros((280, 200), np.uint8))
    evaluate.evaluate_mammograms(
        bare_manifest(women, knowing, bac_mask="empty.png"), fitted, tmp_path
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["bac_views"]["trained"]) == {"area_mae"}
    specificity = metrics["bac_women"]["trained"]["zero_specificity"]
    assert (specificity["value"], specificity["ci95"][0], specificity["n"]) == (0.0, 0.0, 3)
    assert specificity["ci95"][1] == pytest.approx(1 - 0.025 ** (1 / 3))  # none of three


@pytest.mark.full
def test_a_single_woman_is_compared_without_r2(women, knowing, fitted, tmp_path):
    evaluate.evaluate_mammograms(bare_manifest(women, knowing[:4]), fitted, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["bac_women"]["trained"]) == {"area_mae", "severity_accuracy", "sensitivity"}


@pytest.mark.full
def test_a_mask_of_another_shape_is_told_and_the_others_are_compared(
    women, knowing, fitted, tmp_path
):
    write_png(women / "small.png", np.zeros((35, 25), np.uint8))
    lines = [knowing[0] | {"bac_mask": "small.png"}, *knowing[1:]]
    told = evaluate.evaluate_mammograms(bare_manifest(women, lines), fitted, tmp_path)
    assert "mammogram 1 is not compared with the truth" in told
    assert (
        json.loads((tmp_path / "metrics.json").read_text())["bac_views"]["trained"]["area_mae"]["n"]
        == len(knowing) - 1
    )


def test_views_of_which_none_counts_are_no_comparison(
    women, knowing, fitted, tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "COUNTED_VIEWS", ("ML",))
    with pytest.raises(WorkFailed, match="neither CC nor MLO"):
        evaluate.evaluate_mammograms(women / "manifest.csv", fitted, tmp_path)


@pytest.mark.full
def test_pictures_of_an_earlier_run_do_not_stay(women, knowing, fitted, tmp_path):
    run.measure_files([women / line["path"] for line in knowing[:4]], fitted, tmp_path / "out")
    run.measure_files([women / knowing[5]["path"]], fitted, tmp_path / "out")
    names = [
        path.name
        for folder in ("overlays", "segmentations")
        for path in (tmp_path / "out" / folder).iterdir()
    ]
    assert names == [f"0001_{knowing[5]['laterality']}_{knowing[5]['view']}.png", "0001.dcm"]


def test_measured_areas_meet_the_outcomes_of_a_cohort(women, knowing, fitted, tmp_path):
    """Women without an outcome in the images' manifest are an error of the cohort, not a zero."""
    rng = np.random.default_rng(0)
    with (tmp_path / "cohort.csv").open("w") as file:
        file.write("patient_id,time_years,event,age\n")
        file.writelines(
            f"nobody-{n},{rng.uniform(1, 9):.2f},{n % 3},{rng.uniform(40, 80):.0f}\n"
            for n in range(5)
        )
    with pytest.raises(UserError, match="cohort.csv"):
        evaluate.evaluate_mammograms(
            women / "manifest.csv", fitted, tmp_path, cohort=str(tmp_path / "cohort.csv")
        )


def test_neither_truth_nor_cohort_is_nothing_to_evaluate(women, knowing, fitted, tmp_path):
    with (women / "bare.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [name for name in knowing[0] if name != "bac_mask"], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(knowing[:1])
    with pytest.raises(UserError, match="bac_mask"):
        evaluate.evaluate_mammograms(women / "bare.csv", fitted, tmp_path)


def test_mirror_images_are_turned_back_and_averaged(women, fitted, monkeypatch):
    finder = Finder.restore(fitted)
    study = read_study(women / lines_of(women / "manifest.csv")[0]["path"])
    spacing = study.spacing_mm[1], study.spacing_mm[2]
    # what a mirror image shows is where it was
    monkeypatch.setattr(Finder, "_of_tiles", lambda self, tiles: [tile.image for tile in tiles])
    plain, _ = finder.probabilities(study.voxels[0], spacing)
    np.testing.assert_array_equal(
        finder.probabilities(study.voxels[0], spacing, mirrored=True)[0], plain
    )
    # what does not turn with the image is levelled out
    across = np.tile(np.arange(finder.shape.tile, dtype=np.float32), (finder.shape.tile, 1))
    monkeypatch.setattr(Finder, "_of_tiles", lambda self, tiles: [across for _ in tiles])
    found, frame = finder.probabilities(study.voxels[0], spacing, mirrored=True)
    np.testing.assert_allclose(
        found[frame.breast_pixels((0, 0), found.shape)], across.mean(), rtol=1e-5
    )


def test_a_small_real_model_goes_the_whole_way(women, fitted, tmp_path):
    first = lines_of(women / "manifest.csv")[0]
    finder = Finder.restore(fitted)
    study = read_study(women / first["path"])
    spacing = study.spacing_mm[1], study.spacing_mm[2]
    found, frame = finder.probabilities(study.voxels[0], spacing)
    assert found.shape == study.voxels.shape[1:]
    inside = frame.breast_pixels((0, 0), found.shape)
    assert (found[~inside] == 0).all()
    assert ((found[inside] > 0) & (found[inside] < 1)).all()
    low, _ = finder.with_measure(threshold=float(np.quantile(found[inside], 0.99))).seen(
        found, frame, study.voxels.shape[1:], spacing
    )
    assert math.isclose(low.sum() / inside.sum(), 0.01, rel_tol=0.1)


def test_rules_of_the_caller_stand_in_the_place_of_the_checkpoints(
    women, knowing, fitted, tmp_path
):
    told = evaluate.evaluate_mammograms(
        women / "manifest.csv", fitted, tmp_path, measure={"least_mm2": 1e6}
    )
    assert "women with calcification who are found not free of it: 0.000" in told
    assert "Other rules of measuring" in (tmp_path / "report.html").read_text()
