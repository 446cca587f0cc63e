"""Masks of a task that contradict each other: a structure in two codes, flags read as values, two
values exchanged, the mask of another patient. Sentences for the report.

Axes: N studies of a task, V values of a mask, z y x voxels of a view.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Int

from mmv_jax.data.resample import read_crop_mask
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task

LEAST_VOXELS = 50  # of a mask that no two patients have alike by chance
LISTED = 6  # values of a mask that a sentence lists
MOST_VALUES = 8  # of a task whose values are compared by their places
# Two values lie left and right of each other: their distance as a share of the width, in how many
# studies, and of these the share in which they lie the same way round.
APART, ENOUGH, SAME_WAY = 0.1, 10, 0.9


@dataclass(frozen=True)
class _Seen:
    """What is kept of a mask.

    Attributes:
      middle: by value, its mean column as a share of the width.
      digest: of all voxels; "" of a small mask.
    """

    middle: dict[int, float]
    digest: str

    @classmethod
    def of(cls, mask: Int[np.ndarray, "z y x"]) -> "_Seen":
        values, place = np.unique(mask, return_inverse=True)
        width = mask.shape[2]
        columns = np.broadcast_to(np.arange(width), mask.shape)
        counts = np.bincount(
            place.reshape(-1) * width + columns.reshape(-1), minlength=len(values) * width
        ).reshape(len(values), width)
        middles = counts @ ((np.arange(width) + 0.5) / width) / counts.sum(axis=1)
        large = np.count_nonzero(mask) >= LEAST_VOXELS
        told = hashlib.sha256(repr(mask.shape).encode() + mask.tobytes()).hexdigest()
        middle = {int(v): float(x) for v, x in zip(values, middles) if v}
        return cls(middle, told if large else "")


def odd_scenes(task: Task, scenes: Sequence[Scene]) -> list[str]:
    """A sentence for each way in which the masks of a task are odd.

    Args:
      scenes: of the task's studies, in their order.
    """
    native = [scene.native for scene in scenes if scene.native is not None]
    masks = (
        read_crop_mask(own.store, own.geometry, i=own.study, crop=own.crop, mask=task.mask)
        for own in native
    )
    return [f"{task.name}: {said}" for said in odd_masks_of(task, masks)]


def odd_masks_of(task: Task, masks: Iterable[Int[np.ndarray, "z y x"]]) -> Iterator[str]:
    """As `odd_scenes`, of masks on the grids of the views."""
    seen = [_Seen.of(mask) for mask in masks]
    if 0 in task.values and not task.flags:
        yield "0 is among its values: the background counts as the structure."
    if not task.flags:
        yield from _other_codes(task, seen)
        yield from _flags(task, seen)
        yield from _exchanged(task, seen)
    patients: dict[str, set[str]] = defaultdict(set)
    for own, patient in zip(seen, task.patients.tolist()):
        patients[own.digest].add(patient)
    copied = {digest for digest, own in patients.items() if digest and len(own) > 1}
    if count := sum(own.digest in copied for own in seen):
        yield f"{count} masks are, voxel for voxel, that of another patient."


def _other_codes(task: Task, seen: Sequence[_Seen]) -> Iterator[str]:
    wanted = set(task.values)
    filled = [set(own.middle) for own in seen if own.middle]
    beside = {value for values in filled if values & wanted for value in values}
    alone = [values for values in filled if not values & wanted]
    # An organ map may lack the structure: its other values are also beside it elsewhere.
    if beside and alone and not any(values & beside for values in alone):
        others = _listed({value for values in alone for value in values})
        yield (
            f"{len(alone)} of {len(filled)} masks hold {others} and never {_listed(wanted)}, which"
            " the others have without these: is the structure coded in two ways?"
        )


def _flags(task: Task, seen: Sequence[_Seen]) -> Iterator[str]:
    """Values that are sums of others, each of one bit, and leave gaps: a map of labels has none."""
    values = {value for own in seen for value in own.middle}
    bits = {value for value in values if value & (value - 1) == 0}
    sums = {v for v in values - bits if v == sum(bit for bit in bits if v & bit)}
    with_wanted = {v for v in sums - set(task.values) if any(v & w for w in task.values)}
    if values == bits | sums and max(values, default=0) > len(values) and with_wanted:
        yield (
            f"values {_listed(with_wanted)} contain the bits of {_listed(task.values)} too: if the"
            " mask holds flags, set `flags` and not `values`."
        )


def _exchanged(task: Task, seen: Sequence[_Seen]) -> Iterator[str]:
    for a, b in combinations(sorted(set(task.values))[:MOST_VALUES], 2):
        both = [own.middle for own in seen if {a, b} <= set(own.middle)]
        ways = Counter(own[a] < own[b] for own in both if abs(own[a] - own[b]) >= APART)
        usual, most = ways.most_common(1)[0] if ways else (False, 0)
        if most >= ENOUGH and SAME_WAY * ways.total() <= most < ways.total():
            side = "left" if usual else "right"
            yield (
                f"in {ways.total() - most} of {ways.total()} masks {a} is not {side} of {b}, as in"
                " the others: mirrored, or exchanged?"
            )


def _listed(values: Iterable[int]) -> str:
    found = sorted(values)
    return ", ".join(map(str, found[:LISTED])) + (", ..." if len(found) > LISTED else "")
