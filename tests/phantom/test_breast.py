import csv

import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy import ndimage

from mmv_jax.errors import UserError
from mmv_jax.phantom.breast import VIEWS, BreastDials, draw_woman, paint_view, severity, woman_area
from mmv_jax.phantom.write import write_phantoms
from mmv_jax.readers.read import read_mask, read_study

SMALL = BreastDials(bac=1.0, breast_pixel_mm=0.25, breast_rows=560, breast_columns=400)


@pytest.fixture(scope="module")
def views():
    woman = draw_woman(2, 6, SMALL)
    return woman, {(side, view): paint_view(woman, side, view, SMALL) for side, view in VIEWS}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("women")
    write_phantoms(
        out, ["breast"], 3, 2, workers=1, breast_pixel_mm=0.4, breast_rows=350, breast_columns=250
    )
    with (out / "manifest.csv").open() as file:
        return out, list(csv.DictReader(file))


def test_the_area_drawn_is_the_area_asked_for(views):
    woman, drawn = views
    for name, shot in drawn.items():
        assert shot.area_mm2 == pytest.approx(woman.area_mm2[name], abs=0.5 * 0.25**2 + 1e-9)


def test_a_calcified_wall_is_brighter_than_what_is_beside_it(views):
    for shot in views[1].values():
        mask = shot.bac > 0
        near = ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(
            mask, iterations=2
        )
        assert shot.image[mask].mean() > shot.image[near].mean() + 80


def test_the_chest_wall_is_at_the_left_of_a_left_breast_and_at_the_right_of_a_right_one(views):
    for (side, _), shot in views[1].items():
        tissue = (shot.image > 30).mean(0)
        assert (tissue[:20].mean() > tissue[-20:].mean()) == (side == "L")


def test_without_calcification_no_pixel_is_marked():
    dials = BreastDials(bac=0.0, breast_pixel_mm=0.4, breast_rows=350, breast_columns=250)
    assert not paint_view(draw_woman(2, 6, dials), "L", "CC", dials).bac.any()


def test_a_quarter_of_the_women_is_in_each_category():
    women = [draw_woman(0, n, BreastDials()) for n in range(400)]
    counts = {
        name: sum(severity(woman_area(w.area_mm2)) == name for w in women)
        for name in ("zero", "mild", "moderate", "severe")
    }
    assert all(70 < count < 130 for count in counts.values()), counts


@pytest.mark.parametrize(
    "area, name",
    [
        (0.0, "zero"),
        (0.1, "mild"),
        (10.0, "mild"),
        (10.1, "moderate"),
        (25.0, "moderate"),
        (25.1, "severe"),
    ],
)
def test_the_bounds_of_the_categories(area, name):
    assert severity(area) == name


def test_the_area_of_a_woman_is_the_sum_of_the_means_of_her_breasts():
    assert (
        woman_area({("L", "CC"): 4.0, ("L", "MLO"): 6.0, ("R", "CC"): 0.0, ("R", "MLO"): 2.0})
        == 6.0
    )


def test_the_area_of_a_line_is_its_masks_pixels_times_the_spacing_that_the_reader_finds(written):
    out, lines = written
    assert len(lines) == 12
    for line in lines:
        study = read_study(out / line["path"])
        mask = read_mask(out / line["bac_mask"], like=study)
        # whatever the magnification at the detector
        assert study.spacing_mm[1:] == pytest.approx((0.4, 0.4), rel=1e-4)
        assert float(line["area_mm2"]) == pytest.approx(
            mask.sum() * study.spacing_mm[1] * study.spacing_mm[2], rel=1e-3, abs=1e-6
        )


def test_women_are_severe_by_the_areas_of_their_lines(written):
    for patient in {line["patient_id"] for line in written[1]}:
        lines = [line for line in written[1] if line["patient_id"] == patient]
        total = woman_area(
            {(line["laterality"], line["view"]): float(line["area_mm2"]) for line in lines}
        )
        assert {line["severity"] for line in lines} == {severity(total)}
        assert float(lines[0]["woman_area_mm2"]) == pytest.approx(total, abs=1e-3)


def test_files_say_view_side_and_polarity(written):
    out, lines = written
    found = [(pydicom.dcmread(out / line["path"]), line) for line in lines]
    assert {ds.PhotometricInterpretation for ds, _ in found} == {"MONOCHROME1", "MONOCHROME2"}
    assert {float(ds.EstimatedRadiographicMagnificationFactor) for ds, _ in found} == {1.0, 1.04}
    for ds, line in found:
        assert (ds.ViewPosition, ds.ImageLaterality, ds.BreastImplantPresent, ds.Modality) == (
            line["view"],
            line["laterality"],
            "NO",
            "MG",
        )
        with Image.open(out / line["bac_mask"]) as mask:
            assert mask.size == (ds.Columns, ds.Rows)


def test_the_reader_sees_tissue_bright_in_either_polarity(written):
    out, lines = written
    for line in lines:
        voxels = read_study(out / line["path"]).voxels[0]
        side = voxels[120:200, :25] if line["laterality"] == "L" else voxels[120:200, -25:]
        assert np.median(side) > np.median(voxels[-6:, 110:140])


def test_a_probability_above_one_is_refused():
    with pytest.raises(UserError, match="The dial bac is 2.0"):
        BreastDials(bac=2.0)
