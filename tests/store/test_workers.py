"""Engines: deaths, delays and failures of workers, and the same parts whichever engine runs."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from planted import read_npy, write_manifest

from mmv_jax.errors import WorkFailed
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store
from mmv_jax.store.task import Event, IngestTask, Job, Reading, Refusal, Writing, Written
from mmv_jax.store.workers import KEPT, run_local, run_on_node, run_ray


def task_of(places: int, store: str = "") -> IngestTask:
    jobs = tuple(Job((1, line), "", None, None, {}, {}, ()) for line in range(places))
    return IngestTask(store, jobs, read_npy)


def deadly_thirds(task: IngestTask):
    """A task function whose process dies at every third line; what it has read is written at the
    end.
    """
    read = []
    for job in task.jobs:
        yield Reading(job.place)
        if job.place[1] % 3 == 0:
            os._exit(1)
        yield Writing(job.place)
        read.append(job.place)
    yield Written(tuple(read))


def full_disk(task: IngestTask):
    yield Reading(task.jobs[0].place)
    yield Writing(task.jobs[0].place)
    raise OSError(errno.ENOSPC, "No space left on device")


def dies_while_it_writes(task: IngestTask):
    """Dies in its first life, or in every one where `store` says so."""
    yield Writing(task.jobs[0].place)
    if task.store == "always" or task.deaths == 0:
        os._exit(1)
    yield Written(tuple(job.place for job in task.jobs))


def run(task_fn, task: IngestTask, workers: int = 1) -> list[Event]:
    return list(run_local(task_fn, [task], workers=workers, timeout_s=60.0))


def test_after_a_death_no_file_is_read_more_than_twice():
    events = run(deadly_thirds, task_of(6))
    assert [event.place[1] for event in events if isinstance(event, Refusal)] == [0, 3]
    assert sorted(
        place[1] for event in events if isinstance(event, Written) for place in event.places
    ) == [1, 2, 4, 5]
    assert max(Counter(event.place for event in events if isinstance(event, Reading)).values()) == 2


def test_a_full_disk_stops_the_ingest_and_says_so():
    with pytest.raises(WorkFailed, match="No space left on device.*What is finished stays"):
        run(full_disk, task_of(3))


def test_a_worker_that_dies_while_it_writes_is_given_a_second_life():
    assert run(dies_while_it_writes, task_of(3))[-1] == Written(((1, 0), (1, 1), (1, 2)))


@pytest.mark.full
def test_a_worker_that_dies_again_stops_the_ingest():
    with pytest.raises(WorkFailed, match="died 2 times"):
        run(dies_while_it_writes, task_of(3, "always"))


def write_own_pid_and_wait(task: IngestTask):
    yield Reading(task.jobs[0].place)
    Path(task.store).write_text(str(os.getpid()))
    while True:  # as long as somebody listens
        time.sleep(0.05)
        yield Reading(task.jobs[0].place)


def test_workers_do_not_outlive_a_killed_ingest(tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_workers import run, task_of, write_own_pid_and_wait\n"
        "if __name__ == '__main__': run(write_own_pid_and_wait, task_of(1, sys.argv[1]))"
    )
    paths = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "pid"), *paths]
    )
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    worker = Path("/proc") / (tmp_path / "pid").read_text()
    while worker.exists() and "State:\tZ" not in (worker / "status").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


def note_own_pid(task: IngestTask):
    """Notes its process; a task of two lines fails."""
    with Path(task.store).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(task.jobs) == 2:
        raise OSError(errno.ENOSPC, "No space left on device")
    yield Written(tuple(job.place for job in task.jobs))


def test_a_process_of_ray_keeps_its_worker_until_a_task_fails(tmp_path):
    def run_lines(count: int) -> list[Event]:
        return run_on_node((), note_own_pid, task_of(count, str(tmp_path / "pids")), 60.0)

    try:
        assert run_lines(1) == run_lines(1) == [Written(((1, 0),))]
        with pytest.raises(WorkFailed, match="No space left"):
            run_lines(2)
        assert not KEPT
        run_lines(1)
    finally:
        while KEPT:
            KEPT.popitem()[1].stop()
    first, second, third, fourth = (tmp_path / "pids").read_text().split()
    assert first == second == third != fourth


def test_ray_writes_the_same_store(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    # where Ray's workers find the reader of the tests
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    contents: list = list(
        np.random.default_rng(0).integers(-1000, 1000, (6, 4, 5, 6)).astype(np.int16)
    )
    contents[2], contents[4] = b"die", b"broken"
    manifest = write_manifest(tmp_path / "in", contents)
    try:
        pids = tmp_path / "pids"
        list(run_ray(note_own_pid, [task_of(1, str(pids))] * 3, workers=1, timeout_s=60.0))
        assert len(set(pids.read_text().split())) == 1
        by_ray = ingest(
            [manifest],
            tmp_path / "by-ray",
            engine="ray",
            key_path=tmp_path / "key",
            workers=1,
            read_fn=read_npy,
        )
    finally:
        ray.shutdown()
    by_processes = ingest(
        [manifest],
        tmp_path / "by-processes",
        key_path=tmp_path / "key",
        workers=1,
        read_fn=read_npy,
    )
    assert (
        (by_ray.ingested, by_ray.refused)
        == (by_processes.ingested, by_processes.refused)
        == (4, {"decoder_died": 1, "not_an_image": 1})
    )
    stores = [Store.open(tmp_path / name) for name in ("by-ray", "by-processes")]
    assert (
        stores[0]
        .index.drop(columns="occupancy")
        .astype(str)
        .equals(stores[1].index.drop(columns="occupancy").astype(str))
    )
    assert all(
        np.array_equal(stores[0].read_study(i).voxels, stores[1].read_study(i).voxels)
        for i in range(4)
    )
