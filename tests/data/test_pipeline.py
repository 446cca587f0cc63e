import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import cache
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from memory_store import SHAPE, STORE, make, memory, random_studies

from mmv_jax.data import planner
from mmv_jax.data.crops import View
from mmv_jax.data.wire import encode
from mmv_jax.data.workers import held_signals
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.models.kinds import CLS, PATCH, REGISTER


def digest(batch):
    return hashlib.sha256(
        b"".join(name.encode() + batch[name].tobytes() for name in sorted(batch))
    ).hexdigest()


def take(rows, first, count, **options):
    batches = rows.batches(first, **options)
    return [digest(next(batches)) for _ in range(count)]


ROWS = make()
LONG = pytest.mark.full
STEPS = 2 * len(ROWS.plan) // 4 + 1  # two epochs


@cache
def batch_of(step):
    """A step's batch. Made once: nothing here writes into it."""
    return ROWS.batch(step)


def digests(first=0, end=STEPS):
    """Of the batches as they travel."""
    return [digest(encode(batch_of(step), ROWS.shape)) for step in range(first, end)]


def test_a_batch_has_the_shapes_that_were_promised():
    batch = batch_of(0)
    assert {name: (a.shape, a.dtype) for name, a in batch.items()} == {
        name: (s.shape, s.dtype) for name, s in ROWS.spec.items()
    }


def test_a_row_is_what_its_table_says():
    special = [CLS, REGISTER, REGISTER + 1]
    for step in range(3):
        batch = batch_of(step)
        for b in range(4):
            ids, kinds = batch["segment_ids"][b], batch["kinds"][b]
            used = int((ids > 0).sum())
            assert (np.diff(ids[:used]) >= 0).all()
            assert not ids[used:].any()
            assert not batch["patches"][b][kinds != PATCH].any()
            assert not batch["coords_mm"][b][ids == 0].any()
            for s in range(ids.max()):
                (where,) = np.nonzero(ids == s + 1)
                assert where[0] == batch["cls_index"][b, s]
                assert kinds[where[:3]].tolist() == special
                assert (kinds[where[3:]] == PATCH).all()
                assert len(where) > 3
                assert batch["planar"][b, s] == (batch["study"][b, s] % 2 == 0)
                assert where[-1] < SHAPE["prefix"] or not batch["is_global"][b, s]
            crops = batch["is_global"][b, : ids.max()]
            assert (np.diff(crops.astype(int)) <= 0).all()  # global crops first
            studies, counts = np.unique(batch["study"][b, : ids.max()], return_counts=True)
            assert (counts == 4).all()  # all views of a study lie in its row
            assert (batch["study"][b, ids.max() :] == -1).all()


def test_the_plan_knows_how_many_tokens_a_row_will_have():
    for step in range(STEPS):
        batch = batch_of(step)
        for b, r in enumerate(ROWS.plan.step(step)):
            epoch, lines = ROWS.plan.epoch_and_lines(r)
            sizes = ROWS.lines.sizes(epoch)[lines]
            assert (batch["segment_ids"][b] > 0).sum() == sizes[:, :2].sum()
            front = batch["is_global"][b][batch["segment_ids"][b][batch["segment_ids"][b] > 0] - 1]
            assert front.sum() == sizes[:, 0].sum()


def test_an_epoch_shows_every_study_once():
    shown = []
    for step in range(STEPS):
        for b, r in enumerate(ROWS.plan.step(step)):
            if ROWS.plan.epoch_and_lines(r)[0] == 0:
                shown += np.unique(batch_of(step)["study"][b]).tolist()
    assert sorted(study for study in shown if study >= 0) == list(range(40))


def test_masked_tokens_are_patches_of_global_crops():
    share = []
    for step in range(STEPS):
        batch = batch_of(step)
        for b in range(4):
            masked, index = batch["masked"][b], batch["masked_index"][b]
            assert np.array_equal(np.flatnonzero(masked), index[index >= 0])
            ids = batch["segment_ids"][b, : SHAPE["prefix"]]
            assert (batch["kinds"][b, : SHAPE["prefix"]][masked] == PATCH).all()
            assert batch["is_global"][b][ids[masked] - 1].all()
            share.append(masked.sum() / (batch["kinds"][b] == PATCH)[: SHAPE["prefix"]].sum())
    # half of the crops, 0.3 of each; and a share of the prefix is local
    assert 0.03 < np.mean(share) < 0.25


def test_visible_tokens_are_a_share_of_each_global_crop():
    batch = batch_of(0)
    for b in range(4):
        visible = batch["visible_index"][b]
        visible = visible[visible >= 0]
        for s in np.flatnonzero(batch["is_global"][b]):
            own = visible[batch["segment_ids"][b, visible] == s + 1]
            patches = ((batch["segment_ids"][b] == s + 1) & (batch["kinds"][b] == PATCH)).sum()
            assert (batch["kinds"][b, own] == PATCH).sum() == np.ceil(0.25 * patches)
            assert (batch["kinds"][b, own] != PATCH).sum() == 3


def test_no_row_has_more_visible_tokens_than_it_may():
    free, bounded = make(), make(visible_tokens=46)
    most = [
        max((rows.batch(step)["visible_index"] >= 0).sum(axis=1).max() for step in range(4))
        for rows in (free, bounded)
    ]
    assert most[0] > 46 >= most[1]
    assert bounded.batch(0)["visible_index"].shape == bounded.spec["visible_index"].shape == (4, 46)


@pytest.mark.parametrize(
    "workers", (0, 2, *(pytest.param(count, marks=pytest.mark.full) for count in (1, 3)))
)
def test_batches_do_not_depend_on_the_number_of_workers(workers, monkeypatch):
    # as of a large store: a process packs for all workers
    monkeypatch.setattr(planner, "LEAST", 1)
    assert take(make(), 0, STEPS, workers=workers) == digests()


def held() -> set[str]:
    """Names of the shared memory of batches that this process has mapped."""
    return {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/psm_" in line
    }


@pytest.mark.parametrize(
    "told", (signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full))
)
def test_a_worker_that_is_told_to_stop_goes_on_and_leaves_no_shared_memory(told):
    """A job's end is told to all of its processes; the loop decides, and needs its batches until
    then.
    """
    before, batches = held(), make().batches(0, workers=1)
    first = next(batches)
    assert {type(array) for array in first.values()} == {np.ndarray}
    assert held() - before
    (worker,) = active_children()
    os.kill(worker.pid, told)
    # more than were ready before
    found = [digest(first), *(digest(next(batches)) for _ in range(9))]
    batches.close()
    # given back by a thread of Grain's, for which a process that ends next must have waited
    assert not held() - before
    assert found == digests(end=10)


def test_a_worker_that_dies_is_told_in_words():
    batches = make().batches(0, workers=1)
    next(batches)
    (worker,) = active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkFailed, match="A data worker died"):
        list(batches)


def test_a_signal_that_was_held_is_delivered():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        with held_signals():
            signal.raise_signal(signal.SIGTERM)  # to this thread
            assert not came
        assert came == [True]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_workers_do_not_outlive_a_run_that_was_killed():
    """A process group exists as long as one process of it does."""
    run = (
        "from test_pipeline import make; batches = make().batches(0, workers=1); next(batches);"
        " print('made', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [sys.executable, "-c", run], cwd=Path(__file__).parent, start_new_session=True, **pipes
    )
    assert process.stdout.readline() == b"made\n"
    process.kill()
    process.communicate()
    for _ in range(400):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker went on 20 s after its run was killed")


@pytest.mark.parametrize("hosts", (4, *(pytest.param(n, marks=LONG) for n in (1, 2))))
def test_batches_do_not_depend_on_the_number_of_hosts(hosts):
    share = 4 // hosts
    parts = [
        [make().batch(step, range(host * share, (host + 1) * share)) for host in range(hosts)]
        for step in range(4)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in parts
    ]
    assert [digest(batch) for batch in joined] == [digest(batch_of(step)) for step in range(4)]


@pytest.mark.parametrize("first", range(STEPS))
def test_a_run_can_begin_again_at_every_step_of_two_epochs(first):
    assert digest(make().batch(first)) == digest(batch_of(first))


def test_a_run_goes_on_behind_the_step_it_begins_at():
    assert take(make(), 2, STEPS - 2) == digests(2)


@pytest.mark.parametrize("workers", (0, pytest.param(1, marks=pytest.mark.full)))
def test_a_run_that_begins_again_plans_no_epoch_before(workers):
    rows = make()
    batches = rows.batches(0, workers=workers)
    for step in range(STEPS - 1):
        next(batches)
        assert rows.at == ROWS.plan.begin_of(step)
    batches.close()
    later = rows.begin_at(rows.at)
    assert rows.at[0] == 1
    packed, pack = [], later.plan.pack
    later.plan.pack = lambda epoch: packed.append(epoch) or pack(epoch)
    assert digest(later.sent(STEPS - 1)) == digests(STEPS - 1)[0]
    assert packed == [1, 2]  # the step lies in both
    later = rows.begin_at(rows.at)
    assert take(later, STEPS - 1, 1, workers=workers) == digests(STEPS - 1)


def test_a_pickled_copy_makes_the_same_rows():
    assert digest(pickle.loads(pickle.dumps(ROWS)).batch(2)) == digest(batch_of(2))


def test_a_study_is_another_crop_in_the_next_epoch():
    first, second = (
        {
            study: ROWS.lines.crops(epoch, [study], np.array([study])).start_mm.tobytes()
            for study in range(40)
        }
        for epoch in (0, 1)
    )
    assert all(first[study] != second[study] for study in first)


def test_augmentation_changes_intensities_and_nothing_else():
    plain = make(augment=False).batch(0)
    augmented = batch_of(0)
    for name in plain.keys() - {"patches", "coords_mm"}:
        assert np.array_equal(plain[name], augmented[name])
    assert not np.array_equal(plain["patches"], augmented["patches"])
    planar = np.take_along_axis(
        np.pad(plain["planar"], ((0, 0), (1, 0))), plain["segment_ids"], axis=1
    )
    # a radiograph is never mirrored
    assert np.array_equal(plain["coords_mm"][planar], augmented["coords_mm"][planar])


def test_the_views_of_a_mirrored_study_agree():
    """A small volume whose bright side is x > 0 is mirrored in some epochs; then all its crops show
    it at x < 0.
    """
    voxels = np.full((30, 40, 40), -1000.0, np.float32)
    voxels[:, :, 20:] = 300
    store = memory([(voxels, (1.0, 1.0, 1.0), "CT", "HU")])
    rows = make(store, per_step=1, mask_tokens=False, visible_share=None)
    sides = []
    for step in range(30):
        batch = rows.batch(step)
        bright = batch["patches"][0].mean(axis=1) + 1
        here = []
        for segment in range(1, batch["segment_ids"].max() + 1):
            own = (batch["segment_ids"][0] == segment) & (batch["kinds"][0] == PATCH)
            middle = batch["coords_mm"][0, own, 2]
            left, right = bright[own][middle < -8], bright[own][middle > 8]
            if len(left) and len(right):
                here.append(np.sign(right.mean() - left.mean()))
        assert len(set(here)) <= 1
        sides += here[:1]
    assert set(sides) == {-1.0, 1.0}


def test_the_digest_is_that_of_the_studies_that_are_trained_on():
    studies = random_studies(20)
    stores = {
        "as it is": memory(studies),
        "again": memory(studies),
        "a study less": memory(studies[:-1]),
        "another order": memory([*studies[2:], *studies[:2]]),
        "a study of test besides": memory([*studies, studies[0]], split=["train"] * 20 + ["test"]),
    }
    digest_of = {name: make(store).digest for name, store in stores.items()}
    assert digest_of["as it is"] == digest_of["again"] == digest_of["a study of test besides"]
    assert len(set(digest_of.values())) == 3
    for column, value in {
        "spacing_x": 9.0,
        "high": 1e6,
        "occupancy": b"\x01" + bytes(31),
        "unit": "shape",
    }.items():
        store = memory(studies)
        store.index.loc[0, column] = value
        assert make(store).digest != digest_of["as it is"], column


@pytest.mark.parametrize(
    "options, words",
    [
        ({"length": 40, "prefix": 30}, "length=40"),
        ({"segments": 3}, "segments=3"),
        ({"visible_tokens": 10}, "visible_tokens=10"),
        ({"splits": ["all"]}, "no study of 'all'.*splits are train"),
        ({"mixture": {"CT": 1.0}, "mixture_by": "label_site"}, "no column .label_site. to group"),
        ({"mixture": {"MR": 1.0}}, "MR.*CT, CXR"),
        ({"mixture": {"CT": 0.0}}, "share"),
        ({"coordinates": "inch"}, "mm, grid"),
        ({"views": {2: [View("g", 1, (8, 60, 60), (0.4, 1.0), True)]}}, "multiple of the patch"),
    ],
    ids=[
        "length",
        "segments",
        "visible",
        "split",
        "column",
        "modality",
        "share",
        "coordinates",
        "grid",
    ],
)
def test_what_does_not_go_together_is_refused_before_training(options, words):
    with pytest.raises(UserError, match=words):
        make(**options)


class Broken(type(STORE)):
    def read_box(self, i, *_, **__):
        raise OSError("disk is gone")


@pytest.mark.parametrize("workers", (0, pytest.param(1, marks=LONG)))
def test_an_error_says_which_row_it_stopped(workers):
    broken = Broken(
        *(
            getattr(STORE, name)
            for name in ("voxels", "spacing_mm", "modality", "unit", "occupied", "split")
        )
    )
    with pytest.raises(OSError, match="disk is gone") as caught:
        next(make(broken).batches(5, workers=workers))
    words = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "of step 5" in words
    assert "while reading study 00000000000000" in words


def test_the_digest_knows_levels_and_that_there_are_none():
    """A crop from a level differs in its last bits; where no study has one, a store from before
    there were any is the same.
    """
    index = STORE.index
    try:
        STORE.index = index.assign(level_factors=[np.empty(0, np.int64)] * len(index))
        assert make().digest == ROWS.digest
        STORE.index = index.assign(level_factors=[np.array([1, 2, 2])] * len(index))
        assert make().digest != ROWS.digest
    finally:
        STORE.index = index
