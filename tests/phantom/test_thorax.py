import numpy as np
import pytest
from scipy import ndimage

from mmv_jax.errors import UserError
from mmv_jax.phantom import truth
from mmv_jax.phantom.patient import draw_patient, make_dials
from mmv_jax.phantom.radiograph import (
    SEEN_MM,
    expose,
    line_integrals,
    project_masks,
    radiograph_grid,
    site_mask,
)
from mmv_jax.phantom.thorax import ANATOMY, FINDINGS, ct_grid, paint_thorax, scan


def has(body, finding):
    return (body.findings & FINDINGS[finding]) > 0


def test_every_finding_asked_for_is_drawn(volume):
    assert all(has(volume, name).any() for name in FINDINGS)


def test_no_finding_is_drawn_where_none_was_asked_for():
    healthy = make_dials(pneumothorax=0.0, effusion=0.0, nodule=0.0, chest_tube=0.0)
    assert not paint_thorax(draw_patient(3, 4, healthy), ct_grid(6.0)).findings.any()


@pytest.mark.parametrize(
    "region, low, high",
    [
        ("left_lung", -950, -600),
        ("right_lung", -950, -600),
        ("cardiomediastinum", 0, 70),
        ("airways", -1010, -700),
    ],
)
def test_anatomy_has_the_attenuation_of_its_tissue(volume, region, low, high):
    inside = (
        ndimage.binary_erosion(volume.anatomy == ANATOMY[region])
        if region != "airways"
        else volume.anatomy == ANATOMY[region]
    )
    assert low < np.median(volume.hu[inside]) < high


@pytest.mark.parametrize(
    "finding, low, high", [("pneumothorax", -1005, -900), ("effusion", 0, 40), ("nodule", -150, 80)]
)
def test_findings_have_the_attenuation_of_their_matter(volume, finding, low, high):
    assert low < np.median(volume.hu[has(volume, finding)]) < high


def test_a_scan_stays_within_twelve_bits_and_shows_fat_bone_and_air(volume):
    hu = scan(volume, np.random.default_rng(0))
    assert hu.dtype == np.int16
    assert hu.min() >= -1024
    assert hu.max() <= 3071
    assert (hu < -950).mean() > 0.2
    assert ((hu > -130) & (hu < -70)).mean() > 0.02
    assert (hu > 300).mean() > 0.002


def test_the_left_lung_lies_to_the_patients_left(volume):
    x = np.arange(volume.hu.shape[2])
    centre = [
        np.average(x, weights=(volume.anatomy == ANATOMY[name]).sum((0, 1)))
        for name in ("right_lung", "left_lung")
    ]
    assert centre[0] < centre[1] - 20


def test_the_pneumothorax_fraction_is_counted_from_the_masks(ill, volume):
    air = has(volume, "pneumothorax").sum()
    lung = (
        volume.anatomy == ANATOMY["left_lung" if ill.pneumothorax[0] > 0 else "right_lung"]
    ).sum()
    assert truth.labels(ill, volume)["pneumothorax_fraction"] == pytest.approx(
        air / (air + lung), abs=1e-4
    )


def test_the_volume_of_an_effusion_is_counted_from_the_masks(ill, volume):
    assert truth.labels(ill, volume)["effusion_ml"] == pytest.approx(
        has(volume, "effusion").sum() * 0.4**3, abs=0.1
    )


def test_volumes_do_not_depend_on_the_grid(ill, volume, columns):
    coarse, fine = truth.labels(ill, volume), truth.labels(ill, columns)
    for name in ("lung_ml", "heart_ml"):
        assert coarse[name] == pytest.approx(fine[name], rel=0.02)
    assert coarse["pneumothorax_fraction"] == pytest.approx(fine["pneumothorax_fraction"], abs=0.02)


def test_a_smooth_nodule_has_the_diameter_it_says():
    dials = make_dials(
        nodule=1.0, nodule_mm=(24.0, 24.0), effusion=0.0, pneumothorax=0.0, chest_tube=0.0
    )
    patient = next(
        p
        for p in (draw_patient(5, n, dials) for n in range(99))
        if len(p.nodules) == 1 and not p.nodules[0].spiculated
    )
    body = paint_thorax(patient, ct_grid(3.0))
    diameter = (6 / np.pi * has(body, "nodule").sum() * 3.0**3) ** (1 / 3)
    assert diameter == pytest.approx(24.0, rel=0.08)


def test_the_ratio_of_a_radiograph_is_that_of_its_masks(ill, columns):
    shot = expose(columns, np.random.default_rng(0))
    heart = np.flatnonzero((shot.anatomy == ANATOMY["cardiomediastinum"]).any(0))
    widest = max(
        np.ptp(np.flatnonzero(row)) + 1
        for row in shot.anatomy == ANATOMY["cardiomediastinum"]
        if row.any()
    )
    chest = np.isin(shot.anatomy, (1, 2)) | (
        (shot.findings & (FINDINGS["pneumothorax"] | FINDINGS["effusion"])) > 0
    )
    inner = max(np.ptp(np.flatnonzero(row)) + 1 for row in chest if row.any())
    assert truth.labels(ill, columns, shot)["cardiothoracic_ratio"] == pytest.approx(
        widest / inner, abs=1e-4
    )
    assert 0.3 < widest / inner < 0.75
    assert widest <= len(heart)


def test_masks_of_a_radiograph_are_the_projection_of_the_volumes(columns):
    anatomy, findings = project_masks(columns)
    nodule = (has(columns, "nodule").sum(1) * columns.grid.spacing_mm[1] >= SEEN_MM["nodule"])[::-1]
    tube = (
        has(columns, "chest_tube").sum(1) * columns.grid.spacing_mm[1] >= SEEN_MM["chest_tube"]
    )[::-1]
    assert ((findings & FINDINGS["nodule"] > 0) == nodule).all()
    assert ((findings & FINDINGS["chest_tube"] > 0) == tube).all()
    for value in ANATOMY.values():  # a silhouette never leaves the shadow of its organ
        assert not ((anatomy == value) & ~(columns.anatomy == value).any(1)[::-1]).any()
    for name in ("pneumothorax", "effusion"):
        grown = ndimage.binary_dilation(has(columns, name).any(1)[::-1], iterations=4)
        assert not ((findings & FINDINGS[name] > 0) & ~grown).any()


def test_the_image_is_darker_where_the_beam_meets_less(columns):
    integral = line_integrals(columns)
    air, heart = (
        project_masks(columns)[0] == v
        for v in (ANATOMY["right_lung"], ANATOMY["cardiomediastinum"])
    )
    image = expose(columns, np.random.default_rng(0)).image
    assert image.max() <= 4095
    assert integral[air].mean() < integral[heart].mean()
    assert image[air].mean() < image[heart].mean()


def test_line_integrals_agree_between_two_grids(ill, volume, columns):
    """The mass in the beam is the same, whatever the grid: Beer-Lambert of one body. Compared where
    both fields of view look.
    """
    areas = [line_integrals(b) for b in (volume, columns)]
    rows = [np.sum(a, axis=1) * b.grid.spacing_mm[2] for a, b in zip(areas, (volume, columns))]
    z = [
        b.grid.origin_mm[0] + b.grid.spacing_mm[0] * np.arange(b.grid.shape[0])[::-1]
        for b in (volume, columns)
    ]
    at = np.linspace(0, 150, 20)
    np.testing.assert_allclose(
        np.interp(at, z[0][::-1], rows[0][::-1]),
        np.interp(at, z[1][::-1], rows[1][::-1]),
        rtol=0.02,
    )


@pytest.mark.parametrize(
    "tie, low, high", [(0.0, -0.08, 0.08), (0.5, 0.35, 0.6), (1.0, 0.999, 1.001)]
)
def test_the_dial_ties_the_tube_to_the_pneumothorax(tie, low, high):
    patients = [draw_patient(1, n, make_dials(tube_tie=tie)) for n in range(1200)]
    tube, air = (
        np.array([getattr(p, name) is not None for p in patients], float)
        for name in ("tube", "pneumothorax")
    )
    assert low < np.corrcoef(tube, air)[0, 1] < high


def test_turning_one_dial_leaves_the_rest_of_the_patient_as_it_was():
    loose, tight = (draw_patient(1, 5, make_dials(tube_tie=t)) for t in (0.0, 1.0))
    assert {n: v for n, v in vars(loose).items() if n != "tube"} == {
        n: v for n, v in vars(tight).items() if n != "tube"
    }


def test_an_unknown_dial_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no dial tube_size.*tube_tie"):
        make_dials(tube_size=3)


def test_a_probability_above_one_is_refused():
    with pytest.raises(UserError, match="effusion is 1.5"):
        make_dials(effusion=1.5)


def test_every_patient_has_a_box_that_does_not_tell_whether_it_holds_a_nodule():
    grid = radiograph_grid(64)
    ill, well = (
        draw_patient(2, 7, make_dials(nodule=chance, nodule_mm=(20.0, 20.0)))
        for chance in (1.0, 0.0)
    )
    np.testing.assert_array_equal(site_mask(ill, grid), site_mask(well, grid))
    shot = project_masks(paint_thorax(ill, grid))[1]
    assert (shot[site_mask(ill, grid) > 0] & FINDINGS["nodule"]).any()
