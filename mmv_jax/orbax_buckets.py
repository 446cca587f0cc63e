"""Orbax in a bucket: the path to give it, at gs:// and at s3://.

Orbax writes arrays through TensorStore and small files through `etils.epath`, which wants a file
system of fsspec. It gets one over `BucketPath`, so that both go the same way. Orbax knows gs:// as
a kind of storage without renaming, where a step counts once its mark is there; here s3:// becomes
another one of that kind.
"""

from functools import cache
from pathlib import Path
from typing import Any

import fsspec
from etils import epath
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from mmv_jax.buckets import SCHEMES, BucketPath, is_address, kvstore_spec


def orbax_path(path: Path) -> epath.Path:
    """The path by which Orbax reaches a folder of this machine or a bucket."""
    if isinstance(path, BucketPath):
        register_file_system()
        _teach_orbax()
        return epath.Path(str(path))
    # Orbax finds nothing below a relative path.
    return epath.Path(path).resolve()


class BucketFileSystem(fsspec.AbstractFileSystem):
    """As much of a file system as `etils.epath` asks for; paths are whole addresses."""

    cachable = False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        there = BucketPath(path)
        if there.is_file():
            # TensorStore tells no size without reading the object, and Orbax asks for none.
            return {"name": path, "size": None, "type": "file"}
        if there.is_dir():
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(2, "no such object", path)

    def exists(self, path: str, **_: Any) -> bool:
        return BucketPath(path).exists()

    def isdir(self, path: str) -> bool:
        return BucketPath(path).is_dir()

    def listdir(self, path: str, detail: bool = False, **_: Any) -> list[str]:
        found = [str(below) for below in BucketPath(path).iterdir()]
        if not found:
            raise FileNotFoundError(2, "no such folder", path)
        return found

    def glob(self, path: str, maxdepth: int | None = None, **_: Any) -> list[str]:
        there = BucketPath(path)
        # Without the scheme, which epath puts before each.
        return [str(found).partition("://")[2] for found in there.parent.glob(there.name)]

    def open(self, path: str, mode: str = "rb", **_: Any):
        return BucketPath(path).open(mode)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        pass  # a folder is there with its first file

    makedirs = mkdir

    def rm(self, path: str, recursive: bool = False, **_: Any) -> None:
        if not recursive:
            return BucketPath(path).unlink()
        BucketPath(path).remove_all()

    def rmdir(self, path: str) -> None:
        pass


def register_file_system() -> None:
    """Lets `etils.epath`, and with it JAX's compile cache, reach buckets in this process."""
    for protocol in (*SCHEMES, "gcs"):
        fsspec.register_implementation(protocol, BucketFileSystem, clobber=True)


@cache
def _teach_orbax() -> None:
    """Lets Orbax take s3:// for what it takes gs:// for.

    Orbax has no setting for it. What is replaced here are functions of one or two lines; the tests
    save, delete and restore in buckets of both kinds.
    """
    prefixes = tuple(f"{scheme}://" for scheme in SCHEMES)
    gcs_utils.is_gcs_path = lambda path: path.as_posix().startswith(prefixes)
    gcs_utils.get_kvstore_for_gcs = _spec_of
    # It would ask google-cloud-storage for the bucket, with credentials of its own.
    gcs_utils.is_hierarchical_namespace_enabled = lambda path: False
    tensorstore_utils._use_gcs_driver = lambda directory: directory.startswith(prefixes)
    normal = tensorstore_utils._normalize_path
    tensorstore_utils._normalize_path = lambda path: (
        str(BucketPath(path)) if is_address(path) else normal(path)
    )


def _spec_of(path: str) -> dict[str, Any]:
    spec = kvstore_spec(path)
    # Orbax adds what follows to the path by itself.
    return spec | {"path": spec.get("path", "").rstrip("/")}
