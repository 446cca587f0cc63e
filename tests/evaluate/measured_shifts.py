"""How far features and predictions move with kernel, dose and scanner; the table of docs/results.

  python tests/evaluate/measured_shifts.py ../shared/data docs/measured/kernels.json

A chest CT that was reconstructed with two kernels is cut into places as large as LIDC's crops, and
the test crops of LIDC are shifted by `evaluate/shifts.py`. The yardstick is the distance between
patients of LIDC's test. Axes: N crops, D width.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from mmv_jax.evaluate.encoders.features import encode_studies
from mmv_jax.evaluate.encoders.trained import restore, with_fresh_weights
from mmv_jax.evaluate.kinds.classification import probe_classes
from mmv_jax.evaluate.shifts import SHIFTS, ShiftedStore, measure_shifts
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.metrics.intervals import interval
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store

SCANS = ("chest_a0001_20070404_540805", "chest_a0001_20070404_641315")
CROP = (44, 44, 8)  # voxels (x, y, z): 37 × 37 × 40 mm
APART_MM = 50.0  # of the places' centres
TISSUE_HU, LEAST_TISSUE = -900.0, 0.6  # a place is in the body
MOVED, TURNED, FOUND = "distance moved / between patients", "score moved / spread", "% found again"


def write_places(data: Path, folder: Path) -> Path:
    """Crops of both scans at the same places, and their manifest."""
    images = {name: nib.load(data / "ct" / f"{name}.nii.gz") for name in SCANS}
    voxels = {name: np.asanyarray(image.dataobj) for name, image in images.items()}
    first, step = voxels[SCANS[0]], np.abs(np.diag(images[SCANS[0]].affine)[:3])
    ranges = [
        range(0, n - size, max(int(APART_MM / mm), 1))
        for n, size, mm in zip(first.shape, CROP, step)
    ]
    rows = []
    for place in ((x, y, z) for x in ranges[0] for y in ranges[1] for z in ranges[2]):
        box = tuple(slice(start, start + size) for start, size in zip(place, CROP))
        if (first[box] > TISSUE_HU).mean() < LEAST_TISSUE:
            continue
        for scan, name in enumerate(SCANS):
            study = f"place-{len(rows) // 2}-{scan}"
            affine = images[name].affine.copy()
            affine[:3, 3] += affine[:3, :3] @ place
            nib.save(nib.Nifti1Image(voxels[name][box], affine), folder / f"{study}.nii.gz")
            rows.append([study, f"{study}.nii.gz", "lungdx", "test", "place", "HU", scan])
    path = folder / "places.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["study_id", "path", "patient_id", "split", "modality", "unit", "scan"])
        out.writerows(rows)
    return path


def measure(encoder, store: Store, folder: Path, name: str) -> dict[str, dict]:
    """By shift, the cells of one encoder."""
    index = store.index
    lidc = np.flatnonzero((index["modality"] == "CT") & index["label_malignant"].notna())
    places = np.flatnonzero(index["modality"] == "place")
    every = np.sort(np.concatenate([lidc, places]))
    features = encode_studies(encoder, store, every, every[:0], folder)
    x = features.pooled("both", every)
    split = index["split"].to_numpy(str)[every]
    train = np.isin(every, lidc) & (split == "train")
    z = (x - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-6)
    # A patient of test counts once: the first nodule.
    test = lidc[split[np.isin(every, lidc)] == "test"]
    test = test[~pd.Series(index["patient"].to_numpy(str)[test]).duplicated().to_numpy()]
    at = {study: row for row, study in enumerate(every.tolist())}
    own = z[[at[study] for study in test.tolist()]]
    between = float(np.median(_distances(own, own)[np.triu_indices(len(own), 1)]))
    label = np.nan_to_num(index["label_malignant"].to_numpy(float))[every]

    def scores(moved: np.ndarray, rows: list[int]) -> np.ndarray:
        """Log odds of the probe, fitted on unshifted train and val."""
        changed = x.copy()
        changed[rows] = moved
        p = probe_classes(changed, label[:, None], split)[0].predicted
        places_of = {row: n for n, row in enumerate(np.flatnonzero(split == "test").tolist())}
        p = np.clip(p[[places_of[row] for row in rows]], 1e-6, 1 - 1e-6)
        return np.log(p / (1 - p))

    rows = [at[study] for study in test.tolist()]
    plain = scores(x[rows], rows)
    spread = float(plain.std())
    # Two lines of the manifest are one place. A crop that the ingest refused has no pair.
    line = index["line"].to_numpy(int)[places]
    pairs = {n: places[(line - 2) // 2 == n] for n in np.unique((line - 2) // 2)}
    whole = [pair for pair in pairs.values() if len(pair) == len(SCANS)]
    one, two = ([at[pair[scan]] for pair in whole] for scan in range(len(SCANS)))
    found = {
        f"two kernels, {len(one)} places of one patient": _cells(
            z[one], z[two], np.abs(scores(x[two], two) - scores(x[one], one)), between, spread
        )
    }
    task = make_task(index, "malignant", kind="classification", label="malignant")
    lost = {s.shift: s.lost for s in measure_shifts(
        name, encoder, store, features, [task], tuple(SHIFTS), folder)}  # fmt: skip
    all_test = np.unique(task.studies[task.split == "test"])
    for shift in SHIFTS:
        other = encode_studies(
            encoder, ShiftedStore(store, shift), all_test, all_test[:0], folder
        ).pooled("both", test)
        moved = (other - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-6)
        row = _cells(own, moved, np.abs(scores(other, rows) - plain), between, spread)
        d = lost[shift]
        row["AUROC lost"] = _cell(d.value, (d.low, d.high))
        found[f"{shift}, {len(test)} patients of LIDC"] = row
    return found


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0))


def _cells(
    plain: np.ndarray, moved: np.ndarray, turned: np.ndarray, between: float, spread: float
) -> dict[str, dict]:
    """Medians over crops with bootstrap intervals, and how many are nearest to themselves."""
    distances = _distances(moved, plain)
    again = (distances.argmin(axis=1) == np.arange(len(plain))).astype(float)
    found = interval("proportion", again, again, np.arange(len(again)))
    return {
        MOVED: _median(np.diag(distances) / between),
        TURNED: _median(turned / spread),
        FOUND: _cell(100 * found.value, (100 * found.low, 100 * found.high), digits=1),
    }


def _median(values: np.ndarray) -> dict:
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    bounds = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return _cell(float(np.median(values)), bounds)


def _cell(value: float, bounds, digits: int = 3) -> dict:
    return {
        "value": round(float(value), digits) + 0.0,  # no -0.0
        "ci95": [round(float(bound), digits) for bound in bounds],
    }


def table_of(found: Mapping[str, Mapping[str, dict]]) -> dict:
    """`found[encoder][shift]` as the metrics of docs/measured."""
    first = next(iter(found.values()))
    return {shift: {name: own[shift] for name, own in found.items()} for shift in first}


def main(data: Path, out: Path, tell: Callable[[str], None] = print) -> None:
    """Measures chest-mini and random weights and writes `out`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = write_places(data, folder)
        report = ingest([data / "lidc.csv", places], folder / "store", workers=1, unit="HU")
        tell(str(report))
        store = Store.open(folder / "store")
        trained, _ = restore("chest-mini", {"length": 512, "rows": 8})
        encoders = {"chest-mini": trained, "random weights": with_fresh_weights(trained, 1)}
        found = {name: measure(own, store, folder / "f", name) for name, own in encoders.items()}
    record = {
        "command": f"python tests/evaluate/measured_shifts.py ../shared/data {out}",
        "date": str(date.today()),
        "machine": "two cores, no accelerator",
        "source": "medians over crops, bootstrap intervals; the places are of one patient",
        "head": ["shift", "quantity"],
        "metrics": table_of(found),
    }
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
