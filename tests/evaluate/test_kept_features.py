"""Features that were kept are read again only while the studies are the same."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.features import encode_studies
from mmv_jax.evaluate.kinds.regression import Regression
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.plugins import forget_plugins, load_plugins, source_of
from mmv_jax.store.edit import changing, correct_lines, take_out
from mmv_jax.store.index import remove_whole_index, write_whole_index
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
        return None, np.ones((len(geometry.planar), 1, 1, 1), bool)  # one patch of each study

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


def test_kept_features_that_are_damaged_are_encoded_again(tmp_path):
    encoder, one, store = FirstRow(), np.array([0]), store_with(tmp_path / "store")
    first = encode_studies(encoder, store, one, one, tmp_path / "kept")
    (kept,) = (tmp_path / "kept").glob("*.npz")
    whole = kept.read_bytes()
    for damaged in (b"", whole[:100], whole[:-30], whole[:200] + b"\0" * 8 + whole[208:]):
        kept.write_bytes(damaged)
        again = encode_studies(encoder, store, one, one, tmp_path / "kept")
        np.testing.assert_array_equal(first.tokens[0], again.tokens[0])
    assert encoder.read > 1 and kept.read_bytes() == whole


class Meanwhile(FirstRow):
    """An encoder during whose work the store is changed by someone else."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def encode(self, store, studies):
        yield from super().encode(store, studies)
        self.change(open_root(store.path))


def taken_out(root):
    with changing(root, "remove"):
        take_out(root, ["s"])


def being_changed(root):
    about = json.loads(root.read(STORE_JSON).result().value)
    root.write(STORE_JSON, json.dumps(about | {"unfinished": "remove"})).result()
    remove_whole_index(root)


def corrected(root):
    with changing(root, "ingest --correct"):
        correct_lines(root, {"s": {"low": 3.0}})


def another_label(root):
    with changing(root, "ingest --correct"):
        correct_lines(root, {"s": {"label_age": 9.0}})


@pytest.mark.parametrize(
    "change, said",
    [
        (taken_out, "changed while it was read"),
        (being_changed, "mmv remove"),
        (corrected, "removed or corrected while they were read"),
        (another_label, None),
    ],
)
def test_features_of_a_store_that_is_changed_meanwhile_are_not_kept(tmp_path, change, said):
    """Blocks that are taken out are zeros, which look like an image."""
    store, one = store_with(tmp_path / "store"), np.array([0])
    write_whole_index(open_root(tmp_path / "store"))
    store = Store.open(tmp_path / "store")
    if said is None:
        encode_studies(Meanwhile(change), store, one, one, tmp_path / "kept")
        assert len(list((tmp_path / "kept").glob("*.npz"))) == 1
        return
    with pytest.raises(UserError, match=said):
        encode_studies(Meanwhile(change), store, one, one, tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("*.npz"))


def test_patients_of_pretraining_that_the_store_lost_are_told(tmp_path):
    """A patient whose ids were merged has another name, and would count as unseen."""
    store = store_with(tmp_path / "store")
    seen = {"key_fingerprint": "k", "patients": ["p", "q"]}
    carried = {"pretraining": seen, "data": {"store": "/elsewhere/store/"}}
    found = Overlap.in_store(carried, store)
    assert found.patients == {"p", "q"}
    (told,) = found.joined(found).notices
    assert told.startswith("1 of 2 patients of pretraining are no longer in the store store.")
    for other in (
        {"pretraining": seen, "data": {"store": "another"}},
        {"pretraining": seen | {"patients": ["p"]}, "data": {"store": "store"}},
        {"pretraining": seen | {"key_fingerprint": "l"}, "data": {"store": "store"}},
        {},
    ):
        assert Overlap.in_store(other, store).notices == ()


def test_fits_of_a_kind_from_a_plugin_depend_on_its_code(tmp_path):
    """Its loss may change under the same name, and a kept fit would be of the old one."""
    code = "from mmv_jax.evaluate.kinds.regression import Regression\nclass Mine(Regression):\n"
    digests = []
    for body in ("    def answer(self, out):\n        return out\n", "    scale = ''\n"):
        forget_plugins()
        (tmp_path / "mine.py").write_text(code + body)
        load_plugins([tmp_path / "mine.py"])
        digests.append(source_of(sys.modules["mmv_plugin_mine"].Mine()))
    forget_plugins()
    assert len(set(digests)) == 2 and all(digests)
    assert source_of(Regression()) == ""
