"""The parts of the report: names, the cohort, phantoms, the flow, and when calibration is shown."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.errors import UserError
from mmv_jax.evaluate.measure import Comparison, Result
from mmv_jax.evaluate.report.about import (
    cohort_section,
    phantoms,
    studies_of,
)
from mmv_jax.evaluate.report.checklists import Held, claim, metrics_reloaded
from mmv_jax.evaluate.report.glance import MOST_ENCODERS, glance_sections, rests_on
from mmv_jax.evaluate.report.names import Names, readable
from mmv_jax.evaluate.report.sections import calibration_sections, metric_cell
from mmv_jax.evaluate.report.tables import table_of, verdict
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.intervals import Difference, Interval
from mmv_jax.report.about import About

READABLE = {
    "ct_heart": "Heart (CT)",
    "heart_ct": "Heart (CT)",
    "cxr_cardiothoracic_ratio": "Cardiothoracic ratio (CXR)",
    "ct": "CT",
    "left in CT": "Left in CT",
    "ct heart": "CT heart",
    "tie_half": "Tie half",
    "mri_BMI": "BMI (MRI)",
    "ct_shape_heart": "Heart (CT-shape)",
}


def task_of(name="left", kind="classification", n=120, positives=60, title=""):
    """A task of `n` test studies, two of each patient."""
    labels = np.zeros(n)
    labels[:positives] = 1
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return Task(name, kind, np.arange(n), np.full(n, "test"), patients, labels=labels, title=title)


def result_of(task, encoder="trained", value=0.7):
    truth = task.labels
    metrics = {"auroc": Interval(value, value - 0.1, value + 0.1, len(truth))}
    metrics |= {"calibration": Interval(0.1, 0.05, 0.2, len(truth))}
    return Result(task, encoder, truth, np.linspace(0, 1, len(truth)), metrics, choice="")


def compared(task, second="random", p=0.5, better_by=0.1):
    difference = Difference(better_by, better_by - 0.05, better_by + 0.05, p)
    return Comparison(task, "trained", second, "auroc", difference, p_holm=p, apart=False)


@pytest.mark.parametrize(("name", "wanted"), READABLE.items(), ids=READABLE)
def test_a_name_becomes_one_that_people_read(name, wanted):
    assert readable(name, ["CT", "CT-shape"]) == wanted


@given(st.lists(st.sampled_from(["ct", "cxr", "heart", "a", "of", "mri"]), min_size=1, max_size=5))
def test_no_readable_name_has_an_underscore_or_begins_small(words):
    name = "_".join(words)
    found = readable(name)
    assert "_" not in found
    assert found[0].isupper()
    assert sorted(found.lower().replace("(", "").replace(")", "").split()) == sorted(
        name.split("_")
    )


def test_a_title_of_the_config_wins_and_equal_names_stay_apart():
    tasks = [task_of("ct_heart"), task_of("heart_ct"), task_of("a", title="My own: heart")]
    names = Names.of(tasks)
    assert [names.task(t.name) for t in tasks] == ["ct_heart", "heart_ct", "My own: heart"]


def test_encoders_and_their_parts_have_names():
    names = Names()
    assert names.encoder("random") == "random weights"
    assert names.encoder("trained/cls") == "trained, CLS alone"
    assert names.encoder("rad-dino+finetuned") == "rad-dino, fine-tuned"
    assert names.said("no difference told") == "no significant difference"


def test_calibration_is_shown_from_50_positives_on():
    enough, few = task_of(positives=50), task_of("few", positives=49)
    (section,) = calibration_sections([result_of(enough), result_of(few)], Names())
    assert [panel.title for panel in section.figures[0].panels] == ["Left"]
    assert "Few (49)" in section.text[1]
    assert metric_cell(result_of(enough), "calibration").text == "0.100"
    assert metric_cell(result_of(few), "calibration").text == "–"
    assert metric_cell(result_of(few), "auroc").text == "0.700"
    (none,) = calibration_sections([result_of(few)], Names())
    assert not none.figures


def test_a_task_says_what_it_rests_on():
    assert rests_on(result_of(task_of())) == "120 test studies of 60 patients, 60 positive"


def test_many_tasks_and_encoders_leave_the_details_within_reach():
    tasks = [task_of(f"task_{n}") for n in range(30)]
    encoders = ["trained", "random", "pixels", *(f"other-{n}" for n in range(9))]
    results = [
        result_of(task, encoder, 0.5 + n / 100)
        for task in tasks
        for n, encoder in enumerate(encoders)
    ]
    first, more = glance_sections(results, [compared("task_0")], Names())
    shown = [group for plot in first.figures for group in plot.groups]
    rest = [group for section in more for plot in section.figures for group in plot.groups]
    assert len(shown) + len(rest) == 30
    assert sum(4 + len(group.rows) for group in shown) <= 90
    rows = [row.name for row in shown[0].rows]
    assert len(rows) == MOST_ENCODERS
    assert rows[:3] == ["trained", "random weights", "pixels alone"]
    assert rows[3:] == ["other-6", "other-7", "other-8"]  # the best of the others
    assert all(section.fold for section in more)


def test_the_columns_of_the_text_stay_apart_and_a_missing_interval_is_explained_once():
    name, few = "a_name_that_is_longer_than_others", Interval(1.0, np.nan, np.nan, 9, "too few")
    results = [
        replace(result_of(task_of(name), encoder), metrics={"auroc": few})
        for encoder in ("trained", "random")
    ]
    head, line, why = table_of(results, [compared(name)]).splitlines()
    assert line.startswith(f"{name}  AUROC   1.000 (no interval)  1.000 (no interval)  ")
    assert head.index("trained") == line.index("1.000")
    assert head.index("random ") == line.rindex("1.000")
    assert why == f"{name}: no interval, too few"


def test_the_verdict_names_three_tasks_and_counts_the_others():
    won = [compared(f"ct_{name}", p=0.01) for name in "abcde"]
    (sentence,) = verdict([*won, compared("ct_f")], 6, Names())
    assert "better in 5 tasks: A (CT), B (CT), C (CT) and 2 more." in sentence
    (sentence,) = verdict([compared("ct_f")], 1, Names())
    assert sentence.endswith("better in none of 1 tasks.")


COHORT = pd.DataFrame(
    {
        "patient": ["a", "a", "b", "c", "d"],
        "label_Age": [50.0, 50.0, 70.0, np.nan, 60.0],
        "attribute_sex": ["F", "F", "M", "", "F"],
    }
)


def test_the_cohort_counts_patients_and_what_is_missing():
    split = np.array(["train", "train", "train", "test", "test"])
    task = Task("t", "classification", np.arange(5), split, COHORT["patient"].to_numpy(str))
    lines = {
        line[0].text: [cell.text for cell in line[1:]]
        for line in cohort_section(COHORT, [task]).tables[0].lines
    }
    assert lines["studies"] == ["3", "0", "2"]
    assert lines["patients"] == ["2", "0", "2"]
    assert lines["age, median (quartiles)"] == ["60 (55 to 65)", "–", "60 (60 to 60)"]
    assert lines["age missing"] == ["0", "0", "1"]
    assert lines["sex F"] == ["1 (50 %)", "–", "1 (100 %)"]
    assert lines["sex missing"] == ["0", "0", "1"]


def test_phantoms_are_told_from_patients_by_what_only_a_generator_knows():
    known = {"label_effusion_ml": 1.0, "label_heart_ml": 2.0, "label_lung_ml": 3.0}
    index = pd.DataFrame([known | {"label_pneumothorax_fraction": 0.0}, known])
    assert phantoms(index).tolist() == [True, False]
    breast = {"label_breast_density": 0.4, "label_film": 1.0, "label_area_mm2": 0.0}
    mammograms = pd.DataFrame([breast | {"label_woman_area_mm2": 3.0}, breast])
    assert phantoms(mammograms).tolist() == [True, False]
    said = pd.DataFrame({"label_source": ["CT phantoms", "clinic"]})
    assert phantoms(said).tolist() == [True, False]
    both = np.arange(2)
    mixed = studies_of(said, both, About())
    assert "1 of 2 studies are phantoms" in mixed.data
    assert "not stated" in mixed.truth
    assert "1 of 2 studies" in mixed.notices[0]
    stated = studies_of(said[1:], both[:1], About(data="NIH", truth="two radiologists"))
    assert (stated.data, stated.truth, stated.notices) == ("NIH", "two radiologists", [])
    unknown = studies_of(said[1:], both[:1], About())
    assert unknown.data == "not stated"
    assert unknown.truth.startswith("not stated")


@pytest.mark.parametrize("group", [{"reader": "x"}, {"truth": 3}])
def test_what_is_stated_is_text_under_known_keys(group):
    with pytest.raises(UserError, match=r"config\.about"):
        About.of(group)


def test_claim_says_no_where_nobody_states_who_read_the_truth():
    studies = studies_of(pd.DataFrame({"label_a": [1.0]}), np.arange(1), About())
    held = Held(studies, True, False, pictures=True, tested_elsewhere=False, overlap="counted")
    items = claim(held)
    assert len(items) == 44
    assert [items[n - 1].fulfilled for n in (14, 16, 17, 30, 33)] == ["no"] * 5
    assert items[35].fulfilled == "partly"


def test_metrics_reloaded_counts_what_stands_beside_a_result():
    result, names = result_of(task_of()), Names()
    alone, chosen = (
        {item.asks: item for item in metrics_reloaded([result], names, more)}
        for more in (None, {"left": ("sensitivity", "specificity")})
    )
    asks = "counting at a chosen threshold"
    assert (alone[asks].fulfilled, chosen[asks].fulfilled) == ("no", "yes")
    findings = {"macro_auroc": Interval(0.7, 0.6, 0.8, 120)}
    several = replace(result, task=task_of(kind="multilabel"), metrics=findings)
    told = {item.asks: item.fulfilled for item in metrics_reloaded([several], names)}
    assert told["category"] == "yes" and told["each class by itself"] == "no"
    risk = replace(
        result, task=task_of(kind="survival"), metrics={"c_index": Interval(0.7, 0.6, 0.8, 120)}
    )
    category = metrics_reloaded([risk], names)[0]
    assert category.fulfilled == "no" and "C-index" in category.where


def test_claim_knows_of_an_operating_point():
    studies = studies_of(pd.DataFrame({"label_a": [1.0]}), np.arange(1), About())
    held = Held(studies, True, False, pictures=False, tested_elsewhere=False, overlap="counted")
    found = [claim(replace(held, operating=known))[37] for known in (False, True)]
    assert [item.fulfilled for item in found] == ["partly", "yes"]
    assert "threshold" in found[1].where
