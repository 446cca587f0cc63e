"""The released weights: small, described, and the same features in every version."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import mmv_jax
from mmv_jax.released import WEIGHTS, released_weights

SMALL = 12 * 10**6  # bytes that weights may take in the repository and the wheel
# The first values of CLS of `pictures()`, written when the weights were.
KNOWN = json.loads((Path(__file__).parent / "released.json").read_text())


def pictures() -> dict[str, dict]:
    """A planar and a volumetric study that anyone can make again."""
    y, x = np.mgrid[:256, :256] / 256
    z, v, u = np.mgrid[:32, :48, :48] / 48
    return {
        "planar": {
            "study": (np.sin(9 * x) * np.cos(7 * y) * 1000).round().astype(np.int16),
            "spacing_mm": 1.4,
            "unit": "raw",
        },
        "volume": {
            "study": (np.sin(8 * u) * np.cos(6 * v + 5 * z) * 900).round().astype(np.int16),
            "spacing_mm": (2.0, 0.8, 0.8),
            "unit": "HU",
        },
    }


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_released_weights_give_the_features_that_they_gave(name):
    encoder = mmv_jax.load_encoder(name)
    for kind, given in pictures().items():
        seen = encoder.encode(given["study"], spacing_mm=given["spacing_mm"], unit=given["unit"])
        assert np.isfinite(seen.patches).all() and len(seen.patches) == len(seen.coords_mm)
        np.testing.assert_allclose(seen.cls[:8], KNOWN[name][kind], atol=1e-4)


def test_each_released_file_is_small_and_has_a_card_that_says_what_it_is():
    assert released_weights() == sorted(KNOWN)
    notice = (WEIGHTS / "NOTICE.md").read_text()
    for name in released_weights():
        path = WEIGHTS / f"{name}.safetensors"
        assert path.stat().st_size <= SMALL
        card = path.with_suffix(".safetensors.md").read_text()
        with safe_open(path, "numpy") as file:
            record = json.loads(file.metadata()["mmv_jax"])
        assert record["digest"] in card and "no medical device" in card
        assert name in notice and "ChestX-ray14" in notice and "LIDC-IDRI" in notice
