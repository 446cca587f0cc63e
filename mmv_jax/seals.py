"""Digests of a checkpoint's files, written beside it and compared before it is used.

Orbax does not notice corruption (119 of 120 flipped bits were restored in silence).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from mmv_jax.buckets import BucketPath, place
from mmv_jax.unsealed import COMMITTED, fault_without_seal

PIECE = 1 << 24  # bytes of a file that are in memory at a time
STEPS, SEALS = "checkpoints", "seals"  # folders of a workdir


def step_folders(workdir: str | os.PathLike) -> dict[int, Path]:
    """The finished steps of a workdir; one that Orbax has not renamed yet, or not marked yet in a
    bucket, does not count.
    """
    steps = place(workdir) / STEPS
    if isinstance(steps, BucketPath):
        marks = (name.split("/") for name in steps.below() if name.endswith(f"/{COMMITTED}"))
        # Items have marks of their own, one level further down.
        return {int(mark[0]): steps / mark[0] for mark in marks if len(mark) == 2}
    if not steps.is_dir():
        return {}
    return {int(folder.name): folder for folder in steps.iterdir() if folder.name.isdigit()}


def find_fault(
    workdir: str | os.PathLike, step: int, *, index: int = 0, count: int = 1
) -> str | None:
    """What is wrong with the files of a step, in words; None where they are as they were written.

    A step without a seal (the process was killed between the two, or it is a copy) is whole where
    Orbax's commit mark and every item are there, and every array can be read to its end.

    Args:
      index, count: of `count` processes, number `index` hashes its share of the files alone. All
        shares together say whether the step is whole.
    """
    folder = place(workdir) / STEPS / str(step)
    seal = place(workdir) / SEALS / f"{step}.json"
    if not seal.exists():
        return None if index else fault_without_seal(folder)
    try:
        sealed = json.loads(seal.read_text())
    except ValueError:
        return f"{seal.name} cannot be read"
    found = {str(path.relative_to(folder)): path for path in _files_below(folder)}
    for n, name in enumerate(sorted(sealed.keys() | found.keys())):
        if name not in found:
            return f"{name} is missing"
        if name not in sealed:
            return f"{name} was added"
        if n % count == index and _size_and_crc(found[name]) != sealed[name]:
            return f"{name} was altered"
    return None


def digest(folder: Path) -> dict[str, list[int]]:
    """[size in bytes, CRC-32C] of each file below a folder."""
    return {
        str(path.relative_to(folder)): _size_and_crc(path) for path in sorted(_files_below(folder))
    }


def _files_below(folder: Path) -> Iterator[Path]:
    if isinstance(folder, BucketPath):
        # one request, not one a folder
        yield from (folder / name for name in folder.below())
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def _pieces(path: Path) -> Iterator[bytes]:
    """A file's content, piece by piece: a step's files need not fit into memory."""
    if isinstance(path, BucketPath):
        yield from path.pieces(PIECE)
        return
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _size_and_crc(path: Path) -> list[int]:
    size, checksum = 0, google_crc32c.Checksum()
    for piece in _pieces(path):
        size += len(piece)
        checksum.update(piece)
    return [size, int.from_bytes(checksum.digest(), "big")]
