"""Features that were kept are read again only while the studies are the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.features import encode_studies
from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.read import Store
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

VOXELS = np.arange(1, 31, dtype=np.int16).reshape(1, 5, 6) ** 2
MASK = (VOXELS > 100).astype(np.int16)


class FirstRow:
    """An encoder whose tokens are the first voxels of a study, and which counts what it reads."""

    fingerprint = "first row"

    def __init__(self):
        self.read = 0

    def views(self, geometry):
        raise NotImplementedError

    def encode(self, store, studies):
        for study in studies.tolist():
            self.read += 1
            tokens = store.read_box(study, (0, 0, 0), (1, 1, 6))[0] / np.float32(3)
            yield Encoded(study, tokens[0], tokens, tokens[None][:0])


def store_with(
    path: Path,
    voxels: np.ndarray = VOXELS,
    mask: np.ndarray = MASK,
    part: str = "part",
    age: float = 1.0,
) -> Store:
    root = open_root(path)
    writer = PartWriter(root, part, 2)
    known = {
        "study": "s",
        "patient": "p",
        "line": 2,
        "manifest": 1,
        "split": "train",
        "modality": "CXR",
        "label_age": age,
    }
    writer.add(Study(voxels, (float("nan"), 1.0, 1.0), 2, "raw"), {"organ": mask}, known)
    writer.close()
    root.write(
        STORE_JSON, json.dumps({"format": FORMAT, "key_fingerprint": "k", "manifests": []})
    ).result()
    return Store.open(path)


CHANGES = {
    "voxels of the same range": (
        {"voxels": np.concatenate([VOXELS[:, :, 1::-1], VOXELS[:, :, 2:]], axis=2)},
        2,
    ),
    "a mask": ({"mask": 1 - MASK}, 2),
    "a label": ({"age": 2.0}, 1),
    "the name of the part": ({"part": "other"}, 1),
}


@pytest.mark.parametrize("changed, read", CHANGES.values(), ids=CHANGES.keys())
def test_what_was_ingested_anew_is_encoded_anew_where_it_changed(tmp_path, changed, read):
    encoder, one = FirstRow(), np.array([0])
    encode_studies(encoder, store_with(tmp_path / "before"), one, one, tmp_path / "kept")
    after = store_with(tmp_path / "after", **changed)
    features = encode_studies(encoder, after, one, one, tmp_path / "kept")
    assert encoder.read == read
    np.testing.assert_array_equal(
        features.tokens[0], after.read_box(0, (0, 0, 0), (1, 1, 6))[0] / np.float32(3)
    )
