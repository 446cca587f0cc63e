"""The folder of a command's results: one writer at a time, and results of one call only."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mmv_jax.buckets import BucketPath
from mmv_jax.errors import UserError
from mmv_jax.files import try_lock
from mmv_jax.provenance import FILE, RESULTS

LOCK = "writing.lock"
# What an evaluation writes. `metrics.json` is the first to go and the last to come.
WRITTEN = (
    *("metrics.json", FILE, "metrics.csv", "comparisons.json", "predictions.parquet"),
    *("protocol.json", "report.html", "report.json"),
)
KEPT = ("features", "fitted", "parts")  # folders of what a stopped command goes on from


@contextmanager
def only_writer(folder: Path, option: str) -> Iterator[None]:
    """Hold a folder for this process, and remove temporary files that killed ones have left.

    A bucket and a file system without locks hold nobody out.

    Args:
      option: the command-line option that names the folder.
    Raises:
      UserError: another process writes there.
      OSError: nothing can be written there.
    """
    if isinstance(folder, BucketPath):
        yield
        return
    path, is_new = folder / LOCK, not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        is_ours = _lock_of(file, path)
        if is_ours is False:
            raise UserError(
                f"{option} {folder}: another process writes its results there. Wait for it, or"
                f" give another {option}."
            )
        if is_ours:
            _sweep(folder)
        try:
            yield
        finally:
            # Before the lock ends with the file, or another process could hold what is removed. A
            # lost share must not hide why the work has ended.
            with suppress(OSError):
                path.unlink(missing_ok=True)
                if is_new and not any(folder.iterdir()):  # a mistake leaves nothing behind
                    folder.rmdir()


def _lock_of(file: IO[str], path: Path) -> bool | None:
    """As `try_lock`, and False where `path` is no longer this file."""
    is_ours = try_lock(file)
    if not is_ours:
        return is_ours
    # A writer that has just ended may have removed the file between our opening and locking it.
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _sweep(folder: Path) -> None:
    """Remove the temporary files of `files.replacing`, by the names of our own files only."""
    for name in {*WRITTEN, *RESULTS}:
        for part in folder.glob(f"{name}.*.part"):
            part.unlink(missing_ok=True)
    for kept in map(folder.joinpath, KEPT):
        # A link may lead to the folder of another workdir, whose writer is at work.
        for part in () if kept.is_symlink() else kept.glob("*.npz.*.part"):
            part.unlink(missing_ok=True)


def clear_results(folder: Path) -> None:
    """Make the folder, or remove the results of an earlier evaluation, right before new ones are
    written.

    `provenance.write_metrics` writes `metrics.json` last. So a folder with that file has all
    results of one evaluation, and none of another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:
        (folder / name).unlink(missing_ok=True)


def told_of_other(folder: Path, config: Mapping[str, Any]) -> str:
    """A sentence where the folder holds results of another config; "" where it does not.

    Args:
      config: as JSON types.
    """
    if not (folder / RESULTS[0]).is_file():
        return ""
    try:
        before = json.loads((folder / FILE).read_text())["config"]
        # Plug-ins stand there by their digests, and here perhaps by their paths.
        names = sorted((set(before) | set(config)) - {"plugins"})
    except (OSError, ValueError, TypeError, KeyError):
        return ""
    other = [name for name in names if before.get(name) != config.get(name)]
    if not other:
        return ""
    return (
        f"{folder} holds the results of another config ({', '.join(other)}). They are replaced when"
        " this evaluation is done."
    )
