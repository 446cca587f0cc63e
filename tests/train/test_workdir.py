"""What a resume may differ in, and whose patients a checkpoint goes on to name."""

import json

import pytest
from ml_collections import ConfigDict

from mmv_jax.errors import UserError
from mmv_jax.train.log import METRICS
from mmv_jax.train.workdir import (
    VERSIONS,
    check_studies,
    keep_config,
    unite_patients,
    with_packing,
)

NOW = {"key_fingerprint": "a1", "patients": ["p2", "p3"], "studies": "00ff"}


def test_other_studies_are_refused_with_what_is_known_of_them():
    with pytest.raises(UserError, match=r"stores/x.*It had 1 patients and there are 2 now"):
        check_studies({**NOW, "patients": ["p2"], "studies": "11ee"}, NOW, "stores/x")


@pytest.mark.parametrize(
    "before",
    [NOW, {"key_fingerprint": "a1", "patients": ["p1"]}],
    ids=["the same", "a checkpoint that does not say"],
)
def test_a_run_goes_on_where_nothing_speaks_against_it(before):
    check_studies(before, NOW, "stores/x")


def test_the_patients_of_what_is_gone_on_from_are_named_too():
    assert unite_patients(NOW, {"key_fingerprint": "a1", "patients": ["p1", "p2"]}) == {
        **NOW,
        "patients": ["p1", "p2", "p3"],
    }
    assert unite_patients(NOW, None) == NOW


def test_names_of_two_keys_are_those_of_no_store():
    united = unite_patients(NOW, {"key_fingerprint": "b2", "patients": ["q1"]})
    assert united == {**NOW, "key_fingerprint": "a1+b2", "patients": ["p2", "p3", "q1"]}


def test_a_config_may_change_until_a_step_is_done(tmp_path):
    """Out of memory at the first step: what is advised then must not be refused as another run."""
    for rows in (8, 4):
        keep_config(ConfigDict({"rows": rows}), tmp_path, set())
    (tmp_path / METRICS).touch()
    keep_config(ConfigDict({"rows": 2}), tmp_path, set())
    (tmp_path / METRICS).write_text('{"step": 0}\n')
    with pytest.raises(UserError, match="rows was 2 and is now 1"):
        keep_config(ConfigDict({"rows": 1}), tmp_path, set())


def test_a_run_cannot_be_prolonged_and_the_way_on_is_said(tmp_path):
    keep_config(ConfigDict({"steps": 2}), tmp_path, set())
    (tmp_path / METRICS).write_text('{"step": 0}\n')
    with pytest.raises(UserError, match="steps was 2 and is now 4.*Any other begins anew"):
        keep_config(ConfigDict({"steps": 4}), tmp_path, set())


def test_a_start_on_other_versions_is_added_to_those_before(tmp_path, monkeypatch):
    for jax in ("0.10.2", "0.10.2", "0.12.0"):
        monkeypatch.setattr("mmv_jax.train.workdir.versions", lambda jax=jax: {"jax": jax})
        keep_config(ConfigDict({"rows": 8}), tmp_path, set())
    kept = json.loads((tmp_path / VERSIONS).read_text())
    assert [start["versions"]["jax"] for start in kept] == ["0.10.2", "0.12.0"]
    assert all(start["date"] for start in kept)


def test_a_run_keeps_the_packing_that_it_began_with(tmp_path):
    config = ConfigDict({"data": {"store": "s"}})
    new = with_packing(config, tmp_path)
    assert new.data.packing == "fewest" and "packing" not in config.data
    keep_config(config, tmp_path, set())  # as when best fit was the default
    (tmp_path / METRICS).write_text('{"step": 0}\n')
    for _ in range(2):
        old = with_packing(config, tmp_path)
        assert old.data.packing == "best_fit"
        keep_config(old, tmp_path, set())
    with pytest.raises(UserError, match="data.packing was 'best_fit' and is now 'fewest'"):
        keep_config(new, tmp_path, set())
