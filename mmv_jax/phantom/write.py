"""Phantom studies as files, with a manifest."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from mmv_jax.errors import UserError
from mmv_jax.files import write_csv
from mmv_jax.phantom import breast, files, radiograph, thorax, truth
from mmv_jax.phantom.patient import Dials, Patient, draw_patient, make_dials
from mmv_jax.processes import end_with_parent

KINDS = ("thorax-cxr", "thorax-ct", "breast")
FIRST_COLUMNS = (
    "study_id",
    "path",
    "patient_id",
    "split",
    "modality",
    "ndim",
    "spacing_mm",
    "unit",
    "sex",
    "age",
)
# Multiples of it modulo 1 fill the unit interval evenly, whatever their number.
_GOLDEN = 0.6180339887498949


def split_of(seed: int, index: int) -> str:
    """Split of a patient: 60 % train, 15 % val, 25 % test in any run of consecutive patients.

    A golden-ratio sequence is used, so that the splits do not depend on the number of patients.
    """
    place = (np.random.default_rng([seed, 99]).random() + index * _GOLDEN) % 1
    return "train" if place < 0.6 else "val" if place < 0.75 else "test"


def write_phantoms(
    out: Path,
    kinds: Sequence[str],
    studies: int,
    seed: int,
    *,
    workers: int | None = None,
    resolution_mm: float = 3.6,
    pixels: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **dials: object,
) -> Path:
    """Write studies of each kind and their masks under `out`.

    Study n of every kind belongs to patient n, who is in one split. A thorax-cxr and a thorax-ct
    with the same number show the same body.

    Args:
      out: a folder, created if absent.
      kinds: among `KINDS`.
      studies: number of studies of each kind; for breast, of women with four views each.
      seed: with the number of the patient it determines every byte written.
      workers: processes; all cores by default.
      resolution_mm: edge of a CT voxel.
      pixels: columns and rows of a radiograph of 358 mm.
      progress: called with (patients written, patients to write).
      **dials: see `patient.Dials` and `breast.BreastDials`.
    Returns:
      The path of manifest.csv.
    Raises:
      UserError: an unknown kind or dial, no study, no worker, phantoms that are there already.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"There is no phantom of kind {kind}. The kinds are {', '.join(KINDS)}."
            )
    if studies < 1:
        raise UserError(f"{studies} studies were requested: request at least one.")
    if workers is not None and workers < 1:
        raise UserError(
            f"--workers is {workers}, but at least one is needed. Leave it out for one per core."
        )
    of_breast, of_thorax = _sort_dials(dials)
    one = partial(
        write_patient,
        out,
        tuple(kinds),
        seed=seed,
        dials=of_thorax,
        breast_dials=of_breast,
        resolution_mm=resolution_mm,
        pixels=pixels,
    )
    for kind in kinds:
        (out / kind).mkdir(parents=True, exist_ok=True)
    lines = []
    written = _each(one, studies, workers or os.cpu_count() or 1)
    try:
        for n, of_patient in enumerate(written, start=1):
            lines += of_patient
            progress(n, studies)
    except FileExistsError:  # other dials have other names, and may share the folder
        raise UserError(
            f"{out} holds phantoms of this kind and seed already. Use them, or give another folder."
        ) from None
    return _write_manifest(out / "manifest.csv", lines)


def _sort_dials(dials: dict[str, object]) -> tuple[breast.BreastDials, Dials]:
    """Dials of breast and thorax; `make_dials` refuses unknown names."""
    names = {field.name for field in fields(breast.BreastDials)}
    ours = {name: value for name, value in dials.items() if name in names}
    others = {name: value for name, value in dials.items() if name not in names}
    return replace(breast.BreastDials(), **ours), make_dials(**others)  # type: ignore[arg-type]


def _each(one: partial, studies: int, workers: int) -> Iterator[list[dict]]:
    """Manifest lines of every patient, in order."""
    if workers == 1 or studies < 4:
        yield from map(one, range(studies))
        return
    # Spawned, not forked: a forked child of a process that holds JAX may hang.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin) as pool:
        yield from pool.map(one, range(studies), chunksize=4)


def _begin() -> None:
    """Initialise a worker process: one numeric thread, and an end with the parent process."""
    threadpool_limits(1)
    end_with_parent()


def _write_manifest(path: Path, lines: list[dict]) -> Path:
    # Kinds have different columns: the known ones come first, the rest in alphabetical order.
    columns = list(FIRST_COLUMNS) + sorted(
        {name for line in lines for name in line} - set(FIRST_COLUMNS)
    )
    lines.sort(key=lambda line: line["study_id"])
    write_csv(path, columns, lines)
    return path


def write_patient(
    out: Path,
    kinds: Sequence[str],
    index: int,
    *,
    seed: int,
    dials: Dials,
    breast_dials: breast.BreastDials,
    resolution_mm: float,
    pixels: int,
) -> list[dict]:
    """Write the studies of one patient; return their manifest lines."""
    patient = draw_patient(seed, index, dials)
    lines = []
    for kind in kinds:
        if kind == "breast":
            lines += _write_woman(out, seed, index, breast_dials)
            continue
        # Another tie may give the same patient another image, which must not have the same name.
        study_id = f"{kind}-{seed}-{index:05d}" + (
            "" if dials.tube_tie == Dials.tube_tie else f"-tie{dials.tube_tie:g}"
        )
        line = {
            "study_id": study_id,
            "patient_id": patient.name,
            "split": split_of(seed, index),
            "sex": patient.sex,
            "age": round(patient.age),
        }
        line["tube_tie"] = dials.tube_tie
        if kind == "thorax-cxr":
            lines.append(line | _write_cxr(out, study_id, patient, pixels, dicom=index % 4 == 3))
        else:
            lines.append(
                line | _write_ct(out, study_id, patient, resolution_mm, dicom=index % 8 == 5)
            )
    return lines


def _write_cxr(out: Path, study_id: str, patient: Patient, pixels: int, *, dicom: bool) -> dict:
    grid = radiograph.radiograph_grid(pixels)
    body = thorax.paint_thorax(patient, grid)
    # The noise of each modality has its own stream: writing only one kind gives the same bytes.
    shot = radiograph.expose(body, np.random.default_rng([*patient.seed, 31]))
    folder = out / "thorax-cxr"
    name = study_id + (".dcm" if dicom else ".png")
    if dicom:
        # Every second DICOM radiograph (n % 4 == 3) is MONOCHROME1.
        inverted = patient.seed[1] % 8 == 7
        files.write_dx(
            folder / name,
            shot.image,
            grid.spacing_mm[2],
            study=study_id,
            patient=patient.name,
            sex=patient.sex,
            inverted=inverted,
        )
    else:
        files.write_png(folder / name, shot.image)
    masks = {
        "anatomy_mask": f"thorax-cxr/{study_id}_anatomy.png",
        "findings_mask": f"thorax-cxr/{study_id}_findings.png",
    }
    files.write_png(out / masks["anatomy_mask"], shot.anatomy)
    files.write_png(out / masks["findings_mask"], shot.findings)
    masks["site_mask"] = f"thorax-cxr/{study_id}_site.png"
    files.write_png(out / masks["site_mask"], radiograph.site_mask(patient, grid))
    measures = truth.labels(patient, body, shot)
    spacing = "" if dicom else round(grid.spacing_mm[2], 6)  # a DICOM file states it itself
    return (
        {
            "path": f"thorax-cxr/{name}",
            "modality": "CXR",
            "ndim": 2,
            "spacing_mm": spacing,
            "unit": "raw",
        }
        | masks
        | measures
    )


def _write_ct(
    out: Path, study_id: str, patient: Patient, resolution_mm: float, *, dicom: bool
) -> dict:
    grid = thorax.ct_grid(resolution_mm)
    body = thorax.paint_thorax(patient, grid)
    hu = thorax.scan(body, np.random.default_rng([*patient.seed, 32]))
    name = study_id + ("" if dicom else ".nii.gz")
    if dicom:
        files.write_ct_series(
            out / "thorax-ct" / name,
            hu,
            grid,
            study=study_id,
            patient=patient.name,
            sex=patient.sex,
        )
    else:
        files.write_nifti(out / "thorax-ct" / name, hu, grid)
    masks = {
        "anatomy_mask": f"thorax-ct/{study_id}_anatomy.nii.gz",
        "findings_mask": f"thorax-ct/{study_id}_findings.nii.gz",
    }
    files.write_nifti(out / masks["anatomy_mask"], body.anatomy, grid)
    files.write_nifti(out / masks["findings_mask"], body.findings, grid)
    return (
        {"path": f"thorax-ct/{name}", "modality": "CT", "ndim": 3, "unit": "HU"}
        | masks
        | truth.labels(patient, body)
    )


def _write_woman(out: Path, seed: int, index: int, dials: breast.BreastDials) -> list[dict]:
    """Write the four views of a woman; return their manifest lines.

    Every third woman is inverted (MONOCHROME1). Every second has a magnification that the file
    states.
    """
    woman, patient = breast.draw_woman(seed, index, dials), f"woman-{seed}-{index:05d}"
    magnification, inverted = (1.0, 1.04)[index % 2], index % 3 == 2
    # Other dials give the same woman other images, which must not have the same names.
    turned = "".join(
        f"-{name}{getattr(dials, name):g}"
        for name in breast.SHARES
        if getattr(dials, name) != getattr(breast.BreastDials, name)
    )
    lines, areas = [], {}
    for side, view in breast.VIEWS:
        shot, study_id = (
            breast.paint_view(woman, side, view, dials),
            f"breast-{seed}-{index:05d}-{side}{view}{turned}",
        )
        path, mask = f"breast/{study_id}.dcm", f"breast/{study_id}_bac.png"
        of = files.MammogramTags(study_id, patient, side=side, view=view, age=int(woman.age))
        # A file states the pixel at the detector, larger than at the tissue by the magnification.
        files.write_mg(
            out / path,
            shot.image,
            shot.pixel_mm * magnification,
            of,
            magnification=magnification,
            inverted=inverted,
        )
        files.write_png(out / mask, shot.bac)
        anatomy = f"breast/{study_id}_anatomy.png"
        files.write_png(out / anatomy, shot.anatomy)
        line = {
            "study_id": study_id,
            "path": path,
            "patient_id": patient,
            "split": split_of(seed, index),
            "modality": "MG",
            "ndim": 2,
            "unit": "raw",
        }
        line |= {
            "sex": "F",
            "age": int(woman.age),
            "view": view,
            "laterality": side,
            "bac_mask": mask,
            "anatomy_mask": anatomy,
            "breast_density": round(woman.density, 3),
        }
        line["film"] = int(woman.film)
        if dials.looks or dials.borders:
            line["vendor"] = woman.vendor
        lines.append(line | {"area_mm2": round(shot.area_mm2, 4)})
        areas[side, view] = shot.area_mm2
    total = breast.woman_area(areas)
    return [
        line | {"woman_area_mm2": round(total, 4), "severity": breast.severity(total)}
        for line in lines
    ]
