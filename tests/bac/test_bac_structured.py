"""A woman's structured report and her page, opened again."""

import re

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.sr.codedict import codes

from mmv_jax.bac.measure import BreastResult, ViewResult, WomanResult
from mmv_jax.bac.structured import SEVERITY_CODES, Measured, write_report
from mmv_jax.bac.woman_page import write_woman
from mmv_jax.bac.write import write_segmentation
from mmv_jax.phantom.files import MammogramTags, write_mg

NAN = float("nan")


def view(number, side, name, area, remark=""):
    return ViewResult(
        number=number,
        woman="w",
        side=side,
        view=name,
        remark=remark,
        spacing_mm=(0.1, 0.1),
        pixels=int(100 * area) if area == area else 0,
        area_mm2=area,
        sure_mm2=0.0,
    )


@pytest.fixture
def files(tmp_path):
    """Two views of a woman, of which the left one has 3.21 mm² of calcium."""
    found = []
    for n, (side, area) in enumerate((("L", 3.21), ("R", 0.0)), start=1):
        image = np.random.default_rng(n).integers(0, 4096, (60, 41)).astype(np.uint16)
        source, segmentation = tmp_path / f"{side}.dcm", tmp_path / f"{side}_seg.dcm"
        who = MammogramTags(f"study-{side}CC", "woman-1", side, "CC", 61)
        write_mg(source, image, 0.1, who, magnification=1.0, inverted=False)
        mask = np.zeros(image.shape, bool)
        mask.flat[: 321 if area else 0] = True
        has_mask = write_segmentation(segmentation, source, mask)
        found.append(
            Measured(view(n, side, "CC", area), source, segmentation if has_mask else None)
        )
    return found


WOMAN = WomanResult("w", 2, 3.21, "mild")
BREASTS = [BreastResult("w", "L", 1, 3.21), BreastResult("w", "R", 1, 0.0)]


def test_the_report_is_opened_again_with_its_areas_its_severity_and_its_images(files, tmp_path):
    assert write_report(tmp_path / "sr/w.dcm", WOMAN, BREASTS, files)
    report = hd.sr.srread(tmp_path / "sr/w.dcm")
    assert isinstance(report, hd.sr.ComprehensiveSR)
    images = [pydicom.dcmread(f.source) for f in files]
    assert (report.PatientID, report.StudyInstanceUID) == ("woman-1", images[0].StudyInstanceUID)
    groups = report.content.get_planar_roi_measurement_groups()
    groups += report.content.get_image_measurement_groups()
    areas = {
        group.tracking_identifier: group.get_measurements(name=codes.SCT.Area)[0].value
        for group in groups
    }
    assert areas == {
        "L CC 0001": 3.21,
        "R CC 0002": 0.0,
        "L breast": 3.21,
        "R breast": 0.0,
        "both breasts": 3.21,
    }
    (said,) = [g for g in groups if g.tracking_identifier == "both breasts"]
    assert said.get_qualitative_evaluations()[0].value == SEVERITY_CODES["mild"]
    (region,) = report.content.get_planar_roi_measurement_groups()
    segmentation = pydicom.dcmread(files[0].segmentation)
    reference = region.referenced_segmentation_frame[0]
    assert reference.referenced_sop_instance_uid == segmentation.SOPInstanceUID
    (zero,) = [g for g in groups if g.tracking_identifier == "R CC 0002"]
    assert zero.source_images[0].referenced_sop_instance_uid == images[1].SOPInstanceUID
    sites = {g.tracking_identifier: g.finding_sites[0].laterality for g in groups[:2]}
    assert sites["L CC 0001"] == codes.SCT.Left


@pytest.mark.parametrize("severity, area", [("zero", 0.0), ("moderate", 12.0), ("severe", 40.0)])
def test_every_severity_has_its_code(files, tmp_path, severity, area):
    woman = WomanResult("w", 2, area, severity)
    assert write_report(tmp_path / "w.dcm", woman, BREASTS, files)
    text = str(pydicom.dcmread(tmp_path / "w.dcm"))
    assert SEVERITY_CODES[severity].value in text


def test_an_unknown_area_and_a_file_without_a_study_are_no_report(files, tmp_path):
    unknown = WomanResult("w", 2, NAN, "")
    assert not write_report(tmp_path / "w.dcm", unknown, BREASTS, files)
    broken = pydicom.dcmread(files[1].source)
    del broken.StudyInstanceUID
    broken.save_as(files[1].source)
    assert not write_report(tmp_path / "w.dcm", WOMAN, BREASTS, files)
    assert not (tmp_path / "w.dcm").exists()


def test_a_page_shows_every_view_and_says_what_does_not_count(tmp_path):
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "o.png")
    views = [
        (view(1, "L", "CC", 3.21), tmp_path / "o.png"),
        (view(2, "R", "CC", 0.0), tmp_path / "o.png"),
        (view(3, "R", "CC", NAN, "a magnification view"), None),
    ]
    write_woman(tmp_path / "w.html", WOMAN, BREASTS, views)
    page = (tmp_path / "w.html").read_text()
    assert page.count("<img") == 2 and "3.2 mm²" in page and "mild" in page
    assert "a magnification view" in page and "not known" in page
    assert "no medical device" in page and "<script" not in page
    assert not re.search(r"""(src|href)="(?!data:|#)""", page)
    write_woman(tmp_path / "u.html", WomanResult("u", 0, NAN, ""), [], views[2:])
    assert "area not known" in (tmp_path / "u.html").read_text()


def test_the_area_of_one_breast_is_not_called_that_of_both(files, tmp_path):
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "o.png")
    left, woman = BREASTS[:1], WomanResult("w", 1, 3.21, "mild")
    right = (view(2, "R", "CC", 0.0, "an implant"), tmp_path / "o.png")
    write_woman(tmp_path / "w.html", woman, left, [(view(1, "L", "CC", 3.21), None), right])
    page = (tmp_path / "w.html").read_text()
    assert "of the left breast alone (no view of the right one counts): 3.2 mm²" in page
    assert "0.00 mm²; does not count: an implant" in page
    assert write_report(tmp_path / "w.dcm", woman, left, files[:1])
    said = str(pydicom.dcmread(tmp_path / "w.dcm"))
    assert "L breast alone" in said and "both breasts" not in said
