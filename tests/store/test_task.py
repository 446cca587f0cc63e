"""The task function: repeated, it changes nothing that is finished; and messages are held to naming
nobody.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import read_npy

from mmv_jax.store import write
from mmv_jax.store.index import finished_parts, read_index
from mmv_jax.store.layout import open_root
from mmv_jax.store.task import IngestTask, Job, Reading, Refusal, Written, without, write_task
from mmv_jax.study import Study


@pytest.fixture
def task(tmp_path, monkeypatch) -> IngestTask:
    """Seven studies, planar and volumetric in turn, in parts of two."""
    monkeypatch.setattr(write, "PART_STUDIES", 2)
    jobs = []
    for n in range(7):
        np.save(tmp_path / f"{n}.npy", np.random.default_rng(n).integers(0, 99, (1 + n % 2, 6, 5)))
        known = {"study": f"{n:016x}", "patient": "p", "split": "train", "manifest": 1, "line": n}
        jobs.append(Job((1, n), str(tmp_path / f"{n}.npy"), None, None, {}, known, ()))
    return IngestTask(str(tmp_path / "store"), tuple(jobs), read_npy)


def written(events: list) -> list[int]:
    return sorted(
        line for event in events if isinstance(event, Written) for _, line in event.places
    )


def state(task: IngestTask) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(task.store).rglob("*") if path.is_file()}


def test_a_task_writes_each_study_once_in_parts_of_one_ndim(task):
    assert written(list(write_task(task))) == list(range(7))
    index = read_index(open_root(task.store))
    assert index["line"].tolist() == list(range(7))
    assert index.groupby("part")["ndim"].nunique().eq(1).all()
    assert index.groupby("part").size().tolist() == [2, 2, 2, 1]


def test_a_repeated_task_reports_what_is_there_and_writes_nothing(task):
    list(write_task(task))
    before = state(task)
    events = list(write_task(task))
    assert written(events) == list(range(7))
    # the first study of each part
    assert len([event for event in events if isinstance(event, Reading)]) == 4
    assert state(task) == before


def test_a_task_that_is_repeated_after_a_loss_writes_only_what_was_lost(task):
    list(write_task(task))
    before, root = state(task), open_root(task.store)
    lost = sorted(finished_parts(root))[-1]
    root.write(finished_parts(root)[lost], None).result()  # no index: never there
    assert written(list(write_task(task))) == list(range(7))
    kept = {path: then for path, then in before.items() if lost not in str(path)}
    assert kept
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert len(read_index(root)) == 7


def test_secrets_are_blotted_out_of_reasons():
    assert (
        without(
            "cannot open /data/MILLER_19/x.dcm of MILLER", ("MILLER", "/data/MILLER_19/x.dcm", "x")
        )
        == "cannot open … of …"
    )


def read_flat(job: Job) -> tuple[Study, dict[str, np.ndarray]]:
    """A reader of one's own that lets a spacing of 0 through."""
    return Study(np.load(job.path), (0.0, 0.5, 0.5), 3, "raw"), {}


def test_a_spacing_that_is_no_length_is_refused(task):
    """Levels follow from it: they would have no end."""
    refused = [
        event
        for event in write_task(replace(task, read_fn=read_flat))
        if isinstance(event, Refusal)
    ]
    assert {event.code for event in refused} == {"bad_spacing"}
    assert len(refused) == 7
