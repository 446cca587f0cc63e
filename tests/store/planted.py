"""Studies for the tests of the store, a reader of them that does to a worker what real files do,
and an engine without workers.
"""

import csv
import json
import os
import time
from pathlib import Path

import numpy as np

from mmv_jax.readers.refused import Refused
from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.read import Store
from mmv_jax.store.task import Job
from mmv_jax.store.workers import ENGINES
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

NAN = float("nan")


def study_of(voxels: np.ndarray, unit: str = "raw", ndim: int | None = None) -> Study:
    ndim = ndim or (2 if voxels.shape[0] == 1 else 3)
    return Study(voxels, (NAN, 0.5, 0.5) if ndim == 2 else (2.0, 0.75, 0.75), ndim, unit)


def store_of(folder: Path, studies: list[Study], masks: list[dict] | None = None) -> Store:
    """A store of one part for each ndim, written without an ingest."""
    root = open_root(folder)
    parts: dict[int, PartWriter] = {}
    for n, study in enumerate(studies):
        part = (
            parts.setdefault(study.ndim, PartWriter(root, f"part-{study.ndim}d", study.ndim))
            if study.ndim not in parts
            else parts[study.ndim]
        )
        known = {
            "study": f"{n:016x}",
            "patient": f"{n:016x}",
            "line": n + 2,
            "manifest": 1,
            "split": "train",
            "modality": "CT",
        }
        part.add(study, masks[n] if masks else {}, known)
    for part in parts.values():
        part.close()
    root.write(
        STORE_JSON, b'{"format": %d, "key_fingerprint": "", "manifests": []}' % FORMAT
    ).result()
    return Store.open(folder)


def read_npy(job: Job) -> tuple[Study, dict[str, np.ndarray]]:
    """Reads a .npy file as a study; a file that says "die", "hang" or "disk" does that."""
    content = Path(job.path).read_bytes()
    if content == b"die":
        os._exit(11)
    if content == b"hang":
        time.sleep(60)
    if not content.startswith(b"\x93NUMPY"):
        # quotes a path, which the ingest must not pass on
        raise Refused("not_an_image", f"{job.path} is no array")
    return study_of(np.load(job.path), job.unit or "raw"), {
        name: np.load(path) for name, path in job.masks.items()
    }


def run_here(task_fn, tasks, *, workers, timeout_s):
    """Runs tasks in this process: for tests to which the life of a worker is no matter."""
    for task in tasks:
        yield from task_fn(task)


ENGINES["here"] = run_here


def write_manifest(
    folder: Path,
    contents: list[np.ndarray | bytes],
    name: str = "manifest.csv",
    first: int = 0,
    **columns: list,
) -> Path:
    """Writes one file and one manifest line for each of `contents`; two studies in a row are of one
    patient.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for n, content in enumerate(contents, first):
        path = folder / f"SENTINEL-file-{n}.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
        line = {
            "study_id": f"SENTINEL-study-{n}",
            "path": path.name,
            "patient_id": f"SENTINEL-patient-{n // 2}",
            "split": "train",
            "modality": "CT",
        }
        lines.append(line | {column: values[n - first] for column, values in columns.items()})
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return folder / name


def volumes(n: int, shape: tuple = (4, 9, 10), seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(-1000, 1000, (n, *shape)).astype(np.int16))


def quarantined(store: Path) -> dict[int, str]:
    return {
        entry["line"]: entry["code"]
        for entry in map(json.loads, (store / "quarantine.jsonl").read_text().splitlines())
    }
