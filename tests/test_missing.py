"""Words and codes for a value that is not known."""

import numpy as np
import pytest

from mmv_jax.missing import is_missing, missing_codes


@pytest.mark.parametrize("cell", ["", "  ", "NA", "n/a", "NaN", "Null", "#N/A", "Unknown", "."])
def test_words_for_missing(cell):
    assert is_missing(cell)


@pytest.mark.parametrize("cell", ["0", "no", "none seen", "-1", "9", "nab", 0, 0.0, np.float32(1)])
def test_values_are_not_missing(cell):
    assert not is_missing(cell)


@pytest.mark.parametrize(
    "values, codes",
    [
        ([1, 2, 9], {9.0}),  # yes 1 and no 2
        ([1, 2, 3, 4, 7, 9], {9.0}),  # grades: 7 may be one, 9 beside 4 is none
        ([0, 1, 2, -1], {-1.0}),
        ([92, 131.5, 195, 999, -9], {999.0, -9.0}),
        (range(45, 100), set()),  # ages
        ([0, 3.5, 620, 999], set()),  # a long tail
        ([-2.1, 0.3, 1.9, -1, -9], set()),  # a score with negative values
    ],
)
def test_codes_lie_apart_from_grades_and_measurements(values, codes):
    assert missing_codes(values) == codes


def test_codes_count_only_beside_yes_and_no():
    assert missing_codes([0, 1, -1, float("nan")]) == {-1.0}
    assert missing_codes([0, 1, 5, 9]) == set()  # a scale, of which 9 may be a step
    assert missing_codes([0, 0, 9]) == set()  # one class alone says nothing of the other
