"""Further forms of folders: masks in folders and under names of many kinds, what is hidden, broken
or half-written.
"""

import os

import numpy as np
import pytest
from made import png, ramp, slices
from test_case_files import code_of
from test_case_manifests import listed, masks_of

from mmv_jax.readers.read import read_mask, read_study

MASK = (ramp() > 90).astype(np.uint8)
# image, then masks -> names of the masks
LAYOUTS = {
    ("CXR_png/1.png", "ManualMask/leftMask/1.png", "ManualMask/rightMask/1.png"): {"left", "right"},
    ("img/1.png", "lung_masks/1.png"): {"lung"},
    ("img/1.png", "lungMasks/1_mask.png"): {"lung"},
    ("images/1.png", "masks_png/1.png"): {"region"},
    ("images/1.png", "ground_truth/1.png"): {"region"},
    ("images/1.png", "GroundTruth/1.png"): {"region"},
    ("c/img.png", "c/contours/liver.png", "c/contours/spleen.png"): {"liver", "spleen"},
    ("c/ct.png", "c/roi/liver.png"): {"liver"},
    ("img/1.png", "img/1_mask2.png"): {"region"},
    ("img/1.png", "img/1_seg_v2.png"): {"region"},
    ("img/1.png", "img/1_mask_left.png", "img/1_mask_right.png"): {"left", "right"},
    ("img/1.png", "img/1Mask.png"): {"region"},
    ("img/1.png", "img/mask_1.png"): {"region"},
    ("img/1.png", "img/1_masks.png"): {"region"},
    ("img/1.png", "img/1_groundtruth.png"): {"region"},
    ("img/1.png", "img/1_annotation.png"): {"region"},
    ("img/1.png", "img/1-contour.png"): {"region"},
}


@pytest.mark.parametrize("names", LAYOUTS, ids=lambda names: names[1])
def test_masks_of_any_folder_or_name_lie_beside_their_image(tmp_path, names):
    image, *masks = names
    root = tmp_path / "f"
    png(root / image, ramp())
    for mask in masks:
        png(root / mask, MASK)
    lines, _ = listed(root)
    assert masks_of(lines) == {image: LAYOUTS[names]}
    (line,) = lines.values()
    for path in line.masks.values():
        assert read_mask(path, like=read_study(line.path)).max() == 1


@pytest.mark.parametrize(
    "names",
    [
        ("label_0/1.png", "label_1/2.png"), ("masked_1.png", "2.png"), ("1_label_2.png", "2.png"),
        ("segment_1.png", "2.png"), ("labelled/1.png", "unlabelled/2.png"),
        ("roi_images/1.png", "roi_images/2.png"), ("maskedbrain.png", "2.png"),
    ],
)  # fmt: skip
def test_images_of_classes_and_cut_out_images_are_studies(tmp_path, names):
    for n, name in enumerate(names):
        png(tmp_path / "f" / name, seed=n)
    lines, _ = listed(tmp_path / "f")
    assert masks_of(lines) == {name: set() for name in names}


def test_a_mask_of_two_images_of_one_name_is_left_out_and_counted(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        png(tmp_path / "f" / name, ramp())
    png(tmp_path / "f" / "lung_masks" / "1.png", MASK)
    lines, said = listed(tmp_path / "f")
    assert masks_of(lines) == {"a/1.png": set(), "b/1.png": set()}
    assert "Left out: 1 masks without an image." in said


def test_hidden_and_broken_entries_are_left_out_and_counted(tmp_path):
    root = tmp_path / "f"
    png(root / "a.png")
    png(root / ".Trash" / "old.png", seed=1)
    png(root / "__MACOSX" / "old.png", seed=2)
    (root / "gone.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "pipe")
    lines, said = listed(root)
    assert list(lines) == ["a.png"]
    assert said[0] == "Left out: 2 broken links, pipes and devices, 2 hidden folders."


def test_an_unfinished_download_beside_a_series_is_refused_at_ingest(tmp_path):
    folder = slices(tmp_path / "f" / "ct")
    (folder / "06.dcm.part").write_bytes((folder / "03.dcm").read_bytes()[:400])
    lines, _ = listed(tmp_path / "f")
    codes = {code_of(line.path) for line in lines.values()}
    assert "truncated" in codes and None not in codes
