"""A few hundred mutated files: each is read or refused, in time, and no worker dies. `fuzz.py` runs
the ten thousand.
"""

import pytest
from fuzz import cases, is_bad
from mutations import corpus, outcomes, shipped_files

from mmv_jax.readers.codestream import J2K_START, JP2_START, j2k_frame
from mmv_jax.readers.refused import CODES, Refused


@pytest.mark.parametrize("count", [150, pytest.param(400, marks=pytest.mark.full)])
def test_mutated_files_are_read_or_refused(tmp_path, count):
    found = list(outcomes(cases(corpus(tmp_path), count, seed=1), tmp_path))
    assert not [outcome for outcome in found if is_bad(outcome)]
    assert {outcome.word for outcome in found} <= {"read", *CODES}
    # the mutations neither break all nor nothing
    assert 0.05 < sum(outcome.word == "read" for outcome in found) / len(found) < 0.9


def test_the_corpus_itself_is_read_or_refused_for_a_reason(tmp_path):
    found = {
        outcome.name: outcome.word for outcome in outcomes(iter(corpus(tmp_path).items()), tmp_path)
    }
    refused = {name: word for name, word in found.items() if word != "read"}
    assert refused == {"SC_rgb_rle.dcm": "colour", "rtdose.dcm": "not_an_image"}


@pytest.mark.full
def test_two_thousand_mutated_files_of_ours_and_of_libraries(tmp_path):
    seeds = corpus(tmp_path) | shipped_files()
    assert len(seeds) > 100
    found = list(outcomes(cases(seeds, 2000, seed=2), tmp_path))
    assert not [outcome for outcome in found if is_bad(outcome)]
    assert {outcome.word for outcome in found} <= {"read", *CODES}


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_box_that_never_ends_is_refused(length):
    # pydicom steps over the boxes of a JP2 file by their lengths, in an endless loop with 0
    stream = J2K_START + bytes(60)
    whole = JP2_START + bytes(4) + (9).to_bytes(4, "big") + b"ftyp!" + bytes(4) + b"jp2c"
    assert j2k_frame(whole + stream).marker == 0x51
    broken = JP2_START + bytes(4) + length.to_bytes(4, "big") + b"ftyp" + stream
    with pytest.raises(Refused, match="corrupt"):
        j2k_frame(broken)
