"""The page on a store: what a data manager must find on it, and nobody's name."""

import numpy as np
import pytest
from planted import store_of, study_of

from mmv_jax.readers.refused import CODES
from mmv_jax.store.advice import ADVICE, LOOK, advice_on
from mmv_jax.store.jobs import OF_MANIFESTS
from mmv_jax.store.page import duplicates, page_of, write_page
from mmv_jax.store.read import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    rng = np.random.default_rng(0)
    planar = rng.integers(0, 255, (1, 60, 50)).astype(np.uint8)
    volume = rng.integers(-1000, 1000, (20, 40, 50)).astype(np.int16)
    studies = [study_of(planar), study_of(planar), study_of(planar + 1), study_of(volume, "HU")]
    folder = tmp_path_factory.mktemp("page") / "store"
    store = store_of(folder, studies)
    entries = [(9, "truncated"), (7, "truncated"), (8, "not_hu")]
    text = '{{"manifest": 1, "line": {}, "code": "{}", "reason": "short"}}\n'
    (folder / "quarantine.jsonl").write_text("".join(text.format(*entry) for entry in entries))
    (folder / "warnings.jsonl").write_text(text.format(4, "image_across_splits"))
    return store


def test_same_pixels_are_found(store):
    assert duplicates(store.index) == [[0, 1]]


def test_the_page_says_what_was_refused_where_and_what_to_do(store, tmp_path):
    assert str(tmp_path) in write_page(store.path, tmp_path / "store.html")
    text = (tmp_path / "store.html").read_text()
    for words in (
        "4 studies of 4 patients", "3 lines were refused", "manifest 1: 7, 9", "truncated",
        "fetch it again", "image_across_splits", "1 lines leak", "manifest 1: 2, 3",
        "2 studies have the very pixels", "contact sheet of CT", "Distributions",
    ):  # fmt: skip
        assert words in text, words
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_store_without_a_fault_says_so(store):
    page = page_of(store, [], [])
    assert "No leak between splits." in page.verdict
    assert [section.text for section in page.sections[:3]] == [["None."]] * 3


def test_advice_is_on_codes_that_there_are():
    of_files = {"same_slices", "stray_files", "mixed_settings", "fewer_slices", "odd_hu"}
    of_files |= {"odd_slices", "odd_spacing", "derived", "inverted", "turned"}
    of_files |= {"mask_empty", "mask_not_expected", "mask_inverted", "mask_mirrored"}
    of_files |= {"mask_misplaced", "odd_header", "byte_order"}
    told = of_files | set(OF_MANIFESTS)
    assert told <= set(ADVICE) <= {*CODES, *told}
    assert advice_on("no such code") == LOOK
