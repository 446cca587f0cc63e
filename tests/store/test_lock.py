"""The lock that a bucket decides on: one ingest at a time, and none that outlives its holder."""

import json
import time

import pytest
import tensorstore as ts

from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.store import lock
from mmv_jax.store.lock import LOCK, only_ingest


def test_a_second_ingest_into_a_bucket_is_refused_until_the_first_ends_or_is_dead(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "WATCH_S", 0.5)
    root = ts.KvStore.open({"driver": "memory"}).result()
    second = only_ingest("gs://b/store", root)
    with only_ingest("gs://b/store", root), pytest.raises(UserError, match="Another ingest"):
        second.__enter__()
    assert root.read(LOCK).result().state == "missing"
    killed = {"token": "other", "at": 1.0}
    root.write(LOCK, json.dumps(killed)).result()
    with only_ingest("gs://b/store", root):
        assert json.loads(root.read(LOCK).result().value)["token"] != "other"


def test_an_ingest_that_stood_still_ends_where_another_has_taken_over(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    root = ts.KvStore.open({"driver": "memory"}).result()
    other = json.dumps({"token": "other", "at": 1.0}).encode()

    def work() -> None:
        with only_ingest("gs://b/store", root) as check:
            root.write(LOCK, other).result()
            for _ in range(200):
                time.sleep(0.02)
                check()

    with pytest.raises(WorkFailed, match="another one has taken over"):
        work()
    assert root.read(LOCK).result().value == other  # and leaves the other's lock


def test_an_ingest_that_stood_still_at_its_end_leaves_the_others_lock():
    root = ts.KvStore.open({"driver": "memory"}).result()
    other = json.dumps({"token": "other", "at": 1.0}).encode()
    with only_ingest("gs://b/store", root):
        root.write(LOCK, other).result()  # and no beat comes to see it
    assert root.read(LOCK).result().value == other
