"""Summary of a store: counts and ranges, damaged blocks, and a contact sheet. It names nobody."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from mmv_jax.store.index import damaged_indices
from mmv_jax.store.layout import open_root, unpack_occupancy
from mmv_jax.store.quarantine import read_quarantine
from mmv_jax.store.read import Store

SOFT_TISSUE_HU = (-160.0, 240.0)  # of the axial slice
WHOLE_HU = (-1000.0, 600.0)  # of the coronal slice: lungs, and vessels with contrast
PANE = 168  # pixels of the longer side of a picture
CAPTION = 30
COLUMNS = 4
# colours of the labels 1, 2, …, then again from the first
TINTS = np.array(
    [(255, 80, 40), (60, 160, 255), (90, 220, 90), (255, 210, 60), (200, 110, 255), (70, 220, 220)],
    float,
)


def summary(store: Store) -> pd.DataFrame:
    """Table with one line for each kind of study (modality, unit, ndim).

    It has studies by split, patients, and the ranges of grid, spacing (mm) and intensity.
    """
    index = store.index.assign(
        carries=[
            unpack_occupancy(o, n).mean()
            for o, n in zip(store.index["occupancy"], store.index["ndim"])
        ]
    )
    lines = []
    for (modality, unit, ndim), group in index.groupby(["modality", "unit", "ndim"]):
        line = {
            "modality": modality,
            "unit": unit,
            "ndim": ndim,
            "studies": len(group),
            "patients": group["patient"].nunique(),
        }
        line |= {split: int((group["split"] == split).sum()) for split in ("train", "val", "test")}
        line["grid (z, y, x)"] = " × ".join(_range(group[f"grid_{axis}"], "d") for axis in "zyx")
        line["spacing mm (z, y, x)"] = " × ".join(
            _range(group[f"spacing_{axis}"], ".3g") for axis in "zyx"
        )
        line["intensity (low, high)"] = (
            f"{_range(group['low'], '.4g')}, {_range(group['high'], '.4g')}"
        )
        line["carries something"] = f"{group['carries'].mean():.0%}"
        line["masks"] = (
            ", ".join(
                sorted({name for names in group["masks"] for name in names.split(",") if name})
            )
            or "none"
        )
        lines.append(line)
    return pd.DataFrame(lines)


def describe(path: str | Path) -> str:
    """Summary of the store at `path` as a page of text, with the codes in its quarantine."""
    store = Store.open(path)
    codes = Counter(entry["code"] for entry in read_quarantine(open_root(path)))
    pages = [
        f"{len(store)} studies of {store.index['patient'].nunique()} patients, named by the key"
        f" {store.key_fingerprint}"
    ]
    for _, line in summary(store).iterrows():
        pages.append("\n".join(f"  {name:<24}{value}" for name, value in line.items()))
    pages.append(
        "refused: " + (", ".join(f"{n} {code}" for code, n in codes.most_common()) or "none")
    )
    return "\n\n".join(pages)


def verify(
    path: str | Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Message for each study or part index that is damaged or missing.

    Every block is read, with the blocks of masks and levels.
    """
    store = Store.open(path)
    faults = damaged_indices(open_root(path))
    for i, (study, manifest, line, part) in enumerate(
        store.index[["study", "manifest", "line", "part"]].itertuples(index=False)
    ):
        if not store.is_whole(i):
            faults.append(
                f"study {study} (manifest {manifest}, line {line}): blocks in parts/{part} are"
                " damaged or gone"
            )
        progress(i + 1, len(store))
    return faults


def contact_sheet(path: str | Path, file: str | Path, *, studies: int = 24) -> None:
    """Write a PNG with studies of every kind, masks tinted.

    A planar study is one picture, a volume its central axial and coronal slice. HU is shown in a
    soft-tissue window (axial) and from -1000 to 600 (coronal). Raw values are shown from the
    study's low to its high percentile, shapes from 0 to 1. Pixels have their physical proportions.
    In a volume, the head is up and the patient's left is on the right, as radiologists view it. Up
    to six labels of a mask have their own colours.

    Args:
      studies: how many to show.
    """
    store = Store.open(path)
    sheet_of(store, store.index.index.to_numpy(), studies=studies).save(file)


def sheet_of(store: Store, lines: np.ndarray, *, studies: int) -> Image.Image:
    """The contact sheet of some of the lines of a store's index, spread evenly over its kinds."""
    chosen = _choose(store.index.loc[lines], studies)
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    width, height = 2 * PANE + 12, PANE + CAPTION + 8
    sheet = Image.new("RGB", (columns * width, rows * height), (24, 24, 28))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for n, i in enumerate(chosen):
        left, top = (n % columns) * width + 4, (n // columns) * height + 4
        for k, pane in enumerate(_panes(store, i)):
            sheet.paste(
                pane,
                (left + k * (PANE + 4) + (PANE - pane.width) // 2, top + (PANE - pane.height) // 2),
            )
        draw.multiline_text(
            (left, top + PANE + 2),
            _caption(store.index.iloc[i]),
            fill=(210, 210, 210),
            font=font,
            spacing=1,
        )
    return sheet


def _range(values: pd.Series, form: str) -> str:
    known = values.dropna()
    if known.empty:
        return "unknown"
    low, high = format(known.min(), form), format(known.max(), form)
    return low if low == high else f"{low}–{high}"


def _choose(index: pd.DataFrame, studies: int) -> list[int]:
    """Positions of studies to show: an equal number of each kind, spread evenly over the index."""
    groups = [
        group.index.to_numpy() for _, group in index.groupby(["modality", "unit", "ndim", "masks"])
    ]
    chosen: list[int] = []
    # Places that a small kind leaves free go to the larger ones.
    for n, group in enumerate(sorted(groups, key=len)):
        # Equal shares of the remaining places among the remaining kinds.
        share = min(len(group), -(-(studies - len(chosen)) // (len(groups) - n)))
        chosen += group[np.linspace(0, len(group) - 1, share).astype(int)].tolist()
    return sorted(chosen)


def _panes(store: Store, i: int) -> list[Image.Image]:
    line = store.index.iloc[i]
    depth, height, width = (int(line[f"grid_{axis}"]) for axis in "zyx")
    z_mm, y_mm, x_mm = (
        line[f"spacing_{axis}"] if line[f"spacing_{axis}"] > 0 else 1.0 for axis in "zyx"
    )
    masks = [name for name in line["masks"].split(",") if name]
    axial = ((depth // 2, 0, 0), (1, height, width))
    if line["ndim"] == 2:
        return [
            _picture(store, i, box=axial, axis=0, masks=names, pixel_mm=(y_mm, x_mm))
            for names in ([], masks)[: 2 if masks else 1]
        ]
    coronal = ((0, height // 2, 0), (depth, 1, width))
    pictures = (
        _picture(store, i, box=axial, axis=0, masks=masks, pixel_mm=(y_mm, x_mm)),
        _picture(store, i, box=coronal, axis=1, masks=masks, pixel_mm=(z_mm, x_mm)),
    )
    # z grows towards the head in LPS+, and rows of a picture grow downwards.
    return [pictures[0], pictures[1].transpose(Image.Transpose.FLIP_TOP_BOTTOM)]


def _picture(
    store: Store, i: int, box: tuple, axis: int, masks: list[str], pixel_mm: tuple[float, float]
) -> Image.Image:
    """Slice across `axis` with tinted masks, in physical proportions."""
    line = store.index.iloc[i]
    windows = {
        "HU": (SOFT_TISSUE_HU, WHOLE_HU)[axis],
        "shape": (0.0, 1.0),
        "raw": (line["low"], line["high"]),
    }
    low, high = windows[line["unit"]]
    gray = np.squeeze(store.read_box(i, *box), axis)
    rgb = np.repeat(
        np.clip((gray - low) / max(high - low, 1e-6), 0, 1)[..., None] * 255, 3, axis=-1
    )
    for name in masks:
        labels = np.squeeze(store.read_box(i, *box, mask=name), axis)
        rgb[labels > 0] = 0.6 * rgb[labels > 0] + 0.4 * TINTS[(labels[labels > 0] - 1) % len(TINTS)]
    # Pixels need not be square: a coronal slice of 5 mm slices would look flat.
    size_mm = (rgb.shape[0] * pixel_mm[0], rgb.shape[1] * pixel_mm[1])
    height, width = (max(1, round(PANE * mm / max(size_mm))) for mm in size_mm)
    return Image.fromarray(rgb.astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)


def _caption(line: pd.Series) -> str:
    axes = "zyx" if line["ndim"] == 3 else "yx"
    grid = " x ".join(str(line[f"grid_{axis}"]) for axis in axes)
    spacing = " x ".join(f"{line[f'spacing_{axis}']:.3g}" for axis in axes)
    known = f"of {spacing} mm" if line["spacing_x"] > 0 else "of unknown size"
    return (
        f"{line['modality']} {line['split']}, {line['low']:.4g} to {line['high']:.4g}"
        f" {line['unit']}\n{grid} {known}"
    )
