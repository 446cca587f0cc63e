"""The lock that a bucket decides on: one ingest at a time, and none that outlives its holder."""

import json
import time

import pytest
import tensorstore as ts

from mmv_jax.errors import UserError
from mmv_jax.store.lock import LOCK, STALE_S, only_ingest


def test_a_second_ingest_into_a_bucket_is_refused_until_the_first_ends_or_is_dead():
    root = ts.KvStore.open({"driver": "memory"}).result()
    second = only_ingest("gs://b/store", root)
    with only_ingest("gs://b/store", root), pytest.raises(UserError, match="Another ingest"):
        second.__enter__()
    assert root.read(LOCK).result().state == "missing"
    killed = {"token": "other", "at": time.time() - STALE_S - 1}
    root.write(LOCK, json.dumps(killed)).result()
    with only_ingest("gs://b/store", root):
        assert json.loads(root.read(LOCK).result().value)["token"] != "other"
