"""AMOS22, by its folders."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, split_of

LAST_CT = 500  # numbers above are MRI


def list_amos(root: Path, tell: Tell) -> Iterator[Row]:
    """List AMOS22 with its organ masks: `imagesVa` is "test", a tenth of `imagesTr` is "val".

    The challenge's own test images have no masks, and are left out. Organs are numbered 1 to 15.
    Numbers up to 500 are CT, in HU; the others are MRI. A number is a patient.

    Source: Ji et al., arXiv 2206.08023; zenodo.org/records/7262581; folders as in
      github.com/qiumuyang/PLDG, AbdomenPrepare/data/raw/amos/README.md.
    """
    base = root / "amos22" if (root / "amos22").is_dir() else root
    unlabelled = 0
    for path in sorted(base.glob("images*/amos_*.nii.gz")):
        number = re.fullmatch(r"amos_(\d+)\.nii\.gz", path.name)
        mask = path.parent.with_name(path.parent.name.replace("images", "labels")) / path.name
        if number is None or not mask.exists():
            unlabelled += 1
            continue
        patient = number.group(1)
        is_ct = int(patient) <= LAST_CT
        yield {
            "study_id": f"amos_{patient}",
            "path": path.relative_to(root).as_posix(),
            "patient_id": patient,
            "split": "test" if path.parent.name == "imagesVa" else split_of(patient, test=0),
            "modality": "CT" if is_ct else "MR",
            "unit": "HU" if is_ct else "",
            "organs_mask": mask.relative_to(root).as_posix(),
        }
    if unlabelled:
        tell(f"Left out: {unlabelled} images without a mask.")
