"""Groups of a column, what is measured in them, and confounders, on predictions that are made
up.
"""

import numpy as np
import pandas as pd
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.measure import Result
from mmv_jax.evaluate.subgroups import (
    as_comparisons,
    as_metrics,
    measure_confounders,
    measure_groups,
)
from mmv_jax.evaluate.tasks.groupings import make_grouping
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.metrics.intervals import interval

N = 600


def an_index(tie=0.9):
    """Studies whose tube goes with the label, and whose sex does not."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, N).astype(float)
    tube = np.where(rng.uniform(size=N) < tie, label, rng.integers(0, 2, N))
    size = np.where(label == 1, rng.uniform(5, 30, N), np.nan)
    return pd.DataFrame(
        {
            "study": [f"s{i}" for i in range(N)],
            "patient": [f"p{i}" for i in range(N)],
            "modality": "CXR",
            "masks": "",
            "ndim": 2,
            "split": np.resize(["train", "val", "test", "test"], N),
            "label_finding": label,
            "label_tube": tube,
            "label_size": size,
            "label_sex": rng.choice(["F", "M"], N),
            "label_age": rng.uniform(20, 90, N),
        }
    )


def result_of(index, score, encoder="trained", **options):
    task = make_task(index, "finding", kind="classification", label="finding", **options)
    test = task.split == "test"
    truth, predicted = task.labels[test], score[task.studies[test]]
    return Result(
        task,
        encoder,
        truth,
        predicted,
        {"auroc": interval("auroc", truth, predicted, task.patients[test])},
        "strength 1",
    )


def test_numbers_are_cut_into_bands_and_quantiles_come_from_what_was_learnt_from():
    values = pd.Series([10.0, 20.0, 30.0, 40.0, np.nan, 1000.0])
    learnt_from = np.array([True, True, True, True, True, False])
    bands = make_grouping(values, "age", "config", learnt_from, edges=(20, 35))
    assert bands.names.tolist() == [
        "under 20",
        "20 to 35",
        "20 to 35",
        "35 and over",
        "",
        "35 and over",
    ]
    halves = make_grouping(values, "age", "config", learnt_from, quantiles=2)
    assert halves.order == ("under 25", "25 and over")


def test_texts_and_small_numbers_are_groups_as_they_are():
    everything = np.ones(4, bool)
    assert make_grouping(pd.Series(["M", "F", "M", ""]), "sex", "config", everything).order == (
        "F",
        "M",
    )
    assert make_grouping(
        pd.Series([1.0, 0.0, 1.0, np.nan]), "tube", "config", everything
    ).names.tolist() == ["1", "0", "1", ""]


@pytest.mark.parametrize(
    "values, options, said",
    [
        (["a", "b"], {"quantiles": 2}, "not a column of numbers"),
        (np.arange(20.0), {}, "20 different values"),
        (["a", "a"], {}, "1 different values"),
    ],
)
def test_columns_that_make_no_groups_are_told(values, options, said):
    with pytest.raises(UserError, match=said):
        make_grouping(
            pd.Series(values),
            "x",
            "config.tasks.t.subgroups.x",
            np.ones(len(values), bool),
            **options,
        )


def test_a_gap_between_groups_is_found_and_one_that_is_not_there_is_not():
    index = an_index()
    rng, label = np.random.default_rng(1), index["label_finding"].to_numpy()
    # blind for men
    score = rng.normal(size=N) + np.where(index["label_sex"] == "F", 4 * label, 0.0)
    found = measure_groups(
        [result_of(index, score, subgroups={"sex": {}, "age": {"edges": (45, 65)}})]
    )
    by_key = {g.key: g for g in found}
    assert by_key["auroc@sex=F"].value.value > 0.95
    assert by_key["auroc@sex=M"].value.low < 0.5 < by_key["auroc@sex=M"].value.high
    assert by_key["auroc@sex=F"].p_holm < 0.05
    assert by_key["auroc@sex=M"].than_rest is None  # says what F has said
    assert all(g.p_holm > 0.05 for g in found if g.grouping.column == "age")
    assert (
        sum(g.value.n for g in found if g.grouping.column == "age")
        == (index["split"] == "test").sum()
    )


def test_positives_of_a_size_stand_against_all_negatives():
    index = an_index()
    label, size = index["label_finding"].to_numpy(), index["label_size"].fillna(0).to_numpy()
    score = np.random.default_rng(1).normal(size=N) + np.where(size > 20, 5.0, 0.0)
    found = measure_groups(
        [result_of(index, score, subgroups={"size": {"quantiles": 2, "positives": True}})]
    )
    small, large = found
    test = (index["split"] == "test").to_numpy()
    assert small.value.n + large.value.n == test.sum() + (test & (label == 0)).sum()
    assert small.positives + large.positives == (test & (label == 1)).sum()
    assert small.value.value < large.value.value
    assert small.p_holm < 0.05


def test_a_group_of_very_few_has_no_value():
    index = an_index()
    index["label_site"] = np.where(np.arange(N) == 2, "a", "b")  # one test study
    only = measure_groups(
        [result_of(index, np.random.default_rng(0).normal(size=N), subgroups={"site": {}})]
    )[0]
    assert only.group == "a"
    assert np.isnan(only.value.value)
    assert only.value.n == 1


def test_an_encoder_that_sees_the_tube_loses_with_the_tie_and_one_that_sees_the_finding_does_not():
    index, rng = an_index(), np.random.default_rng(2)
    sees_tube = index["label_tube"].to_numpy() + 0.3 * rng.normal(size=N)
    sees_finding = index["label_finding"].to_numpy() + 0.4 * rng.normal(size=N)
    options = {"confounders": {"tube": {}}}
    bad, good = measure_confounders(
        [
            result_of(index, sees_tube, "bad", **options),
            result_of(index, sees_finding, "good", **options),
        ]
    )
    assert bad.alone.value > 0.9
    assert bad.plain.value > 0.9
    assert bad.broken.value < 0.75
    assert bad.within.low < 0.5 < bad.within.high
    assert bad.lost.value > 0.2
    assert bad.p_holm < 0.05
    assert good.broken.value > 0.9
    assert good.lost.value < 0.05


def test_a_tie_that_hangs_on_a_few_patients_is_not_broken():
    """All but four of the positive studies have a tube: those four would stand for half of them."""
    index = an_index(tie=1.0)
    label = index["label_finding"].to_numpy()
    test = (index["split"] == "test").to_numpy()
    index.loc[np.flatnonzero((label == 1) & test)[:4], "label_tube"] = 0.0
    index.loc[np.flatnonzero((label == 0) & test)[:40], "label_tube"] = 1.0
    score = label + np.random.default_rng(3).normal(size=N)
    (found,) = measure_confounders([result_of(index, score, confounders={"tube": {}})])
    assert found.support.smallest == 4
    assert found.support.effective < 0.5 * found.plain.n
    for value in (found.broken, found.within, found.lost):
        assert np.isnan(value.value)
        assert "smallest cell has 4 patients" in value.why
    assert found.plain.value > 0.6  # what needs no weights is still given


def test_a_good_encoder_that_ranks_a_small_cell_right_does_not_gain_without_the_tie():
    """Its few patients being right, the draws agree: 14 % of such sets said so without reason."""
    index = an_index()
    label = index["label_finding"].to_numpy()
    score = 2.5 * label + np.random.default_rng(5).normal(size=N)
    odd = (label != index["label_tube"].to_numpy()) & (index["split"] == "test").to_numpy()
    score[odd] = np.where(label[odd] == 1, 4.0, -1.5)
    (found,) = measure_confounders([result_of(index, score, confounders={"tube": {}})])
    assert 5 <= found.support.smallest < 20
    assert found.broken.value > found.plain.value > 0.9
    for value in (found.broken, found.lost):
        assert np.isnan([value.low, value.high]).all() and "ranked wrongly" in value.why
    assert np.isnan(found.p_holm) and np.isfinite(found.lost.value)


def test_floors_and_stand_ins_are_shown_and_not_tested():
    """A test more would ask more of the p-values of all others."""
    index, score = (
        an_index(),
        an_index()["label_tube"].to_numpy() + 0.3 * np.random.default_rng(2).normal(size=N),
    )
    options = {"confounders": {"tube": {}}, "subgroups": {"sex": {}}}
    others = [
        result_of(index, score, name, **options)
        for name in ("random", "pixels", "ark (stand-in)", "ark (stand-in)+finetuned")
    ]
    results = [result_of(index, score, **options), *others]
    (alone,) = measure_confounders(results[:1])
    together = measure_confounders(results)
    assert together[0] == alone
    assert all(np.isnan(c.p_holm) and c.lost.value > 0.2 for c in together[1:])
    assert {g.encoder for g in measure_groups(results) if g.than_rest is not None} == {"trained"}


def test_other_people_can_be_tested_than_were_learnt_from():
    index = an_index()
    task = make_task(
        index,
        "finding",
        kind="classification",
        label="finding",
        where={"sex": "F"},
        test_where={"sex": "M"},
    )
    sex = index["label_sex"].to_numpy()[task.studies]
    assert set(sex[task.split == "test"]) == {"M"}
    assert set(sex[task.split != "test"]) == {"F"}


def test_groups_follow_a_task_that_loses_studies():
    index = an_index()
    task = make_task(
        index, "finding", kind="classification", label="finding", subgroups={"sex": {}}
    )
    part = task[np.arange(0, len(task), 7)]
    assert part.subgroups[0].names.tolist() == index["label_sex"].to_numpy()[part.studies].tolist()


def test_a_confounder_of_a_number_is_refused():
    with pytest.raises(UserError, match="config.tasks.t.confounders: a regression has no classes"):
        make_task(an_index(), "t", kind="regression", label="age", confounders={"sex": {}})


def test_names_in_the_files_are_those_of_the_contract():
    index = an_index()
    result = result_of(
        index,
        np.random.default_rng(0).normal(size=N),
        subgroups={"sex": {}},
        confounders={"tube": {}},
    )
    groups, confounded = measure_groups([result]), measure_confounders([result])
    names = [metric for _, _, metric, _ in as_metrics(groups, confounded)]
    assert names == [
        "auroc@sex=F",
        "auroc@sex=M",
        "auroc@tube:broken",
        "auroc@tube:within",
        "auroc@tube:alone",
    ]
    tests = as_comparisons(groups, confounded)
    assert [(t["first"], t["second"]) for t in tests] == [
        ("trained@sex=F", "trained@sex=rest"),
        ("trained", "trained@tube:broken"),
    ]
