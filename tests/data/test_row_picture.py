"""Rows that are drawn: every crop comes back from its tokens, at its place in mm."""

import numpy as np
import pytest
from memory_store import SHAPE, VIEWS, Memory
from PIL import Image

from mmv_jax.data.pipeline import Rows
from mmv_jax.data.row_picture import crop_of, draw_rows

MM = 4.0  # a voxel of the studies


@pytest.fixture(scope="module")
def store() -> Memory:
    """Studies whose value is a voxel's place along x, in mm from the study's centre."""
    planar, volume = np.zeros((1, 90, 80)), np.zeros((40, 60, 64))
    for voxels in (planar, volume):
        voxels += (np.arange(voxels.shape[2]) + 0.5 - voxels.shape[2] / 2) * MM
    return Memory(
        voxels=[planar, volume, planar, volume],
        spacing_mm=[(np.nan, MM, MM), (MM, MM, MM)] * 2,
        modality=["CXR", "CT"] * 2,
        unit=["raw"] * 4,
        occupied=[None] * 4,
        split=["train"] * 4,
    )


@pytest.fixture(scope="module")
def rows(store) -> Rows:
    return Rows(store, views=VIEWS, per_step=4, seed=0, augment=False, visible_share=0.5, **SHAPE)


def test_a_crop_comes_back_from_its_tokens_at_its_place(store, rows):
    batch = rows.batch(0)
    found = set()
    for row, segment in np.argwhere(batch["study"] >= 0).tolist():
        crop = crop_of(batch, row, segment + 1, rows.shape.patch)
        index = store.index.iloc[batch["study"][row, segment]]
        found.add((int(index["ndim"]), bool(batch["is_global"][row, segment])))
        if crop.voxels.shape[1:] == rows.shape.patch[1:]:  # of one patch, which tells no size
            continue
        x = np.linspace(crop.low_mm[2], crop.high_mm[2], 2 * crop.voxels.shape[2] + 1)[1::2]
        low, high = float(index["low"]), float(index["high"])
        true = (x - (low + high) / 2) / ((high - low) / 2)
        inside = np.abs(x) < 0.9 * high  # beyond the study there is background
        there = np.isfinite(crop.voxels)
        assert there.mean() > 0.5
        off = np.abs(crop.voxels - true)[..., inside]
        # Crops reach beyond their study along y and z too, where there is background.
        assert np.nanmedian(off) < 0.02
    assert found == {(2, True), (2, False), (3, True), (3, False)}


def test_what_the_encoder_does_not_see_is_marked(rows):
    batch = rows.batch(0)
    for row, segment in np.argwhere(batch["study"] >= 0).tolist():
        crop = crop_of(batch, row, segment + 1, rows.shape.patch)
        share = crop.hidden[np.isfinite(crop.voxels)].mean()
        assert share == pytest.approx(0.5 * batch["is_global"][row, segment], abs=0.15)


def test_the_picture_is_written(store, rows, tmp_path):
    said = draw_rows(rows, store.index, tmp_path / "rows.png", most=2)
    assert "2 rows of step 0" in said
    with Image.open(tmp_path / "rows.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
