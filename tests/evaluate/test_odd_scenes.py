"""Masks of one task that contradict each other are told; those of usual maps are not."""

import re

import numpy as np
import pandas as pd
import pytest

from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.tasks.odd_scenes import odd_masks_of

N = 30
INDEX = pd.DataFrame(
    {
        "patient": [f"p{i}" for i in range(N)],
        "split": np.resize(["train", "val", "test"], N),
        "ndim": 2,
        "masks": "lungs",
    }
)


def lungs(i: int) -> np.ndarray:
    """Left and right lung (1 and 2) of study i, as they are displayed, and a heart (3) in some."""
    mask = np.zeros((1, 32, 40), np.int16)
    mask[0, 4 + i % 3 : 20 + i, 24:36], mask[0, 5 : 21 + i % 5, 3 : 12 + i // 5] = 1, 2
    if i % 2:
        mask[0, 12:20, 16:22] = 3
    return mask


def told(change, values=(1, 2), flags=0):
    task = make_task(INDEX, "mine", kind="segmentation", mask="lungs", values=values, flags=flags)
    return list(odd_masks_of(task, [change(i, lungs(i)) for i in range(N)]))


def some(change, every=10):
    return lambda i, mask: change(mask) if i % every == 0 else mask


def flagged(i, mask):
    """A heart over the lungs: 1 and 2 are bits, and 8 is the heart."""
    mask = np.where(mask == 3, 0, mask).astype(np.int16)
    mask[0, 12:20, 9:28] += 8
    return mask


def alike(mask):
    return lungs(0)


ODD = {
    "255 for 1": (some(lambda m: np.where(m, 255, 0), 3), (1, 2), "10 of 30 masks hold 255 and"),
    "other values": (some(lambda m: m * 5, 3), (1, 2), "hold 5, 10, 15 and never 1, 2"),
    "exchanged": (some(lambda m: np.where(m == 3, 3, -m % 3)), (1, 2), "in 3 of 30 masks 1 is not"),
    "mirrored": (some(lambda m: m[:, :, ::-1]), (1, 2), "in 3 of 30 masks 1 is not right of 2"),
    "flags": (flagged, (1, 2), "values 9, 10 contain the bits of 1, 2 too"),
    "copied": (some(alike), (1, 2), "3 masks are, voxel for voxel, that of another patient"),
}


@pytest.mark.parametrize("change, values, said", ODD.values(), ids=list(ODD))
def test_masks_that_contradict_each_other_are_told(change, values, said):
    (found,) = told(change, values)
    assert re.search(said, found)


USUAL = {
    "as they are": (lambda i, mask: mask, (1, 2)),
    "one of the values": (lambda i, mask: mask, (3,)),
    "empty": (some(lambda m: m * 0, 2), (1, 2)),
    "without the lungs": (some(lambda m: np.where(m == 3, 3, 0), 3), (1, 2)),
}


@pytest.mark.parametrize("change, values", USUAL.values(), ids=list(USUAL))
def test_usual_masks_are_told_nothing(change, values):
    assert told(change, values) == []


def test_the_background_as_a_structure_is_told():
    (found,) = told(lambda i, mask: mask, values=(0, 3))
    assert "0 is among its values" in found


def test_flags_that_are_read_as_flags_are_told_nothing():
    assert told(flagged, flags=8) == []
