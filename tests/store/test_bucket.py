"""The same store in a bucket: written, read, mended and looked at by the same code."""

from collections.abc import Iterator

import numpy as np
import pytest
from bucket import Bucket
from planted import read_npy, write_manifest

from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.store.index import Corrupt
from mmv_jax.store.ingest import ingest
from mmv_jax.store.inspect import verify
from mmv_jax.store.read import Store

STORE = "gs://bucket/some/store"


@pytest.fixture(scope="module")
def volumes() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (3, 64, 128, 128)).astype(np.int16)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory, volumes) -> Iterator[Bucket]:
    """A bucket into which three studies were ingested, one of them at a second try."""
    folder, server = tmp_path_factory.mktemp("bucket"), Bucket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        manifest = write_manifest(folder, [*volumes[:2], b"broken"])
        assert (
            ingest(
                [manifest], STORE, key_path=folder / "key", engine="here", read_fn=read_npy
            ).refused.total()
            == 1
        )
        np.save(folder / "SENTINEL-file-2.npy", volumes[2])
        report = ingest([manifest], STORE, key_path=folder / "key", workers=1, read_fn=read_npy)
        assert (report.ingested, report.already) == (1, 2)
        yield server
    server.shutdown()
    server.server_close()


def test_studies_in_a_bucket_are_those_of_the_files(bucket, volumes):
    store = Store.open(STORE)
    assert all(
        np.array_equal(store.read_study(i).voxels, volume) for i, volume in enumerate(volumes)
    )
    assert verify(STORE) == []


def test_a_box_fetches_its_blocks_and_the_directory_of_their_shard(bucket, volumes):
    store = Store.open(STORE)
    store.read_box(1, (0, 0, 0), (1, 1, 1))
    bucket.reads.clear()
    np.testing.assert_array_equal(
        store.read_box(1, (20, 70, 3), (40, 50, 60)), volumes[1, 20:60, 70:120, 3:63]
    )
    fetched = [size for name, size in bucket.reads if "/blocks/c/" in name]
    assert len(fetched) <= 3  # two blocks, and the directory
    assert sum(fetched) < 3 * 32 * 64 * 64 * 2


def test_nothing_in_the_bucket_names_anybody(bucket):
    assert not [
        name
        for name, (_, content) in bucket.objects.items()
        if b"SENTINEL" in content or "SENTINEL" in name
    ]
    assert all(name.startswith("some/store/") for name in bucket.objects)


def test_a_bucket_needs_a_key_file(bucket, tmp_path, volumes):
    with pytest.raises(UserError, match="--key FILE"):
        ingest([write_manifest(tmp_path, list(volumes[:1]))], STORE, workers=1, read_fn=read_npy)


def test_a_bucket_that_may_not_be_read_is_not_called_damaged(bucket):
    store = Store.open(STORE)
    bucket.forbids = True
    try:
        with pytest.raises(
            WorkFailed, match="cannot be read .PERMISSION_DENIED.: look after access"
        ) as raised:
            store.read_study(2)
        assert not isinstance(raised.value, Corrupt)
        with pytest.raises(WorkFailed, match="PERMISSION_DENIED"):
            store.is_whole(2)
    finally:
        bucket.forbids = False
    assert store.is_whole(2)
