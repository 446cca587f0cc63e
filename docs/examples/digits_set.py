"""A folder of pictures of digits, one patient each."""

from mmv_jax.manifests.listing import DATASETS


def list_digits(root, tell):
    for path in sorted(root.glob("*.txt")):
        yield {
            "study_id": path.stem,
            "path": path.name,
            "patient_id": path.stem,
            "split": "train",
            "modality": "DIGITS",
        }


DATASETS.register("digits-set", list_digits)
