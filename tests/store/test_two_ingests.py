"""Two ingests into one bucket at once: one goes on, the other ends with a sentence, and nothing is
lost or doubled.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import planted  # noqa: F401  registers an engine without workers
import pytest
from bucket import Bucket, served
from PIL import Image

from mmv_jax.errors import UserError
from mmv_jax.store.ingest import ingest
from mmv_jax.store.inspect import verify
from mmv_jax.store.lock import LOCK
from mmv_jax.store.read import Store

ROOT = Path(__file__).resolve().parents[2]
HEADER = "study_id,path,patient_id,split,modality\n"
STUDIES = 3  # of a manifest; one of them is in both


def write_files(folder: Path) -> list[Path]:
    """Two manifests of pictures; the last study of the first is the first one of the second."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for n in range(2 * STUDIES - 1):
        Image.fromarray(rng.integers(0, 255, (20, 16), np.uint8)).save(folder / f"{n}.png")
        lines.append(f"s{n},{n}.png,p{n},train,CXR\n")
    manifests = [folder / "a.csv", folder / "b.csv"]
    for path, own in zip(manifests, (lines[:STUDIES], lines[STUDIES - 1 :])):
        path.write_text(HEADER + "".join(own))
    return manifests


def meet_at_the_lock(bucket: Bucket, there: bool) -> None:
    """Lets both read the lock before one of them may write it.

    Args:
      there: whether a dead ingest has left one, which each reads twice before it takes it over.
    """
    both, asked = threading.Barrier(2), list[str]()

    def before_give(name: str) -> None:
        if name.endswith(LOCK):
            asked.append(name)
            if len(asked) <= (4 if there else 2):
                both.wait(timeout=120)

    bucket.before_give = before_give


def check(store: str, key: Path, manifests: list[Path]) -> None:
    """That both manifests are in the store, each study once, and the same as without a race."""
    alone = f"{store}-alone"
    ingest(manifests, alone, key_path=key, engine="here")
    stores = [Store.open(address) for address in (store, alone)]
    assert [len(opened) for opened in stores] == 2 * [2 * STUDIES - 1]
    names = [opened.index["study"] for opened in stores]
    assert names[0].is_unique and set(names[0]) == set(names[1])
    # Which of the two was the first manifest is chance, and with it the order.
    ordered = [opened.digest(np.argsort(own)) for opened, own in zip(stores, names)]
    assert ordered[0] == ordered[1]
    assert verify(store) == []


def test_two_threads_that_read_no_lock_are_one_ingest_and_a_sentence(tmp_path):
    manifests = write_files(tmp_path / "raw")
    store, ends = "gs://bucket/store", dict[int, object]()
    options = {"key_path": tmp_path / "key", "engine": "here"}

    def run(n: int) -> None:
        try:
            ends[n] = ingest([manifests[n]], store, **options)
        except UserError as error:
            ends[n] = error

    with served("gs") as bucket:
        meet_at_the_lock(bucket, there=False)
        threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (refused,) = [n for n, end in ends.items() if isinstance(end, UserError)]
        assert str(ends[refused]).startswith("Another ingest writes to gs://bucket/store.")
        assert len(Store.open(store)) == STUDIES
        assert f"store/{LOCK}" not in bucket.objects
        again = ingest([manifests[refused]], store, **options)
        assert (again.ingested, again.already) == (STUDIES - 1, 1)
        check(store, tmp_path / "key", manifests)


@pytest.mark.full
@pytest.mark.parametrize(
    "kind,killed_before",
    [("gs", False), ("s3", True)],
    ids=["an empty bucket", "what a killed one left"],
)
def test_two_commands_at_once_are_one_ingest_and_a_sentence(tmp_path, kind, killed_before):
    manifests = write_files(tmp_path / "raw")
    store = f"{kind}://bucket/store"

    def start(n: int) -> subprocess.Popen:
        words = ["ingest", str(manifests[n]), "--store", store, "--key", str(tmp_path / "key")]
        return subprocess.Popen(
            [sys.executable, "-m", "mmv_jax", *words, "--workers", "1"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with served(kind) as bucket:
        if killed_before:
            bucket.objects[f"store/{LOCK}"] = (1, b'{"token": "dead", "at": 1.0}')
        meet_at_the_lock(bucket, there=killed_before)
        processes = [start(n) for n in range(2)]
        said = [process.communicate(timeout=300) for process in processes]
        codes = [process.returncode for process in processes]
        assert sorted(codes) == [0, 2], said
        refused = codes.index(2)
        sentence = f"Another ingest writes to {store}. Wait for it, or use another store."
        errors = [line for line in said[refused][1].splitlines() if "AUTH_TOKEN" not in line]
        assert errors == [f"mmv ingest: {sentence}"] and not said[refused][0]
        assert len(Store.open(store)) == STUDIES
        again = start(refused)
        told = again.communicate(timeout=300)[0]
        assert f"{STUDIES - 1} studies ingested" in told and "1 already" in told
        assert again.returncode == 0 and f"store/{LOCK}" not in bucket.objects
        check(store, tmp_path / "key", manifests)
