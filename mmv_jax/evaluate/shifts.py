"""Shifts of kernel, dose and scanner: the same probes on test studies that were taken otherwise.

A shift is simulated on the voxels, so every study has a twin and the comparison is paired. Probes
are fitted and chosen on studies as they are. Axes: N studies, D width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import Features, encode_studies
from mmv_jax.evaluate.kinds.checked import probe
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import is_judged, result_of_vector
from mmv_jax.evaluate.tasks.arguments import names_among
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.corrections import holm
from mmv_jax.metrics.intervals import RESAMPLES, Difference, Interval, paired
from mmv_jax.report.progress import progress
from mmv_jax.store.read import Store

WINDOW_HU = 2000.0  # what shares of the intensity range are of, where it is in HU
KERNEL_MM = 0.8  # standard deviation of the blur: from a sharp kernel to a soft one, about
NOISE = 0.03  # of the range: 60 HU, as of a chest CT at a tenth of the usual dose
GAIN, OFFSET = 1.04, 0.01  # of the range: 4 % and 20 HU, between scanners that are out of tune


def _blurred(voxels: np.ndarray, voxel_mm: np.ndarray) -> np.ndarray:
    # In the plane alone: a kernel is chosen for the slices, whose thickness stays.
    sigma = [0.0, *(KERNEL_MM / voxel_mm[1:])]
    return ndimage.gaussian_filter(voxels, sigma, mode="nearest")


def _soft(voxels, voxel_mm, size, rng):
    return _blurred(voxels, voxel_mm)


def _sharp(voxels, voxel_mm, size, rng):
    return 2 * voxels - _blurred(voxels, voxel_mm)


def _noisy(voxels, voxel_mm, size, rng):
    # Where voxels are means of several, noise is the root of their number smaller.
    return voxels + size * NOISE * rng.normal(size=voxels.shape).astype(np.float32)


def _detuned(voxels, voxel_mm, size, rng):
    return GAIN * voxels + OFFSET * size


Changed = Callable[..., Float[np.ndarray, "z y x"]]
SHIFTS: Mapping[str, Changed] = {
    "soft kernel": _soft,
    "sharp kernel": _sharp,
    "low dose": _noisy,
    "other scanner": _detuned,
}


class ShiftedStore(Store):
    """A store whose studies were taken otherwise. Masks and geometry stay.

    Args:
      shift: of `SHIFTS`.
    """

    def __init__(self, of: Store, shift: str):
        super().__init__(of.path, of.index, of.key_fingerprint)
        self.shift, self._whole = shift, of._whole
        size = (of.index["high"] - of.index["low"]).to_numpy(np.float64)
        self._size = np.where(of.index["unit"] == "HU", WINDOW_HU, size)
        spacing = of.index[["spacing_z", "spacing_y", "spacing_x"]].to_numpy(np.float64)
        # Where nobody states a spacing, a pixel counts as wide as the blur is.
        self._spacing = np.where(np.isnan(spacing), KERNEL_MM, spacing)

    def read_box(self, i, start, shape, *, mask=None, level=0) -> np.ndarray:
        """As `Store.read_box`. The same box is changed in the same way each time."""
        voxels = super().read_box(i, start, shape, mask=mask, level=level)
        if mask is not None:
            return voxels
        factor = self.levels(i)[level - 1] if level else np.ones(3)
        rng = np.random.default_rng([int(i), level, *map(int, start)])
        size = self._size[i] / (np.sqrt(np.prod(factor)) if self.shift == "low dose" else 1.0)
        changed = SHIFTS[self.shift](voxels, self._spacing[i] * factor, size, rng)
        return np.asarray(changed, np.float32)

    def digest(self, studies) -> str:
        """Of the shifted content: features of shifted studies are kept by themselves."""
        return f"{super().digest(studies)} {self.shift}"


@dataclass(frozen=True)
class Shifted:
    """What one encoder's probe reaches in a task on shifted test studies.

    Attributes:
      value: of the task's headline metric.
      lost: how far it is worse than on the studies as they are (positive: worse, whatever the
        metric's direction), on the same draws of patients.
      p_holm: of `lost`, corrected over all that `measure.is_judged`; NaN for the others.
    """

    task: str
    encoder: str
    shift: str
    metric: str
    value: Interval
    lost: Difference
    p_holm: float = float("nan")


def check_shifts(asked: Any) -> tuple[str, ...]:
    """The shifts that `config.shifts` names. Raises UserError: one does not exist."""
    # One name may stand without brackets.
    asked = (asked,) if isinstance(asked, str) and asked else asked or ()
    return names_among(asked, "config.shifts", tuple(SHIFTS))


def measure_shifts(
    name: str,
    encoder: StudyEncoder,
    store: Store,
    features: Features,
    tasks: Sequence[Task],
    shifts: Sequence[str],
    folder: Path,
) -> list[Shifted]:
    """Probes of CLS and patch mean, fitted on studies as they are and tested on shifted ones.

    Args:
      features: of all studies of the tasks, as they are.
      tasks: with a number a study.
      folder: where features are kept.
    """
    out = []
    test = np.unique(np.concatenate([task.studies[task.split == "test"] for task in tasks]))
    for shift in shifts:
        other = encode_studies(
            encoder,
            ShiftedStore(store, shift),
            studies=test,
            with_tokens=test[:0],
            folder=folder,
            report=progress(f"{name}, {shift}: encoded"),
        )
        out += [_shifted(name, task, features, other=other, shift=shift) for task in tasks]
    return out


def _shifted(name: str, task: Task, features: Features, other: Features, shift: str) -> Shifted:
    kind, test = KINDS[task.kind], task.split == "test"
    x = features.pooled("both", task.studies)
    moved = x.copy()
    moved[test] = other.pooled("both", task.studies[test])
    # Test studies are no part of a fit, so both probes are one.
    plain, found = (probe(own, [task])[0].predicted for own in (x, moved))
    metric, truth, patients = kind.metrics[kind.headline], task.labels[test], task.patients[test]
    result = result_of_vector(name, found, shift, task)
    lost = paired(metric, truth, plain, found, patients=patients, resamples=RESAMPLES)
    if kind.headline in kind.lower_is_better:
        lost = replace(lost, value=-lost.value, low=-lost.high, high=-lost.low)
    return Shifted(task.name, name, shift, kind.headline, value=result.headline, lost=lost)


def corrected(found: Iterable[Shifted]) -> list[Shifted]:
    """With `p_holm`, all of an evaluation being one family."""
    found = list(found)
    p = holm([s.lost.p if is_judged(s.encoder) else float("nan") for s in found])
    return [replace(s, p_holm=own) for s, own in zip(found, p)]


def shift_metrics(found: Iterable[Shifted]) -> list[tuple[str, str, str, Interval]]:
    """(task, encoder, key, value) for `metrics.json`: `auroc@shift=low dose`, `auroc_lost@...`."""
    out = []
    for s in found:
        lost = Interval(s.lost.value, s.lost.low, s.lost.high, s.value.n, why=s.lost.why)
        out.append((s.task, s.encoder, f"{s.metric}@shift={s.shift}", s.value))
        out.append((s.task, s.encoder, f"{s.metric}_lost@shift={s.shift}", lost))
    return out
