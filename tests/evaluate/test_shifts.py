"""Shifted stores, and what they cost an encoder that reads brightness or noise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from tiny import write_store

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.features import encode_studies
from mmv_jax.evaluate.shifts import (
    NOISE,
    SHIFTS,
    WINDOW_HU,
    ShiftedStore,
    check_shifts,
    corrected,
    measure_shifts,
    shift_metrics,
)
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.store.read import Store

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("shifts") / "store", n=40))


@dataclass(frozen=True)
class Reads:
    """An encoder whose only feature is the mean, or the noise, of a study."""

    fingerprint: str

    def views(self, geometry):
        raise AssertionError("vectors need no view")

    def encode(self, store, studies):
        for study in np.asarray(studies).tolist():
            shape = store.index[["grid_z", "grid_y", "grid_x"]].iloc[study]
            voxels = store.read_box(study, (0, 0, 0), tuple(shape))
            rough = voxels - ndimage.uniform_filter(voxels, (1, 3, 3))
            value = voxels.mean() if self.fingerprint == "mean" else rough.std()
            # The radius of a ball is in the mean; both vary a little by study.
            one = np.full((1, 2), value, np.float32)
            yield Encoded(study, one[0], one, one[None][:0])


def test_a_shift_changes_voxels_as_it_says_and_leaves_masks(store):
    study = int(np.flatnonzero(store.index["ndim"] == 3)[0])
    box = (study, (0, 0, 0), (12, 24, 20))
    plain = store.read_box(*box)
    changed = {name: ShiftedStore(store, name).read_box(*box) for name in SHIFTS}
    noise = (changed["low dose"] - plain).std()
    assert noise == pytest.approx(NOISE * WINDOW_HU, rel=0.05)
    np.testing.assert_array_equal(
        changed["low dose"], ShiftedStore(store, "low dose").read_box(*box)
    )
    np.testing.assert_allclose(
        changed["soft kernel"] + changed["sharp kernel"], 2 * plain, atol=0.01
    )
    assert np.diff(changed["soft kernel"], axis=2).std() < np.diff(plain, axis=2).std()
    np.testing.assert_allclose(changed["other scanner"], 1.04 * plain + 20, atol=0.01)
    masks = [s.read_box(*box, mask="disc_mask") for s in (store, ShiftedStore(store, "low dose"))]
    np.testing.assert_array_equal(*masks)
    digests = {s.digest([study]) for s in (store, *(ShiftedStore(store, n) for n in SHIFTS))}
    assert len(digests) == 5
    with pytest.raises(UserError, match="config.shifts: 'fog' is not known"):
        check_shifts(["fog"])


def test_an_encoder_of_brightness_is_lost_on_another_scanner_alone(store, tmp_path):
    task = make_task(store.index, "t", kind="regression", label="radius", where={"ndim": 3})
    encoder = Reads("mean")
    features = encode_studies(
        encoder, store, studies=task.studies, with_tokens=task.studies[:0], folder=tmp_path
    )
    found = corrected(
        measure_shifts("trained", encoder, store, features, [task], tuple(SHIFTS), tmp_path)
    )
    by_shift = {s.shift: s for s in found}
    assert by_shift["other scanner"].lost.value > 0.1
    assert by_shift["other scanner"].p_holm < 0.05
    assert abs(by_shift["soft kernel"].lost.value) < 0.02
    assert abs(by_shift["low dose"].lost.value) < 0.1
    keys = {key for _, _, key, _ in shift_metrics(found)}
    assert {"mae@shift=low dose", "mae_lost@shift=other scanner"} <= keys


def test_the_simulated_kernel_moves_a_real_ct_towards_its_soft_twin(tmp_path):
    """The same chest CT, reconstructed with two kernels: a fifth of their difference in noise."""
    nibabel = pytest.importorskip("nibabel")
    paths = sorted((DATA / "ct").glob("chest_a0001_*.nii.gz"))
    if len(paths) < 2:
        pytest.skip("the two-kernel CT of ../shared/data is not here")
    slices = [np.asarray(nibabel.load(p).dataobj[128:384, 128:384, 32], np.float32) for p in paths]
    rough = [np.std(x - ndimage.gaussian_filter(x, 2)) for x in slices]
    sharp, soft = np.argsort(rough)[::-1]
    blurred = SHIFTS["soft kernel"](slices[sharp].T[None], np.array([5.0, 0.84, 0.84]), 1.0, None)
    after = np.std(blurred[0] - ndimage.gaussian_filter(blurred[0], 2))
    assert rough[soft] < rough[sharp]
    assert after < rough[sharp] - 0.2 * (rough[sharp] - rough[soft])
