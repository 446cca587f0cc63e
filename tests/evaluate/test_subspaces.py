"""Subspaces of modalities, on features whose subspaces are known."""

import numpy as np
import pytest

from mmv_jax.evaluate.report.subspaces import DIMENSIONS, FEWEST, shared_variance, subspace_sections

RNG = np.random.default_rng(0)
WIDTH = 4 * DIMENSIONS


def features_in(axes, n=400):
    """Features that vary along these coordinate axes alone, about a mean of their own."""
    x = np.zeros((n, WIDTH), np.float32)
    x[:, axes] = RNG.normal(size=(n, len(axes)))
    return x + RNG.normal(size=WIDTH).astype(np.float32)


def test_a_shared_subspace_is_all_and_another_one_nothing():
    first, same = (features_in(range(DIMENSIONS)) for _ in range(2))
    assert shared_variance(first, same) == pytest.approx(1.0, abs=1e-6)
    assert shared_variance(first, features_in(range(DIMENSIONS, 2 * DIMENSIONS))) == pytest.approx(
        0.0, abs=1e-6
    )


def test_half_of_the_axes_is_half_of_the_variance():
    first, half = (
        features_in(range(DIMENSIONS), 4000),
        features_in(range(DIMENSIONS // 2, DIMENSIONS * 3 // 2), 4000),
    )
    assert shared_variance(first, half) == pytest.approx(0.5, abs=0.05)


def test_the_tables_name_encoders_and_modalities_that_have_enough_studies():
    n = FEWEST + 20
    modality = np.array(["CT"] * n + ["CXR"] * n + ["MG"] * 5)
    features = {
        name: RNG.normal(size=(len(modality), WIDTH)).astype(np.float32)
        for name in ("trained", "random", "vit")
    }
    features["vit"] = -2 * features["trained"]  # arranged alike
    (section,) = subspace_sections(features, modality)
    ours, random, alike = section.tables
    assert [line[0].text for line in ours.lines] == ["CT", "CXR"]
    assert [ours.lines[i][1 + i].text for i in range(2)] == ["1.00", "1.00"]
    assert [line[0].text for line in alike.lines] == ["random", "vit"]
    assert [cell.text for cell in alike.lines[1][1:]] == ["1.00", "1.00"]
    assert abs(float(alike.lines[0][1].text)) < 0.1  # noise: the biased one has 0.6 of it here
    assert (
        subspace_sections(features, np.full(len(modality), "CXR"))[0]
        .tables[0]
        .columns[0]
        .startswith("debiased CKA")
    )
    assert not subspace_sections({name: x[:5] for name, x in features.items()}, modality[:5])
