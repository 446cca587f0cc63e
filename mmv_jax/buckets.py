"""Folders and files in a bucket, with the methods of `pathlib.Path`: `place("gs://bucket/run")`.

Every request goes through TensorStore's drivers, so that a store, a checkpoint and a report need
one set of credentials, and no further package. A bucket has no folders, no appending and no
renaming. A folder is what several names begin with, and a file is put there whole: a reader sees
the one before it, or the new one.
"""

import fnmatch
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any

from mmv_jax.errors import UserError, WorkFailed

SCHEMES = ("gs", "s3")
DEADLINE_S = 30.0  # for an answer of a bucket
TRANSFER_S = 600.0  # for an object, which may have a GiB
# Together 15 s: then the cause of a failure is known before the deadline ends the wait for it.
RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "8s"}
# What TensorStore's error codes mean to whoever gave the address.
CODES = {
    "PERMISSION_DENIED": "PERMISSION_DENIED: these credentials may not do that",
    "UNAUTHENTICATED": "UNAUTHENTICATED: there are no valid credentials",
    "NOT_FOUND": "NOT_FOUND: there is no such bucket",
}
OPENED: dict[tuple, Any] = {}  # buckets that have answered this process


class Unreachable(WorkFailed, OSError):
    """A bucket does not answer, or refuses. The message names the address and the cause."""


def is_address(path: object) -> bool:
    """Whether a path is the address of a bucket, or of another server.

    Example:
      >>> is_address("gs://bucket/run"), is_address("runs/demo")
      (True, False)
    """
    return "://" in str(path)


def place(path: str | os.PathLike) -> Path:
    """The path of a folder or file, on this machine or in a bucket.

    Raises:
      UserError: the address of something that is no bucket.

    Example:
      >>> place("gs://bucket/run") / "config.json"
      BucketPath('gs://bucket/run/config.json')
      >>> place("runs/demo")
      PosixPath('runs/demo')
    """
    if isinstance(path, Path):
        return path  # a BucketPath too, which `Path(path)` would make a local one
    text = os.fspath(path)
    if not is_address(text):
        return Path(text)
    scheme, bucket, _ = split(text)
    if scheme not in SCHEMES or not bucket:
        raise UserError(
            f"{text} is not the address of a bucket. Give gs://BUCKET/FOLDER or"
            " s3://BUCKET/FOLDER, or a folder."
        )
    return BucketPath(text)


def split(address: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of an address.

    Example:
      >>> split("gs://bucket/runs/demo/")
      ('gs', 'bucket', 'runs/demo')
    """
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return scheme, bucket, key.strip("/")


def kvstore_spec(path: str | os.PathLike) -> dict[str, Any]:
    """TensorStore's spec of a folder, on this machine or in a bucket."""
    text = os.fspath(path)
    if not is_address(text):
        return {"driver": "file", "path": f"{Path(text).expanduser().resolve()}/"}
    scheme, bucket, key = split(text)
    spec = {"driver": {"gs": "gcs", "s3": "s3"}[scheme], "bucket": bucket}
    spec |= {"path": f"{key}/"} if key else {}
    return spec | (_amazon() if scheme == "s3" else {})


def _amazon() -> dict[str, Any]:
    """What the environment says of S3: TensorStore itself does not ask for the endpoint."""
    found: dict[str, Any] = {}
    named = os.environ.get
    if endpoint := named("AWS_ENDPOINT_URL_S3") or named("AWS_ENDPOINT_URL"):
        # With an endpoint, TensorStore must be told the region too.
        region = named("AWS_REGION") or named("AWS_DEFAULT_REGION") or "us-east-1"
        found |= {"endpoint": endpoint, "aws_region": region}
    # Otherwise the driver complains on stderr of each file of credentials that is not there.
    if named("AWS_ACCESS_KEY_ID"):
        found |= {"aws_credentials": {"type": "environment"}}
    return found


def contact(address: str) -> Any:
    """TensorStore's `KvStore` of an address's bucket, opened at its root, once it has answered.

    Raises:
      Unreachable: it does not answer within `DEADLINE_S`.
    """
    scheme, bucket, _ = split(address)
    root = f"{scheme}://{bucket}"
    # A fork needs its own connections, and a test its own server.
    known = os.getpid(), os.environ.get("TENSORSTORE_GCS_HTTP_URL"), str(_amazon()), root
    if known not in OPENED:
        # Here, since commands that touch no bucket take the paths of this file too.
        import tensorstore as ts

        context = ts.Context({"gcs_request_retries": RETRIES, "s3_request_retries": RETRIES})
        opened = answer(address, ts.KvStore.open(kvstore_spec(root), context=context))
        try:
            # Any name will do: that it is not there is an answer too.
            answer(address, opened.read(f".contact-{secrets.token_hex(4)}"))
        except Unreachable as error:
            # Some may read what is there, but may not learn what is not.
            if "PERMISSION_DENIED" not in str(error):
                raise
        OPENED[known] = opened
    return OPENED[known]


def answer(address: str, future: Any, seconds: float | None = None) -> Any:
    """The result of a request.

    Raises:
      Unreachable: there is none within the time, or the bucket refuses.
    """
    seconds = DEADLINE_S if seconds is None else seconds
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        raise _unreachable(address, f"no answer within {seconds:.3g} s") from None
    except ValueError as error:
        raise _unreachable(address, _cause(error)) from None


@contextmanager
def in_words(address: str) -> Iterator[None]:
    """Says in a sentence what a bucket refuses to TensorStore within the block.

    Raises:
      Unreachable: instead of an error of TensorStore, of a path that is an address.
    """
    try:
        yield
    except ValueError as error:  # its message begins with TensorStore's error code
        if not is_address(address) or not re.match("[A-Z_]+: ", str(error)):
            raise
        raise _unreachable(address, _cause(error)) from None


def _unreachable(address: str, cause: str) -> Unreachable:
    return Unreachable(
        f"{address} cannot be reached ({cause}). Check the address, the network and your access,"
        " then give the same command again."
    )


def _cause(error: ValueError) -> str:
    text = str(error)
    if "CURL error" in text:
        return re.split(r" \[|: Could not", text.partition("CURL error ")[2])[0]
    code = text.partition(":")[0]
    return CODES.get(code, code)


class BucketPath(PosixPath):
    """A file or folder in a bucket. `str()` of it is its address.

    Raises:
      Unreachable: (every method that asks the bucket) there is no answer in time.
      FileNotFoundError: an object to be read or removed is not there.
    """

    def __str__(self) -> str:
        # pathlib keeps one slash of the two.
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __reduce__(self):
        return BucketPath, (str(self),)

    @property
    def key(self) -> str:
        """The name of the object within its bucket."""
        return split(str(self))[2]

    def as_posix(self) -> str:
        return str(self)

    def as_uri(self) -> str:
        return str(self)

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        return self

    def expanduser(self) -> "BucketPath":
        return self

    def _listed(self, first: str, end: str) -> list[str]:
        """Keys from the first on, before the end."""
        bucket = contact(str(self))
        found = bucket.list(bucket.KeyRange(first, end))
        return [key.decode() for key in answer(str(self), found, TRANSFER_S)]

    def below(self) -> list[str]:
        """The names of all objects below this folder, relative to it."""
        inside = f"{self.key}/" if self.key else ""
        # The end is exclusive: "0" is the character after the slash.
        found = self._listed(inside, f"{self.key}0" if self.key else "")
        return [key.removeprefix(inside) for key in found]

    def is_file(self) -> bool:
        return bool(self.key and self._listed(self.key, f"{self.key}\0"))

    def is_dir(self) -> bool:
        return bool(self.below())

    def exists(self, **_: Any) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Generator["BucketPath", None, None]:
        for name in sorted({name.partition("/")[0] for name in self.below()}):
            yield self / name

    def glob(  # type: ignore[override]
        self, pattern: str, **_: Any
    ) -> Generator["BucketPath", None, None]:
        """Files and folders directly below whose names match."""
        yield from (path for path in self.iterdir() if fnmatch.fnmatch(path.name, pattern))

    def stat(self, **_: Any):
        raise io.UnsupportedOperation(f"{self}: TensorStore tells neither size nor time")

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Does nothing: a folder is there with its first file."""

    def read_bytes(self) -> bytes:
        return self.read_marked(missing=False)[0] or b""

    def read_marked(self, *, missing: bool = True) -> tuple[bytes | None, bytes]:
        """The content, None where there is none, and the mark of this version for `write_if`."""
        found = answer(str(self), contact(str(self)).read(self.key), TRANSFER_S)
        if found.state == "value":
            return found.value, found.stamp.generation
        if not missing:
            raise FileNotFoundError(2, "no such object", str(self))
        return None, found.stamp.generation

    def pieces(self, size: int) -> Iterator[bytes]:
        """The content, at most `size` bytes at a time.

        Raises:
          FileNotFoundError: there is no such object.
        """
        at, is_last = 0, False
        while not is_last:
            # The length is not told: whether there is a byte behind a piece is.
            is_last = not self._reaches(at + size)
            span = slice(at, None if is_last else at + size)
            found = contact(str(self)).read(
                self.key, byte_range=span if at or not is_last else None
            )
            read = answer(str(self), found, TRANSFER_S)
            if read.state != "value":
                raise FileNotFoundError(2, "no such object", str(self))
            at += size
            yield read.value

    def _reaches(self, at: int) -> bool:
        """Whether the object has a byte at that place."""
        one = contact(str(self)).read(self.key, byte_range=slice(at, at + 1))
        try:
            return answer(str(self), one).state == "value"
        except Unreachable as error:
            if "OUT_OF_RANGE" in str(error):
                return False
            raise

    def write_if(self, mark: bytes, content: bytes) -> bool:
        """Writes where the object is still the one with the mark; whether it was."""
        found = contact(str(self)).write(self.key, content, if_equal=mark)
        # The generation of a refused write is empty.
        return bool(answer(str(self), found, TRANSFER_S).generation)

    def write_bytes(self, data: Any) -> int:
        # TensorStore takes a view of memory too, but not of every kind.
        answer(str(self), contact(str(self)).write(self.key, bytes(data)), TRANSFER_S)
        return len(data)

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_text(self, data: str, encoding: str | None = None, *_: Any, **__: Any) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(2, "no such object", str(self))
        answer(str(self), contact(str(self)).write(self.key, None))

    def remove_all(self) -> None:
        """Removes the object, and all that is below the folder."""
        bucket = contact(str(self))
        every = bucket.KeyRange(f"{self.key}/", f"{self.key}0")
        answer(str(self), bucket.delete_range(every), TRANSFER_S)
        answer(str(self), bucket.write(self.key, None))

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file in memory. What was written is put when it is closed, unless an error ends its
        `with` block.
        """
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("r", "w"):
            raise io.UnsupportedOperation(f"{self}: an object can be read or replaced ({mode})")
        if kind == "r":
            content = io.BytesIO(self.read_bytes())
            if "b" in mode:
                return content
            return io.TextIOWrapper(content, encoding or "utf-8", errors, newline)
        return _Upload(self) if "b" in mode else _TextUpload(self, encoding or "utf-8")


class _Put:
    """Puts what a file in memory holds when it is closed."""

    put: Callable[[], object] | None = None

    def close(self) -> None:
        put, self.put = self.put, None
        if put:
            put()
        super().close()  # type: ignore[misc]

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.put = None  # half a file must not replace a whole one
        self.close()


class _Upload(_Put, io.BytesIO):
    def __init__(self, path: BucketPath):
        super().__init__()
        self.put = lambda: path.write_bytes(self.getvalue())


class _TextUpload(_Put, io.StringIO):
    def __init__(self, path: BucketPath, encoding: str):
        super().__init__()
        self.put = lambda: path.write_text(self.getvalue(), encoding)


def put(folder: Path, target: Path) -> None:
    """Copies the files below a folder of this machine to another place."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        at = target / file.relative_to(folder)
        at.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, at.open("wb") as copy:
            shutil.copyfileobj(source, copy)
