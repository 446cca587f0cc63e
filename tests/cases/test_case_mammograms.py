"""Mammograms that are whole and must not count as a routine view of a whole breast.

The finder calls every pixel of the breast calcified, so areas are those of breasts and only the
rules of counting are tested.
"""

import csv

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from mmv_jax.bac import run
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.measure import Measure
from mmv_jax.bac.model import make_model
from mmv_jax.bac.view import ViewFrame
from mmv_jax.phantom.files import MammogramTags, write_mg

# never run: `probabilities` is replaced
SMALL = {
    "encoder": dict(size="nano", depth=1, patch=(1, 8, 8), registers=1, scale_mm=6.4),
    "head": dict(channels=4),
    "tiles": dict(tile=32, overlap=8, per_row=2),
}
PARTS = {
    "spot": {"modifiers": ["399055006"]},
    "tangential, older code": {"modifiers": ["R-102C2"]},
    "axillary tail": {"modifiers": ["399011000"]},
    "rolled": {"modifiers": ["399197002"]},
    "magnification": {"modifiers": ["399163009"]},
    "a modifier without a code": {"modifiers": [""]},
    "partial": {"PartialView": "YES"},
    "partial, described": {"PartialView": None, "PartialViewDescription": "lower half"},
    "said in the description": {"SeriesDescription": "L_CC_SPOT-MAG"},
    "said of the paddle": {"PaddleDescription": "10CM SPOT CONTACT"},
    "a specimen": {"SeriesDescription": "Specimen radiograph L"},
    "another view code": {"view_code": "399265009"},
}
COMPUTED = {
    "C-View": {"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]},
    "one word": {"ImageType": "GENERATED_2D"},
    "described": {"SeriesDescription": "L CC C-View"},
    "synthesised": {"SeriesDescription": "L CC Synthesized 2D"},
    "Insight": {"AcquisitionDeviceProcessingDescription": "Insight_2D"},
    "a slab stored as tomosynthesis": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.13.1.3"},
    "made of tomosynthesis": {"source": "1.2.840.10008.5.1.4.1.1.13.1.3"},
    "contrast, recombined": {"SeriesDescription": "L CC Recombined"},
}
HARMLESS = {
    "no word": {},
    "nipple in profile": {"modifiers": ["442581004"]},
    "empty modifiers": {"modifiers": []},
    "not partial": {"PartialView": "NO", "PartialViewDescription": "none"},
    "derived for presentation": {"ImageType": ["DERIVED", "PRIMARY"]},
    "a study with tomosynthesis": {
        "StudyDescription": "MG Screening Tomosynthesis, spot if needed"
    },
}


def item(**values) -> Dataset:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def mammogram(path, patient, depth=1.0, *, modifiers=None, source=None, view_code=None, **tags):
    """A half disc of tissue at the chest wall, `depth` times as deep."""
    y, x = np.mgrid[:300, :240]
    inside = ((y - 150) / 138) ** 2 + (x / (204 * depth)) ** 2 < 1
    noise = np.random.default_rng(0).integers(-200, 200, inside.shape)
    values = np.where(inside, 2000 + noise, 5).astype(np.uint16)
    who = MammogramTags(f"{patient}-LCC", patient, "L", "CC", 61)
    write_mg(path, values, 0.1, who, magnification=1.0, inverted=False)
    ds = pydicom.dcmread(path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    if modifiers is not None:
        ds.ViewCodeSequence[0].ViewModifierCodeSequence = [item(CodeValue=c) for c in modifiers]
    if view_code:
        ds.ViewCodeSequence[0].CodeValue = view_code
    if source:
        ds.SourceImageSequence = [item(ReferencedSOPClassUID=source)]
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.save_as(path)
    return path


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measures files; returns the lines of views.csv, and each woman's area by her first view."""

    def probabilities(self, voxels, spacing_mm, *, mirrored):
        frame = ViewFrame.of(voxels, spacing_mm)
        return frame.breast_pixels((0, 0), frame.shape).astype(np.float32), frame

    rule = Measure(0.5, 0.0, "mean", "sum", severity_mm2=(0.0, 10.0, 25.0))
    model, shape = make_model(SMALL)
    finder = Finder(model, None, shape=shape, measure=rule)
    monkeypatch.setattr(Finder, "probabilities", probabilities)
    monkeypatch.setattr(Finder, "restore", classmethod(lambda cls, *_: finder))

    def run_on(files):
        run.measure_files(files, tmp_path, tmp_path / "out")
        with (tmp_path / "out/views.csv").open() as file:
            views = list(csv.DictReader(file))
        with (tmp_path / "out/women.csv").open() as file:
            women = {line["woman"]: line["area_mm2"] for line in csv.DictReader(file)}
        return views, [women[view["woman"]] for view in views]

    return run_on


def test_special_views(measured, tmp_path):
    """A woman with a part of her breast beside the whole has the area of the whole."""
    files = [mammogram(tmp_path / "whole.dcm", "whole")]
    for n, change in enumerate(PARTS.values()):
        files.append(mammogram(tmp_path / f"{n}a.dcm", f"w{n}"))
        files.append(mammogram(tmp_path / f"{n}b.dcm", f"w{n}", 0.4, **change))
    views, areas = measured(files)
    assert [v["counted"] for v in views] == ["yes", *["yes", "no"] * len(PARTS)]
    assert float(areas[0]) > 300 and set(areas) == {areas[0]}


def test_views_that_nothing_makes_special_count(measured, tmp_path):
    files = [
        mammogram(tmp_path / f"{n}.dcm", f"w{n}", **change)
        for n, change in enumerate(HARMLESS.values())
    ]
    assert {(v["counted"], v["remark"]) for v in measured(files)[0]} == {("yes", "")}


def test_synthetic_2d(measured, tmp_path):
    """An image computed from tomosynthesis, or recombined, is no second measurement."""
    files = [mammogram(tmp_path / "only.dcm", "only")]
    for n, change in enumerate(COMPUTED.values()):
        files.append(mammogram(tmp_path / f"{n}a.dcm", f"w{n}"))
        files.append(mammogram(tmp_path / f"{n}b.dcm", f"w{n}", 0.4, **change))
    views, areas = measured(files)
    assert [v["counted"] for v in views] == ["yes", *["yes", "no"] * len(COMPUTED)]
    assert set(areas) == {areas[0]}


DISTANCES = {
    "no factor": {"EstimatedRadiographicMagnificationFactor": None, "mm": 0.055},
    "a factor of 1 that nobody filled in": {
        "EstimatedRadiographicMagnificationFactor": 1.0,
        "mm": 0.055,
    },
    "distances in cm": {
        **dict(EstimatedRadiographicMagnificationFactor=None, mm=0.055),
        **dict(DistanceSourceToDetector=66.0, DistanceSourceToPatient=36.3),
    },
    "the factor": {"EstimatedRadiographicMagnificationFactor": 1.82, "mm": 0.1 / 1.82},
}


def test_geometry_magnification(measured, tmp_path):
    """Distances of 660 and 363 mm magnify 1.82 times: such a view does not count."""
    contact = dict(DistanceSourceToDetector=660, DistanceSourceToPatient=650)
    files = [mammogram(tmp_path / "contact.dcm", "contact", **contact)]
    for n, change in enumerate(DISTANCES.values()):
        tags = dict(DistanceSourceToDetector=660, DistanceSourceToPatient=363) | change
        del tags["mm"]
        files.append(mammogram(tmp_path / f"{n}.dcm", f"w{n}", **tags))
    views, areas = measured(files)
    assert [v["counted"] for v in views] == ["yes", *["no"] * len(DISTANCES)]
    for view, change in zip(views[1:], DISTANCES.values()):
        assert float(view["pixel_mm_y"]) == pytest.approx(change["mm"], abs=1e-6)
        assert view["remark"] == "a magnification view"
    assert float(areas[0]) > 0 and set(areas[1:]) == {""}


def test_a_part_without_a_spacing_leaves_the_area_of_the_whole_known(measured, tmp_path):
    part = dict(modifiers=["399055006"], ImagerPixelSpacing=None)
    files = [
        mammogram(tmp_path / "a.dcm", "one"),
        mammogram(tmp_path / "b.dcm", "one", 0.4, **part),
    ]
    views, areas = measured(files)
    assert [view["counted"] for view in views] == ["yes", "no"]
    assert float(areas[0]) > 300


def test_no_study_date(measured, tmp_path):
    """Two examinations that cannot be put in order give no area; with dates the latest counts."""
    files = [
        mammogram(tmp_path / f"{n}.dcm", who, depth, StudyInstanceUID=generate_uid(), StudyDate=day)
        for n, (who, depth, day) in enumerate(
            [("undated", 1.0, ""), ("undated", 0.4, ""), ("half", 1.0, "20110101")]
            + [("half", 0.4, ""), ("dated", 1.0, "20110101"), ("dated", 0.4, "20120101")]
        )
    ]
    views, areas = measured(files)
    assert [view["counted"] for view in views] == ["no"] * 5 + ["yes"]
    assert areas[:4] == [""] * 4 and float(areas[4]) < 200
