"""Operating points, decision curves and the rates of groups, on predictions that are made up."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.classification import probe_classes
from mmv_jax.evaluate.measure import Result, result_of_vector
from mmv_jax.evaluate.operating import (
    measure_operating,
    measure_rates,
    operating_metrics,
    threshold_of,
)
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.report.operating_sections import fairness_sections, operating_sections
from mmv_jax.evaluate.tasks.groupings import Grouping, with_intersections
from mmv_jax.evaluate.tasks.task import Task

N = 600


@pytest.fixture(scope="module")
def result() -> Result:
    """Of women fewer are found: their positives score lower by 2."""
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "val", "test"], N // 3)
    truth = rng.integers(0, 2, N).astype(float)
    sex = rng.choice(["F", "M"], N)
    logit = 1.5 * (2 * truth - 1) - 2 * truth * (sex == "F") + rng.normal(size=N)
    probability = 1 / (1 + np.exp(-logit))
    task = Task(
        "t",
        "classification",
        np.arange(N),
        split,
        np.arange(N).astype(str),
        truth,
        subgroups=(Grouping("sex", sex, ("F", "M")),),
    )
    test, val = split == "test", split == "val"
    return result_of_vector("trained", probability[test], "", task, probability[val])


def test_the_operating_point_is_youdens_and_reads_no_test_study(result):
    task = result.task
    val = task.split == "val"
    rates = [
        recall_score(task.labels[val], result.on_val >= t)
        + recall_score(1 - task.labels[val], result.on_val < t)
        for t in result.on_val
    ]
    assert threshold_of(result) == pytest.approx(result.on_val[int(np.argmax(rates))])
    moved = replace(result, truth=1 - result.truth, predicted=1 - result.predicted)
    assert threshold_of(moved) == threshold_of(result)


def test_rates_and_net_benefit_are_those_of_the_confusion_matrix(result):
    (found,) = measure_operating([result])
    called = result.predicted >= found.threshold
    tn, fp, fn, tp = confusion_matrix(result.truth, called).ravel()
    assert found.sensitivity.value == pytest.approx(tp / (tp + fn))
    assert found.specificity.value == pytest.approx(tn / (tn + fp))
    assert found.sensitivity.low < found.sensitivity.value < found.sensitivity.high
    _, fp, _, tp = confusion_matrix(result.truth, result.predicted >= 0.2).ravel()
    assert found.net_benefit[0.2].value == pytest.approx((tp - fp * 0.25) / len(result.truth))
    share = result.truth.mean()
    assert found.of_all[0.2].value == pytest.approx(share - (1 - share) * 0.25)


def test_a_group_that_is_missed_more_often_is_named(result):
    women, men = measure_rates([result])
    assert women.group == "F"
    assert women.more_found.value < -0.1 and women.p_holm[0] < 0.05
    assert women.p_holm[1] > 0.05  # negatives are alike
    assert women.more_found.value == pytest.approx(-men.more_found.value)
    assert women.more_found.value == pytest.approx(women.sensitivity.value - men.sensitivity.value)
    found = {key: value for _, _, key, value in operating_metrics([], [women, men])}
    gap = found["sensitivity_gap@sex"].value
    assert gap == pytest.approx(abs(women.more_found.value))
    assert np.isnan(found["sensitivity_gap@sex"].low)
    assert found["observed_minus_predicted@sex=F"].value > 0  # more is there than is said
    (section,) = fairness_sections([women, men], Names())
    assert section.tables[0].lines[0][4].tone == "bad"
    (section,) = operating_sections(measure_operating([result]), Names())
    assert len(section.tables) == 2


def test_floors_and_stand_ins_are_shown_and_not_tested(result):
    others = [replace(result, encoder=name) for name in ("random", "ark (stand-in)", "pixels")]
    alone, together = measure_rates([result]), measure_rates([result, *others])
    # A test more would ask more of the p-values of all others.
    assert together[:2] == alone
    assert len(together) == 8 and np.isnan([g.p_holm for g in together[2:]]).all()


def test_a_small_group_in_which_all_are_found_is_no_finding(result):
    """Six of six women are found, and of many men four fifths: Fisher's test sees no difference."""
    test = result.task.split == "test"
    positive = np.flatnonzero(test & (result.task.labels == 1))
    sex = np.full(N, "M")
    sex[positive[:6]] = sex[np.flatnonzero(test & (result.task.labels == 0))[:6]] = "F"
    threshold = threshold_of(result)
    predicted = np.zeros(N)
    # The first six, and four of five of the others.
    predicted[positive[:6]] = predicted[positive[6:][np.arange(len(positive) - 6) % 5 > 0]] = 1.0
    task = replace(result.task, subgroups=(Grouping("sex", sex, ("F", "M")),))
    made_up = replace(result, task=task, predicted=predicted[test])
    assert 0 < threshold < 1
    women, _ = measure_rates([made_up])
    assert women.sensitivity.value == 1.0 and women.more_found.value == pytest.approx(0.2, abs=0.02)
    assert women.more_found.p > 0.1 and women.more_found.low < 0


def test_a_group_of_four_patients_has_no_rates(result):
    test = np.flatnonzero(result.task.split == "test")
    sex = np.full(N, "M")
    sex[test[:4]] = "F"
    task = replace(result.task, subgroups=(Grouping("sex", sex, ("F", "M")),))
    women, _ = measure_rates([replace(result, task=task)])
    assert np.isnan(women.more_found.value)
    assert women.more_found.why == women.sensitivity.why == "fewer than 5 patients"


def test_the_probes_val_predictions_are_of_a_fit_that_has_not_seen_val():
    rng = np.random.default_rng(1)
    x, split = rng.normal(size=(150, 6)), np.repeat(["train", "val", "test"], 50)
    y = (x[:, :1] + rng.normal(size=(150, 1)) > 0).astype(float)
    (found,) = probe_classes(x, y, split, (0.1,))
    turned = y.copy()
    turned[split == "val"] = 1 - turned[split == "val"]
    (other,) = probe_classes(x, turned, split, (0.1,))
    np.testing.assert_array_equal(found.on_val, other.on_val)
    assert not np.allclose(found.predicted, other.predicted)  # val is learnt from in the end
    assert found.on_val.shape == (50,)


def test_groups_are_crossed_where_both_columns_are_known():
    sex = Grouping("sex", np.array(["F", "M", "", "F"]), ("F", "M"))
    age = Grouping("age", np.array(["old", "old", "young", "young"]), ("young", "old"))
    *_, crossed = with_intersections((sex, age), (("sex", "age"),), "config.tasks.t")
    assert crossed.column == "sex and age"
    assert crossed.names.tolist() == ["F, old", "M, old", "", "F, young"]
    assert crossed.order == ("F, young", "F, old", "M, old")
    with pytest.raises(UserError, match="config.tasks.t.intersections: 'race' is not among"):
        with_intersections((sex,), (("sex", "race"),), "config.tasks.t")
