"""What a result says of where it comes from, and that another checkpoint's is not written over."""

import csv
import json

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.provenance import digest_of, named, provenance, refuse_others, write_metrics

ONE = {"value": 0.5, "ci95": [0.25, None], "n": 8}
METRICS = {"left": {"trained": {"auroc": ONE, "auroc@sex=F": {**ONE, "why": "few, or none"}}}}


def record(digest: str | None) -> dict:
    weights = {"checkpoint": "run", "step": 3, "digest": digest} if digest else None
    store = {"store": "chest", "digest": "abc", "studies": 4}
    return provenance("mmv evaluate", config={"seed": 0}, weights=weights, data=store)


def test_a_record_names_all_that_a_number_rests_on(tmp_path):
    write_metrics(tmp_path / "new", METRICS, record("d1"))
    found = json.loads((tmp_path / "new" / "provenance.json").read_text())
    assert found["checkpoint"] == "run" and found["step"] == 3 and found["digest"] == "d1"
    assert found["store"] == "chest" and found["store_digest"] == "abc" and found["studies"] == 4
    assert found["config"] == {"seed": 0}
    assert {"python", "mmv_jax", "jax", "flax"} <= set(found["versions"])
    assert found["date"].endswith("+00:00")
    assert named(found) == "run, step 3 (d1)"


def test_metrics_as_csv_hold_the_numbers_of_the_json(tmp_path):
    write_metrics(tmp_path, METRICS, record("d1"))
    lines = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    whole = json.loads((tmp_path / "metrics.json").read_text())
    assert len(lines) == 2
    for line in lines:
        one = whole[line["task"]][line["encoder"]][line["metric"]]
        assert float(line["value"]) == one["value"] and float(line["low"]) == one["ci95"][0]
        assert line["high"] == "" and int(line["n"]) == one["n"]
        assert line["why"] == one.get("why", "")


@pytest.mark.parametrize(
    "kept, now, says",
    [
        ("d1", "d2", r"holds the results of run, step 3 \(d1\), and these weights are others"),
        ("d1", None, "these weights are none"),
        (None, "d2", "holds the results of no checkpoint"),
    ],
)
def test_another_checkpoints_results_are_refused(kept, now, says, tmp_path):
    refuse_others(tmp_path, now, "--workdir")  # nothing is there yet
    write_metrics(tmp_path, METRICS, record(kept))
    refuse_others(tmp_path, kept, "--workdir")
    with pytest.raises(UserError, match=says):
        refuse_others(tmp_path, now, "--workdir")


@pytest.mark.parametrize(
    "content, says", [(None, "does not say"), ("{", "cannot be read"), ("[1]", "cannot be read")]
)
def test_results_that_do_not_say_whose_they_are_are_refused(content, says, tmp_path):
    (tmp_path / "features.parquet").write_bytes(b"")
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(UserError, match=says):
        refuse_others(tmp_path, "d1", "--out")


def test_a_digest_is_of_names_shapes_and_values_alone():
    x = np.arange(6, dtype=np.float32)
    first = digest_of({"a": x, "b": x})
    assert first == digest_of({"b": x.copy(), "a": x})
    others = [
        {"a": x, "c": x},
        {"a": x, "b": x.reshape(2, 3)},
        {"a": x, "b": x + 1},
        {"a": x, "b": x.astype(np.float64)},
    ]
    assert len({first, *map(digest_of, others)}) == 5
