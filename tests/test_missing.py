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


def test_codes_count_only_beside_yes_and_no():
    assert missing_codes([0, 1, -1, float("nan")]) == {-1.0}
    assert missing_codes([0, 1, 2, 9]) == set()  # a scale, of which 9 may be a step
    assert missing_codes([0, 0, 9]) == set()  # one class alone says nothing of the other
