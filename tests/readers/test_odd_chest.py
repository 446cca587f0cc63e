"""Radiographs of a chest that are inverted or turned, and others, which are left alone."""

import csv

import numpy as np
import pytest
from PIL import Image

from mmv_jax.readers.odd_chest import odd_chest
from mmv_jax.study import Study

NAN = float("nan")


def drawn(rows: int = 240, columns: int = 200, frame: int = 0) -> np.ndarray:
    """A chest of 8 bits: trunk, neck, lungs, spine, heart and noise, within a black frame."""
    y, x = np.mgrid[:rows, :columns]
    y, x = y / rows, x / columns
    grey = np.full((rows, columns), 20.0)
    grey[(np.abs(x - 0.5) < 0.42) & (y > 0.16)] = 130
    grey[np.abs(x - 0.5) < 0.12] = 140
    grey[y > 0.78] += 60 * (np.abs(x - 0.5) < 0.42)[y > 0.78]
    for side in (0.3, 0.7):
        grey[((y - 0.48) / 0.28) ** 2 + ((x - side) / 0.13) ** 2 < 1] = 60
    grey[np.abs(x - 0.5) < 0.06] = 190
    grey[((y - 0.62) / 0.13) ** 2 + ((x - 0.56) / 0.14) ** 2 < 1] = 180
    grey += np.random.default_rng(0).normal(0, 8, grey.shape)
    return np.pad(np.clip(grey, 0, 255), frame).astype(np.uint8)


def codes(image: np.ndarray, modality: str = "CXR") -> list[str]:
    study = Study(image[None], (NAN, NAN, NAN), 2, "raw")
    return [code for code, _ in odd_chest(study, modality)]


@pytest.mark.parametrize("frame", [0, 30])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.int16])
def test_an_inverted_or_turned_chest_is_told(frame, kind):
    image = drawn(frame=frame).astype(kind)
    assert codes(image) == codes(image[:, ::-1]) == []
    for inverted in (255 - image, (4095 - 16 * image.astype(np.int32))):
        assert codes(inverted) == codes(inverted, "cxr") == codes(inverted, "DX") == ["inverted"]
    for quarters in (1, 2, 3):
        assert codes(np.rot90(image, quarters)) == ["turned"]


def test_what_is_no_frontal_chest_is_left_alone():
    inverted = 255 - drawn()
    assert codes(inverted, "MG") == codes(inverted, "US") == codes(inverted[:9, :9]) == []
    noise = np.random.default_rng(0).integers(0, 255, (3, 128, 128))
    y, x = np.mgrid[:128, :128]
    disc = (y - 64) ** 2 + (x - 64) ** 2 < 40**2
    for image in (*noise, disc * 200, 200 - disc * 200, y, x, 255 - y, x + y):
        assert codes(image) == []


def test_real_radiographs(real_data):
    found, count = [], 0
    with (real_data / "cxr.csv").open() as file:
        lines = list(csv.DictReader(file))[::20]
    for line in lines:
        image = np.asarray(Image.open(real_data / line["path"]).convert("L"))
        assert codes(image) == [], line["study_id"]
        count += codes(255 - image) == ["inverted"]
        found += codes(np.rot90(image, 2))
    assert count > 0.9 * len(lines) and len(found) > 0.6 * len(lines)
