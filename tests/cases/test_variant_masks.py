"""Masks on the right grid that are wrong: empty beside a label that says otherwise, the background
labelled, mirrored against the image.
"""

import json

import numpy as np
import pytest
from made import manifest, nifti, png
from planted import run_here

from mmv_jax.readers.odd_masks import AXES, is_there, odd_masks
from mmv_jax.store.ingest import ingest
from mmv_jax.store.workers import ENGINES
from mmv_jax.study import Study


def scene(planes: int = 1) -> tuple[Study, dict[str, np.ndarray]]:
    """A study with a bright structure away from its middle, and the mask of it."""
    z, y, x = np.mgrid[:planes, :96, :80]
    inside = (y - 30) ** 2 + (x - 24) ** 2 < 22**2
    if planes > 1:
        inside &= z < planes // 2
    noise = np.random.default_rng(0).normal(0, 4, inside.shape)
    voxels = (60 + 90 * inside + noise + x * 0.2).astype(np.int16)
    study = Study(voxels, (1.0, 1.0, 1.0), 3 if planes > 1 else 2, "raw")
    return study, {"lesion": inside.astype(np.int16)}


def organs() -> tuple[Study, dict[str, np.ndarray]]:
    """A volume with bright organs, and the map of them."""
    mask = np.zeros((8, 96, 80), np.int16)
    places = [(y, x) for y in (2, 17, 32) for x in (2, 17)]
    for label, (y, x) in enumerate(places, start=1):
        mask[:3, y : y + 12, x : x + 12] = label
    noise = np.random.default_rng(0).normal(0, 4, mask.shape)
    voxels = (60 + 90 * (mask > 0) + noise).astype(np.int16)
    return Study(voxels, (1.0, 1.0, 1.0), 3, "raw"), {"organs": mask}


def codes(study: Study, masks: dict[str, np.ndarray], **labels) -> list[str]:
    return [code for code, _ in odd_masks(study, masks, labels)]


EMPTY = (
    {"lesion": 1.0}, {"lesions": 1.0}, {"has_lesion": 1.0}, {"Lesion_present": "yes"},
    {"lesion": 3.0}, {"finding": "lesion"}, {"malignant": 1.0, "age": 60.0},
)  # fmt: skip
SILENT = (
    {}, {"lesion": 0.0}, {"lesion": "NA"}, {"lesion": 9.0}, {"lesion": -1.0}, {"malignant": 0.0},
    {"age": 60.0}, {"view": "PA"}, {"effusion": 1.0, "nodule": 0.0},
)  # fmt: skip


@pytest.mark.parametrize("planes", [1, 8])
@pytest.mark.parametrize("labels", EMPTY, ids=str)
def test_an_empty_mask_of_a_structure_that_is_there_is_told(planes, labels):
    study, masks = scene(planes)
    assert codes(study, {"lesion": masks["lesion"] * 0}, **labels) == ["mask_empty"]
    assert codes(study, masks, **labels) == []


@pytest.mark.parametrize("labels", SILENT, ids=str)
def test_an_empty_mask_that_no_label_contradicts_is_right(labels):
    study, masks = scene()
    assert codes(study, {"lesion": masks["lesion"] * 0}, **labels) == []


def test_a_mask_of_what_its_label_denies_is_told():
    study, masks = scene()
    assert codes(study, masks, lesion=0.0) == ["mask_not_expected"]
    assert codes(study, masks, lesion=0.0, other=1.0) == ["mask_not_expected"]
    assert is_there("lung", {"lung_cancer": 0.0}, only=True) is None


@pytest.mark.parametrize("planes", [1, 8])
@pytest.mark.parametrize("label", [1, 255])
def test_a_labelled_background_is_told(planes, label):
    study, masks = scene(planes)
    mask = masks["lesion"] * label
    assert codes(study, {"lesion": label - mask}) == ["mask_inverted"]
    assert codes(study, {"lesion": mask + 1}) == ["mask_inverted"]  # no value is background
    assert codes(study, {"body": label - mask}) == []
    # half of an image, as a breast
    half = np.zeros_like(mask)
    half[:, :, :50] = 1
    assert "mask_inverted" not in codes(study, {"lesion": half})


@pytest.mark.parametrize("planes", [1, 8])
@pytest.mark.parametrize("words", AXES)
def test_a_mirrored_mask_is_told(planes, words):
    study, masks = scene() if planes == 1 else organs()
    if planes == 1 and 0 in AXES[words]:
        pytest.skip("a planar study has one slice")
    (right,) = masks.values()
    assert codes(study, {"lesion": right}) == []
    mask = np.flip(right, AXES[words])
    assert codes(study, {"lesion": mask}) == ["mask_mirrored"]
    darker = Study(-study.voxels, study.spacing_mm, study.ndim, "raw")
    assert codes(darker, {"lesion": mask}) == ["mask_mirrored"]


@pytest.mark.parametrize("planes", [1, 8])
def test_a_mask_with_exchanged_rows_and_columns_is_told(planes):
    study, (right,) = _square(*(scene() if planes == 1 else organs()))
    assert codes(study, {"lesion": right}) == []
    for mask in (np.swapaxes(right, 1, 2), np.rot90(right, 1, (1, 2)), np.rot90(right, 3, (1, 2))):
        assert codes(study, {"lesion": np.ascontiguousarray(mask)}) == ["mask_mirrored"]


def _square(study: Study, masks: dict[str, np.ndarray]) -> tuple[Study, list[np.ndarray]]:
    """Square planes, with what is there away from their diagonal."""
    cut, mask = (np.roll(own, 25, 2)[:, :80, :80] for own in (study.voxels, *masks.values()))
    return Study(cut, study.spacing_mm, study.ndim, "raw"), [mask]


def test_a_mask_whose_mirror_image_fits_no_better_is_left_alone():
    study, masks = scene()
    flat = Study(study.voxels * 0 + study.voxels[:, :1, :1], study.spacing_mm, 2, "raw")
    noise = np.random.default_rng(1).integers(0, 200, study.voxels.shape).astype(np.int16)
    for voxels in (flat.voxels, noise):
        for axes in AXES.values():
            mask = np.flip(masks["lesion"], axes)
            assert codes(Study(voxels, study.spacing_mm, 2, "raw"), {"lesion": mask}) == []
    # its own mirror image
    both = masks["lesion"] | np.flip(masks["lesion"], 2)
    twin = Study((60 + 90 * both).astype(np.int16), study.spacing_mm, 2, "raw")
    assert codes(twin, {"lungs": np.flip(both, 2)}) == []


def test_odd_masks_are_in_the_warnings_of_a_store(tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "local", run_here)
    study, masks = scene()
    volume, inside = organs()
    mask = masks["lesion"][0].astype(np.uint8)
    for name, pixels in {
        "a": study.voxels[0], "empty": mask * 0, "inverted": 1 - mask, "mirrored": mask[:, ::-1],
        "right": mask,
    }.items():  # fmt: skip
        png(tmp_path / f"{name}.png", pixels.clip(0, 255).astype(np.uint8))
    nifti(tmp_path / "v.nii", volume.voxels.transpose())
    nifti(tmp_path / "m.nii", inside["organs"][:, ::-1, ::-1].transpose().astype(np.uint8))
    rows = [
        {"path": "a.png", "modality": "CXR", "lesion_mask": f"{name}.png", "lesion": 1}
        for name in ("empty", "inverted", "mirrored", "right")
    ]
    rows.append({"path": "v.nii", "lesion_mask": "m.nii", "lesion": 1})
    report = ingest([manifest(tmp_path, rows)], tmp_path / "store", timeout_s=60.0)
    assert report.ingested == 5
    found = {"mask_empty": 1, "mask_inverted": 1, "mask_mirrored": 2}
    assert {code: report.told[code] for code in found} == found
    lines = map(json.loads, (tmp_path / "store" / "warnings.jsonl").read_text().splitlines())
    told = {line["line"]: line["code"] for line in lines if line["code"].startswith("mask_")}
    assert told == {
        2: "mask_empty", 3: "mask_inverted", 4: "mask_mirrored", 6: "mask_mirrored"
    }  # fmt: skip


def test_a_small_finding_whose_mirror_image_lies_along_the_heart_is_left_alone():
    y, x = np.mgrid[:192, :160]
    heart = (abs(y - 96) < 50) & (x > 101)
    image = (60 + 120 * heart + np.random.default_rng(0).normal(0, 4, heart.shape)).astype(np.int16)
    found = ((abs(y - 96) < 40) & (x > 41) & (x < 58)).astype(np.int16)[None]
    assert found.mean() < 0.1
    assert codes(Study(image[None], (np.nan, 1.0, 1.0), 2, "raw"), {"effusion": found}) == []
