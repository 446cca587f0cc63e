"""Packed rows drawn as the encoder reads them: every crop after augmentation, put together again
from its tokens, at its place in mm. Axes: L tokens of a row, P voxels of a patch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mmv_jax.data.crops import Triple
from mmv_jax.data.pipeline import Rows
from mmv_jax.models.kinds import PATCH

MOST_CROPS = 12  # of a row that are drawn; the bar above them shows all
COLUMNS = 6
LONE_MM = 1.0  # stands for the voxel of a crop of one patch, which its place does not tell
ABSENT, HIDDEN = "#10243f", "#e69f00"  # no token: background; a token that the encoder must guess
KINDS = {True: "global", False: "local"}
Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class DrawnCrop:
    """A crop that was put together again from the tokens of a row.

    Attributes:
      voxels: `[z, y, x]` as the encoder gets them, about [-1, 1]; NaN where there is no token.
      hidden: `[z, y, x]`, where the tokens are that the encoder does not see.
      low_mm, high_mm: the edges (z, y, x), from the study's centre. A crop of one patch does not
        tell its size, and stands as if its voxels were LONE_MM.
    """

    voxels: Float[np.ndarray, "gz gy gx"]
    hidden: np.ndarray
    low_mm: np.ndarray
    high_mm: np.ndarray


def crop_of(batch: Batch, row: int, segment: int, patch: Triple) -> DrawnCrop:
    """The crop that is segment number `segment` (from 1) of a row."""
    own = (batch["segment_ids"][row] == segment) & (batch["kinds"][row] == PATCH)
    points = batch["coords_mm"][row][own].astype(np.float64)
    sides = np.asarray(patch)
    # Voxels are cubic, so neighbours along any one axis tell their size.
    edges = [_step(points[:, axis]) / sides[axis] for axis in range(3)]
    voxel = np.nanmin(edges) if np.isfinite(edges).any() else LONE_MM
    steps = voxel * sides
    if batch["planar"][row, segment - 1]:
        sides = np.array([1, *patch[1:]])
    cells = np.rint((points - points.min(axis=0)) / steps).astype(int)
    counts = cells.max(axis=0) + 1
    voxels = np.full((*counts, *sides), np.nan, np.float32)
    hidden = np.zeros((*counts, *sides), bool)
    tiles = batch["patches"][row][own].reshape(-1, *patch)[:, : sides[0]]
    voxels[tuple(cells.T)], hidden[tuple(cells.T)] = (
        tiles,
        _hidden(batch, row)[own, None, None, None],
    )
    low = points.min(axis=0) - steps / 2
    return DrawnCrop(_joined(voxels), _joined(hidden), low, low + steps * counts)


def _joined(tiles: np.ndarray) -> np.ndarray:
    """Patches `[tz, ty, tx, pz, py, px]` as one array `[z, y, x]`."""
    shape = np.multiply(tiles.shape[:3], tiles.shape[3:])
    return tiles.transpose((0, 3, 1, 4, 2, 5)).reshape(shape)


def _step(places: np.ndarray) -> float:
    """The distance between neighbouring patches along an axis; NaN where all lie at one place."""
    apart = np.diff(np.unique(np.round(places, 3)))
    return float(apart.min()) if len(apart) else float("nan")


def _hidden(batch: Batch, row: int) -> np.ndarray:
    """Which tokens of a row the encoder does not get to see: masked ones, or those of global crops
    that are not among the visible.
    """
    hidden = np.zeros(batch["kinds"].shape[1], bool)
    if "visible_index" in batch:
        ids = batch["segment_ids"][row]
        is_global = np.append(False, batch["is_global"][row])[ids]
        seen = batch["visible_index"][row]
        hidden |= is_global & (batch["kinds"][row] == PATCH)
        hidden[seen[seen >= 0]] = False
    if "masked" in batch:
        masked = batch["masked"][row]
        hidden[: len(masked)] |= masked
    return hidden


def draw_rows(rows: Rows, index: pd.DataFrame, out: Path, *, step: int = 0, most: int = 3) -> str:
    """Writes a PNG of the first rows of a step, as they are trained on.

    Above each row a bar shows its tokens, a colour a crop, up to the prefix (line) and the length.
    Each crop is drawn where it lies in its study (mm from its centre): planar ones whole, volumes
    by their middle axial slice. Dark blue is background, which has no token; tokens that are hidden
    from the encoder are tinted orange.

    Args:
      index: of the store that `rows` are made of.
      out: the PNG.
      most: rows to draw.
    Returns:
      What was drawn, in a sentence.
    """
    batch, shape = rows.batch(step), rows.shape
    count = min(most, len(batch["kinds"]))
    figure = Figure(figsize=(15, 6.4 * count), dpi=90, facecolor="white")
    parts = figure.subfigures(count, 1, squeeze=False)[:, 0]
    drawn = 0
    for row, part in enumerate(parts):
        segments = int(batch["segment_ids"][row].max())
        shown = min(segments, MOST_CROPS)
        lines = -(-MOST_CROPS // COLUMNS)
        axes = part.subplot_mosaic(
            [["bar"] * COLUMNS]
            + [[str(COLUMNS * k + n + 1) for n in range(COLUMNS)] for k in range(lines)],
            height_ratios=[0.16] + [1] * lines,
        )
        part.subplots_adjust(left=0.04, right=0.99, top=0.88, bottom=0.06, hspace=0.6, wspace=0.3)
        _bar(axes["bar"], part, batch, row=row, length=shape.length, prefix=shape.prefix)
        for segment in range(1, MOST_CROPS + 1):
            if segment > segments:
                axes[str(segment)].set_axis_off()
                continue
            study = index.iloc[int(batch["study"][row, segment - 1])]
            _panel(
                axes[str(segment)], batch, row=row, segment=segment, patch=shape.patch, study=study
            )
        drawn += shown
    figure.savefig(out)
    return f"{out}: {drawn} crops of {count} rows of step {step}"


def _bar(axes: Axes, part: SubFigure, batch: Batch, row: int, length: int, prefix: int) -> None:
    ids = batch["segment_ids"][row]
    # Neighbouring segments get colours far apart; padding stays white.
    colours = np.where(ids > 0, (ids * 7) % 20 + 1, 0)
    axes.imshow(
        np.where(ids > 0, colours, np.nan)[None], aspect="auto", cmap="tab20", vmin=1, vmax=20
    )
    axes.axvline(prefix - 0.5, color="black", lw=1.5)
    axes.set_yticks([])
    axes.set_xlim(-0.5, length - 0.5)
    axes.tick_params(labelsize=8)
    studies = len(set(batch["study"][row][batch["study"][row] >= 0].tolist()))
    filled = int((ids > 0).sum())
    part.suptitle(
        f"row {row}: {filled} of {length} tokens ({filled / length:.1%}), {ids.max()} crops of"
        f" {studies} studies, prefix {prefix} (line). Orange: hidden from the encoder. Dark blue:"
        " no token.",
        fontsize=11,
        x=0.04,
        ha="left",
    )


def _panel(
    axes: Axes, batch: Batch, row: int, segment: int, patch: Triple, study: pd.Series
) -> None:
    crop = crop_of(batch, row, segment, patch)
    middle = len(crop.voxels) // 2
    plane, hidden = crop.voxels[middle], crop.hidden[middle]
    (z0, y0, x0), (z1, y1, x1) = crop.low_mm, crop.high_mm
    extent = (x0, x1, y1, y0)  # rows grow downwards, to the patient's back
    axes.set_facecolor(ABSENT)
    axes.imshow(np.ma.masked_invalid(plane), cmap="gray", vmin=-1, vmax=1, extent=extent)
    tint = np.zeros((*hidden.shape, 4))
    tint[hidden] = (*(int(HIDDEN[i : i + 2], 16) / 255 for i in (1, 3, 5)), 0.35)
    axes.imshow(tint, extent=extent)
    tokens = int(((batch["segment_ids"][row] == segment) & (batch["kinds"][row] == PATCH)).sum())
    kind = KINDS[bool(batch["is_global"][row, segment - 1])]
    depth = "" if study["ndim"] == 2 else f", z {z0:.0f} to {z1:.0f} mm"
    axes.set_title(
        f"{segment}: {study['modality']} {study['study'][:6]}, {kind}\n{tokens} patches{depth}",
        fontsize=8,
    )
    axes.set_xlabel("x, mm", fontsize=7, labelpad=1)
    axes.set_ylabel("y, mm", fontsize=7, labelpad=1)
    axes.tick_params(labelsize=7)
