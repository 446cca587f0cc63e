"""Leaks between splits: equal or nearly equal images in two splits."""

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd

from mmv_jax.store.task import Told

NEAR = 32  # largest number of differing bits between copies of one image (store/difference_hash.py)
AT_ONCE = 4096  # studies compared with all others at a time


def leaks(index: pd.DataFrame, ordinals: Collection[int]) -> Iterator[Told]:
    """Warnings for lines of the given manifests whose image is also in another split.

    The image may be identical, or nearly.

    Args:
      index: of the whole store.
      ordinals: numbers of the manifests to report on.
    """
    if index.empty or index["split"].nunique() < 2:
        return
    exact = set()
    # A 32-bit checksum can agree by chance among many studies, so grid and range must agree too.
    same = ["checksum", "grid_z", "grid_y", "grid_x", "low", "high"]
    for _, group in index.groupby(same, sort=False):
        if group["split"].nunique() > 1:
            exact |= set(group.index)
    near = _near_duplicates(index) if "difference_hash" in index else set()
    for number in sorted(exact | near):
        line = index.loc[number]
        if line["manifest"] not in ordinals:
            continue
        place = (int(line["manifest"]), int(line["line"]))
        if number in exact:
            yield Told(place, "image_across_splits", "the same pixels are in another split: a leak")
        else:
            what = "nearly the same image is in another split (resized, recompressed or rescaled?)"
            yield Told(place, "near_duplicate_across_splits", what)


def _near_duplicates(index: pd.DataFrame) -> set:
    """Labels of index lines whose hash is near that of a line in another split.

    Every study outside "train" is compared with all others: 2e9 pairs a minute on two cores.
    """
    found = set()
    has = index["difference_hash"].map(lambda bits: isinstance(bits, bytes) and len(bits) > 0)
    for _, group in index[has].groupby("ndim"):
        packed = np.frombuffer(b"".join(group["difference_hash"]), np.uint8)
        packed, split = packed.reshape(len(group), -1), group["split"].to_numpy()
        # The product of signs is bits - 2 * (number of differing bits).
        least = 8 * packed.shape[1] - 2 * NEAR
        some = np.flatnonzero(split != "train")
        for at in (some[n : n + AT_ONCE] for n in range(0, len(some), AT_ONCE)):
            signs = _signs(packed[at])
            for n in range(0, len(group), AT_ONCE):
                # Exact in float32 (at most 512), and a matrix product is faster than bit counts.
                near = signs @ _signs(packed[n : n + AT_ONCE]).T >= least
                near &= split[at][:, None] != split[None, n : n + AT_ONCE]
                here, there = np.nonzero(near)
                found |= set(group.index[at[here]]) | set(group.index[n + there])
    return found


def _signs(packed: np.ndarray) -> np.ndarray:
    """Bits as -1 and 1: their product is the number of equal minus that of different bits."""
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
