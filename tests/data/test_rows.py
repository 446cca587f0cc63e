import numpy as np
import pytest
from memory_store import make, memory, random_studies, to_voxels
from scipy import ndimage

from mmv_jax.data.crops import Geometry, whole_crops
from mmv_jax.data.occupancy import kept_tokens
from mmv_jax.data.study_batches import study_batches
from mmv_jax.data.tokens import token_coordinates
from mmv_jax.errors import UserError
from mmv_jax.models.kinds import CLS, PATCH

GRIDS = {2: (8, 64, 64), 3: (16, 48, 48)}
ROW = {"grids": GRIDS, "patch": (8, 16, 16), "registers": 2, "length": 128, "rows": 3}


def tokens_of(batch, study):
    """Where the tokens of a study stand: row, and a mask over the row."""
    ((row, segment),) = np.argwhere(batch["study"] == study)
    return row, batch["segment_ids"][row] == segment + 1


def test_each_study_comes_once_with_its_tokens():
    store = memory(random_studies(41))
    seen = []
    for batch in study_batches(store, range(41), **ROW):
        for row in range(3):
            ids, table = batch["segment_ids"][row], batch["study"][row]
            crops = int((table >= 0).sum())
            seen += table[:crops].tolist()
            assert set(ids[ids > 0]) == set(range(1, crops + 1))
            assert (batch["kinds"][row][batch["cls_index"][row, :crops]] == CLS).all()
            assert (batch["planar"][row, :crops] == (table[:crops] % 2 == 0)).all()
            assert (batch["kinds"][row] > 0).tolist() == (ids > 0).tolist()
    assert sorted(seen) == list(range(41))


def test_a_chosen_study_is_named_by_its_line_of_the_index():
    store = memory(random_studies(10))
    (batch,) = study_batches(store, [7, 3], **ROW)
    assert sorted(batch["study"][batch["study"] >= 0]) == [3, 7]
    assert bool(batch["planar"][np.nonzero(batch["study"] == 3)]) is False


def test_a_study_does_not_change_with_its_neighbours():
    store = memory(random_studies(10))
    (alone,) = study_batches(store, [4], **ROW)
    row, mine = tokens_of(alone, 4)
    for batch in study_batches(store, range(10), **ROW):
        if (batch["study"] == 4).any():
            other, there = tokens_of(batch, 4)
            for name in ("patches", "coords_mm", "kinds"):
                assert np.array_equal(alone[name][row, mine], batch[name][other, there])


def test_an_image_comes_back_from_its_row():
    image = ndimage.gaussian_filter(
        np.random.default_rng(0).normal(0, 1, (1, 64, 64)), (0, 2, 2)
    ).astype(np.float32)
    store = memory([(image, (np.nan, 1.0, 1.0), "CXR", "raw")])
    (batch,) = study_batches(store, [0], **ROW)
    patches = batch["patches"][0, batch["kinds"][0] == PATCH]
    back = to_voxels(patches, np.ones((1, 4, 4), bool), (8, 16, 16), -1.0)
    expected = 2 * (image - image.min()) / np.ptp(image) - 1
    assert np.allclose(back, np.broadcast_to(expected, back.shape), atol=1e-5)


@pytest.mark.parametrize(
    "spacing", ((1.0, 1.0, 1.0), (2.5, 0.7, 0.7), (1.2, 2.0, 2.0), (4.0, 0.9, 1.6)), ids=str
)
def test_a_line_in_space_keeps_its_millimetres_at_every_spacing(spacing):
    """The bright tokens' mean coordinate is where the line was drawn, in mm from the centre,
    whatever grid the study has.
    """
    extent, centre = np.array([64.0, 96.0, 96.0]), np.array([8.0, -20.0, 12.0])
    shape = np.round(extent / spacing).astype(int)
    z, y, _ = np.meshgrid(
        *[(np.arange(n) + 0.5) * s - n * s / 2 for n, s in zip(shape, spacing)], indexing="ij"
    )
    # along x
    voxels = np.where(np.hypot(z - centre[0], y - centre[1]) < 6, 300.0, -1000.0).astype(np.float32)
    store = memory([(voxels, spacing, "CT", "HU")])
    (batch,) = study_batches(
        store,
        [0],
        **(ROW | {"grids": {3: (64, 96, 96)}, "patch": (4, 4, 4), "length": 12_000, "rows": 1}),
    )
    patch = batch["kinds"][0] == PATCH
    weight = batch["patches"][0, patch].mean(axis=1) + 1
    found = (batch["coords_mm"][0, patch] * weight[:, None]).sum(axis=0) / weight.sum()
    assert found[:2] == pytest.approx(centre[:2], abs=1.0)


def test_what_lies_outside_a_study_is_as_dark_as_air():
    store = memory([(np.full((10, 20, 24), 400.0, np.float32), (1.0, 1.0, 1.0), "CT", "HU")])
    (batch,) = study_batches(store, [0], **(ROW | {"grids": {3: (16, 32, 32)}}))
    crop = whole_crops(Geometry.of(store.index), {3: (16, 32, 32)}, (8, 16, 16))[0]
    voxels = to_voxels(
        batch["patches"][0, batch["kinds"][0] == PATCH],
        np.ones(crop.tokens, bool),
        (8, 16, 16),
        0.0,
    )
    assert set(np.unique(voxels)) == {-1.0, 1.0}
    assert (voxels == 1).sum() * crop.spacing_mm**3 == pytest.approx(10 * 20 * 24, rel=0.1)


def test_a_study_that_is_larger_than_a_row_is_refused_with_the_numbers():
    store = memory([(np.ones((1, 50, 50), np.float32), (np.nan, 1.0, 1.0), "CXR", "raw")])
    with pytest.raises(UserError, match=r"19 tokens.*row has 10"):
        next(study_batches(store, [0], **(ROW | {"length": 10})))


def test_a_reading_error_names_the_study():
    store = memory(random_studies(3))

    def read_box(*_, **__):
        raise OSError("disk is gone")

    store.read_box = read_box
    with pytest.raises(OSError, match="disk is gone") as caught:
        list(study_batches(store, [2], **ROW))
    assert caught.value.__notes__ == [f"while reading study {2:016x}"]


def test_with_all_tokens_rows_hold_every_patch_at_its_place():
    rows = make(tokens="all", augment=False)
    batch, more = rows.batch(0), 0
    for b, r in enumerate(rows.plan.step(0)):
        epoch, lines = rows.plan.epoch_and_lines(r)
        studies = rows.lines.studies(epoch)[lines]
        crops = rows.lines.crops(epoch, lines, studies)
        assert (batch["segment_ids"][b] > 0).sum() == rows.lines.sizes(epoch)[lines, :2].sum()
        for s, study in enumerate(batch["study"][b]):
            own = (batch["segment_ids"][b] == s + 1) & (batch["kinds"][b] == PATCH)
            if study < 0 or not batch["is_global"][b, s]:
                continue
            # The crops of a study come in the order of its views.
            view = (batch["study"][b, :s] == study).sum()
            crop = crops[studies.tolist().index(study), view]
            everywhere = np.ones(crop.tokens, bool)
            points = token_coordinates(crop, rows.lines.geometry.extent_mm[study], everywhere, "mm")
            np.testing.assert_allclose(batch["coords_mm"][b, own], points[1:], atol=1e-3)
            more += own.sum() > kept_tokens(rows.lines.geometry[[study]], crops=crop[None]).sum()
    assert more  # some patch was background


def test_another_word_for_the_tokens_is_refused():
    with pytest.raises(UserError, match="tokens is 'every', but must be occupied or all"):
        make(tokens="every")
