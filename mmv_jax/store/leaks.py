"""Leaks between splits: equal or nearly equal images in two splits."""

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd

from mmv_jax.store.task import Told

NEAR = 32  # largest number of differing bits between copies of one image (store/difference_hash.py)
# Studies compared with others at a time: what is between them stays in a core's cache.
ROWS, COLUMNS = 64, 4096
HALF = 4  # words of 64 bits, of 8: other images differ by more than NEAR bits in these alone


def leaks(index: pd.DataFrame, ordinals: Collection[int]) -> Iterator[Told]:
    """Warnings for lines of the given manifests whose image is also in another split.

    The image may be identical, or nearly.

    Args:
      index: of the whole store.
      ordinals: numbers of the manifests to report on.
    """
    if index.empty or index["split"].nunique() < 2:
        return
    own = index["manifest"].isin(set(ordinals)).to_numpy()
    # A 32-bit checksum can agree by chance among many studies, so grid and range must agree too.
    same = ["checksum", "grid_z", "grid_y", "grid_x", "low", "high"]
    splits = index.groupby(same, sort=False)["split"].transform("nunique")
    exact = set(np.flatnonzero(own & (splits > 1).to_numpy()))
    near = _near_duplicates(index, own) if "difference_hash" in index else set()
    for number in sorted(exact | near):
        line = index.iloc[number]
        place = (int(line["manifest"]), int(line["line"]))
        if number in exact:
            yield Told(place, "image_across_splits", "the same pixels are in another split: a leak")
        else:
            what = "nearly the same image is in another split (resized, recompressed or rescaled?)"
            yield Told(place, "near_duplicate_across_splits", what)


def _near_duplicates(index: pd.DataFrame, own: np.ndarray) -> set[int]:
    """Rows of `own` whose hash is near that of a row in another split.

    Of two rows one is outside of "train": it is compared with all others, 2e9 pairs in 40 s of a
    core. Rows of other manifests are compared with `own` alone, so that what is appended to a large
    store costs little.
    """
    found: set[int] = set()
    has = index["difference_hash"].map(lambda bits: isinstance(bits, bytes) and len(bits) > 0)
    for ndim in index["ndim"][has].unique():
        rows = np.flatnonzero(has & (index["ndim"] == ndim))
        hashes = b"".join(index["difference_hash"].iloc[rows])
        words = np.frombuffer(hashes, np.uint64).reshape(len(rows), -1)
        splits, mine = pd.factorize(index["split"].iloc[rows])[0], own[rows]
        held_out = (index["split"].iloc[rows] != "train").to_numpy()
        # Two studies of train are no leak, however alike they are: most pairs fall away.
        of_own = np.flatnonzero(held_out & mine)
        for a, b in _near_pairs(words, of_own, np.arange(len(rows)), splits):
            found |= set(rows[a]) | set(rows[b[mine[b]]])
        others, training = np.flatnonzero(held_out & ~mine), np.flatnonzero(~held_out & mine)
        for _, b in _near_pairs(words, others, training, splits):
            found |= set(rows[b])
    return found


def _near_pairs(
    words: np.ndarray, some: np.ndarray, others: np.ndarray, splits: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of `some` and `others`, in pieces, of different splits, at most NEAR bits apart.

    Args:
      words: `[N, 8]` uint64.
      some, others: rows of `words`.
      splits: `[N]`, the number of each row's split.
    """
    for start in range(0, len(some), ROWS):
        a = some[start : start + ROWS]
        for begin in range(0, len(others), COLUMNS):
            b = others[begin : begin + COLUMNS]
            # Word by word: all words of all pairs at once would leave the cache.
            apart = np.zeros((len(a), len(b)), np.uint16)
            for n in range(HALF):
                apart += np.bitwise_count(words[a, n][:, None] ^ words[b, n][None])
            here, there = np.nonzero(apart <= NEAR)
            here, there = a[here], b[there]
            differing = np.bitwise_count(words[here] ^ words[there]).sum(axis=1)
            near = (differing <= NEAR) & (splits[here] != splits[there])
            if near.any():
                yield here[near], there[near]
