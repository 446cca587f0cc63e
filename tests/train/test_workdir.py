"""What a resume may differ in, and whose patients a checkpoint goes on to name."""

import pytest

from mmv_jax.errors import UserError
from mmv_jax.train.workdir import check_studies, unite_patients

NOW = {"key_fingerprint": "a1", "patients": ["p2", "p3"], "studies": "00ff"}


def test_other_studies_are_refused_with_what_is_known_of_them():
    with pytest.raises(UserError, match=r"stores/x.*it had 1 patients, there are 2 now"):
        check_studies({**NOW, "patients": ["p2"], "studies": "11ee"}, NOW, "stores/x")


@pytest.mark.parametrize("before", [NOW, {"key_fingerprint": "a1", "patients": ["p1"]}], ids=["the same", "a checkpoint that does not say"])
def test_a_run_goes_on_where_nothing_speaks_against_it(before):
    check_studies(before, NOW, "stores/x")


def test_the_patients_of_what_is_gone_on_from_are_named_too():
    assert unite_patients(NOW, {"key_fingerprint": "a1", "patients": ["p1", "p2"]}) == {**NOW, "patients": ["p1", "p2", "p3"]}
    assert unite_patients(NOW, None) == NOW


def test_names_of_two_keys_are_those_of_no_store():
    united = unite_patients(NOW, {"key_fingerprint": "b2", "patients": ["q1"]})
    assert united == {**NOW, "key_fingerprint": "a1+b2", "patients": ["p2", "p3", "q1"]}
