"""Fifteen defects planted among clean studies of one manifest: fifteen lines refused, each by its
name, and no clean line.
"""

import nibabel as nib
import numpy as np
from dicom_files import stored_volume, write_series
from test_series import at, tilted
from test_volume import VOXELS, nifti, write

from mmv_jax.manifests.manifest import Line, read_manifest
from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused

SERIES = {  # name -> (code, what is wrong with the headers); the empty ones are clean
    "missing slice": (
        "missing_slices",
        {"ImagePositionPatient": lambda k: at(2.5 * (k + (k > 3)))},
    ),
    "duplicate slice": (
        "duplicate_slices",
        {"ImagePositionPatient": lambda k: at(2.5 * (k - (k > 3)))},
    ),
    "jitter": ("uneven_slices", {"ImagePositionPatient": lambda k: at(2.5 * k + 0.6 * (k == 3))}),
    "tilt": ("sheared", {"ImagePositionPatient": tilted}),
    "mixed orientation": (
        "mixed_orientation",
        {
            "ImageOrientationPatient": lambda k: (
                [1, 0, 0, 0, 0, -1] if k == 3 else [1, 0, 0, 0, 1, 0]
            )
        },
    ),
    "mixed spacing": ("mixed_size", {"PixelSpacing": lambda k: [0.8, 0.7 + 0.1 * (k == 3)]}),
    "mixed unit": ("mixed_unit", {"RescaleType": lambda k: "US" if k == 3 else "HU"}),
    "zero spacing": ("bad_spacing", {"PixelSpacing": [0, 0]}),
    "clean series": (None, {}),
    "clean, slope per slice": (None, {"RescaleSlope": lambda k: 1 + k % 2}),
    "clean, numbers scrambled": (None, {"InstanceNumber": lambda k: (k * 5) % 8}),
}


def plant(folder) -> dict[str, str | None]:
    """Writes studies and a manifest; the code that each study must be refused with, or None."""
    header = "study_id,path,patient_id,split,modality,spacing_mm,unit,organ_mask\n"
    lines, truth = [], {name: code for name, (code, _) in SERIES.items()}
    for name, (_, changes) in SERIES.items():
        write_series(folder / name, stored_volume(), **changes)
        lines.append(f'"{name}","{name}","{name}",train,CT,,,')
    holes = VOXELS.astype(np.float32)
    holes[1, 2, 3] = np.nan
    wild = (VOXELS > 0).astype(np.int32) * 70_000
    labels = nifti((VOXELS > 0).astype(np.uint8))
    moved = nib.Nifti1Image(np.asarray(labels.dataobj), labels.affine.copy())
    moved.affine[2, 3] += 9
    volumes = {
        "not finite": ("not_finite", nifti(holes), None, ""),
        "constant": ("constant", nifti(np.full_like(VOXELS, 3)), None, ""),
        "spacing mismatch": ("spacing_mismatch", nifti(), None, "1.5"),
        "label out of range": ("mask_values", nifti(), nifti(wild), ""),
        "mask elsewhere": ("mask_grid", nifti(), moved, ""),
        "clean volume": (None, nifti(), labels, ""),
    }
    for name, (code, image, mask, spacing) in volumes.items():
        write(image, folder / f"{name}.nii")
        if mask is not None:
            write(mask, folder / f"{name}.mask")
        mask_name = f"{name}.mask" if mask is not None else ""
        lines.append(f'"{name}","{name}.nii","{name}",train,CT,{spacing},HU,{mask_name}')
        truth[name] = code
    for name, split in (("leak 1", "train"), ("leak 2", "test")):
        lines.append(f'"{name}","clean volume.nii",leaking,{split},CT,,HU,')
        truth[name] = "patient_across_splits"
    (folder / "m.csv").write_text(header + "\n".join(lines) + "\n")
    return truth


def code_of(line: Line) -> str | None:
    try:
        study = read_study(line.path, spacing_mm=line.spacing_mm, unit=line.unit)
        for path in line.masks.values():
            read_mask(path, like=study)
    except Refused as why:
        return why.code
    return None


def test_every_planted_defect_is_named_and_no_clean_study_is(tmp_path):
    truth = plant(tmp_path)
    names = list(truth)  # in the order of the lines; the first study is line 2
    lines, refused = read_manifest(tmp_path / "m.csv")
    found = {names[line.number - 2]: code_of(line) for line in lines} | {
        names[why.number - 2]: why.code for why in refused
    }
    assert found == truth
    assert sum(code is not None for code in truth.values()) == 15
