"""CBIS-DDSM, by its own lists."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, published_table, split_of

LISTS = {
    f"{kind}_case_description_{split}_set.csv": (kind, split)
    for kind in ("mass", "calc")
    for split in ("train", "test")
}


def list_cbis_ddsm(root: Path, tell: Tell) -> Iterator[Row]:
    """List the whole mammograms of CBIS-DDSM: one view is a study, and P_00001 the patient.

    Crops and masks of the abnormalities are left out. A view has a row in the lists for each of its
    abnormalities: `malignant` is 1 where one of them is, `birads` is the highest assessment.

    The published lists of masses and of calcifications were split apart, so that a woman can be in
    the training set of one and in the test set of the other. She is "test" here, with all views. A
    tenth of the other women is "val".

    Source: Lee et al., Scientific Data 2017; columns patient_id, `left or right breast`,
      `image view`, assessment, pathology and `image file path` as in
      github.com/tensorflow/datasets,
      tensorflow_datasets/testing/fake_data_generation/curated_breast_imaging_ddsm.py.
    """
    views: dict[str, list[Row]] = defaultdict(list)
    kinds: dict[str, str] = {}
    held_out: dict[str, set[str]] = {"train": set(), "test": set()}
    columns = ("patient_id", "left or right breast", "image view", "pathology", "image file path")
    for name, (kind, split) in LISTS.items():
        for line in published_table(root, f"**/{name}", *columns):
            # The path in the list begins with the folder of the view; what follows are UIDs that
            # the downloader replaces.
            folder = line["image file path"].strip().split("/")[0]
            views[folder].append(line)
            kinds[folder] = kind
            held_out[split].add(line["patient_id"])
    both = held_out["train"] & held_out["test"]
    if both:
        tell(f"{len(both)} women are in the published train and test sets: they count as test.")
    places = {path.name: path for path in root.rglob("*_P_*") if path.is_dir()}
    for folder, lines in views.items():
        files = sorted(places[folder].rglob("*.dcm")) if folder in places else []
        if len(files) != 1:
            continue
        line, patient = lines[0], lines[0]["patient_id"]
        grades = [g for one in lines if (g := one.get("assessment", "")) in tuple("0123456")]
        density = line.get("breast_density") or line.get("breast density", "")
        yield {
            "study_id": folder,
            "path": files[0].relative_to(root).as_posix(),
            "patient_id": patient,
            "split": "test" if patient in held_out["test"] else split_of(patient, test=0),
            "modality": "MG",
            "view": line["image view"],
            "laterality": line["left or right breast"][:1],
            "abnormality": "mass" if kinds[folder] == "mass" else "calcification",
            "malignant": str(int(any(one["pathology"].strip() == "MALIGNANT" for one in lines))),
            "birads": max(grades, default=""),
            "breast_density": density if re.fullmatch("[1-4]", density) else "",
        }
