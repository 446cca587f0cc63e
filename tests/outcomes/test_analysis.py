"""The whole analysis: what was simulated is found, and what cannot be analysed is told."""

from dataclasses import replace

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.outcomes.analysis import analyse, metrics
from mmv_jax.outcomes.cohort import severity
from mmv_jax.outcomes.prediction import added_worth
from mmv_jax.outcomes.simulate import ADJUST, HAZARD_RATIOS, simulate_cohort

LEVELS = ("mild", "moderate", "severe")


@pytest.fixture(scope="module")
def women():
    return simulate_cohort(20_000, 0)


@pytest.fixture(scope="module")
def analysis(women):
    return analyse(women, adjust=ADJUST)


def test_the_ratios_that_were_simulated_are_found(analysis):
    for level, truth in zip(LEVELS, HAZARD_RATIOS):
        effect = analysis.effects["cox_adjusted"][level]
        assert abs(np.log(effect.hazard_ratio / truth)) < 3 * np.log(
            effect.ci95[1] / effect.ci95[0]
        ) / (2 * 1.96)


def test_confounded_by_age_the_unadjusted_ratios_are_larger(analysis):
    for level in (*LEVELS, "per_mm2"):
        assert (
            analysis.effects["cox_unadjusted"][level].ci95[0]
            > analysis.effects["cox_adjusted"][level].hazard_ratio
        )


def test_a_hazard_per_mm2_is_found():
    effect = analyse(simulate_cohort(10_000, 3, per_mm2=1.025), adjust=ADJUST).effects[
        "cox_adjusted"
    ]["per_mm2"]
    assert effect.ci95[0] < 1.025 < effect.ci95[1]
    assert effect.ci95[0] > 1


def test_metrics_have_every_task_and_level(analysis):
    found = metrics(analysis)
    for task in ("cox_unadjusted", "cox_adjusted", "fine_gray"):
        assert list(found[task]) == [*LEVELS, "per_mm2"]
        for number in found[task].values():
            low, high = number["hazard_ratio"]["ci95"]
            assert low < number["hazard_ratio"]["value"] < high
            assert number["hazard_ratio"]["n"] == 20_000
    assert {
        "cox_adjusted_age_50_59",
        "cox_adjusted_age_from_70",
        "prediction",
        "added_by_calcification",
    } < set(found)
    assert set(found["prediction"]["covariates"]) == {"c_index", "auc_5_years", "auc_10_years"}
    assert found["added_by_calcification"]["covariates"]["c_index"]["ci95"][0] > 0


def test_everybody_is_in_one_group(analysis, women):
    assert sum(group.women for group in analysis.groups) == len(women)
    assert sum(group.outcomes for group in analysis.groups) == np.sum(women.event == 1)
    assert analysis.at_risk[:, 0].sum() == len(women)
    assert np.all(np.diff(analysis.at_risk, axis=1) <= 0)
    assert analysis.log_rank[2] < 1e-10


def test_the_ages_add_up(analysis):
    assert list(analysis.by_age) == ["<50", "50–59", "60–69", "≥70"]
    left_out = [note for note in analysis.notes if note.startswith("Age")]
    ratios = [effect for effects in analysis.by_age.values() for effect in effects.values()]
    assert len(ratios) + len(left_out) == 12  # a severity without an outcome is told, not dropped


def test_risk_is_calibrated_for_women_whom_the_model_has_not_seen(analysis):
    for risk in analysis.added.worth:
        assert set(risk.calibration) == {5.0, 10.0}
        for found in risk.calibration.values():
            assert found.ratio_ci95[0] < 1 < found.ratio_ci95[1]


def test_noise_adds_nothing_to_the_risk():
    gains = []
    for seed in range(8):
        women = simulate_cohort(3000, seed, hazard_ratios=(1.0, 1.0, 1.0))
        group = severity(women.area_mm2)
        calcification = {level: (group == i).astype(float) for i, level in enumerate(LEVELS, 1)}
        covariates = {name: women.column(name) for name in ADJUST}
        gains.append(
            added_worth(
                women.time_years, women.event, covariates, calcification, {}, horizons=[]
            ).gain["c_index"]
        )
    # more by chance in 1 of 300 runs, were each interval exact
    assert sum(gain.ci95[0] > 0 for gain in gains) <= 2
    assert abs(np.mean([gain.value for gain in gains])) < 0.003


def test_published_scores_are_covariate_and_comparator(women):
    women = women.where(np.arange(8000))
    rng = np.random.default_rng(0)
    n = len(women)
    more = {
        "total_cholesterol": rng.uniform(150, 280, n),
        "hdl": rng.uniform(35, 80, n),
        "bp_treated": (rng.random(n) < 0.3).astype(float),
        "bmi": rng.uniform(20, 38, n),
        "egfr": rng.uniform(40, 110, n),
        "statin": (rng.random(n) < 0.2).astype(float),
    }
    analysis = analyse(replace(women, covariates={**women.covariates, **more}), adjust=["age"])
    assert {risk.name for risk in analysis.added.worth} > {
        "ASCVD (pooled cohort equations)",
        "PREVENT",
    }
    unadjusted = analysis.effects["cox_unadjusted"]["severe"].hazard_ratio
    for task in ("cox_pce_adjusted", "cox_prevent_adjusted"):
        assert 1.5 < analysis.effects[task]["severe"].hazard_ratio < unadjusted
    assert [set(risk.calibration) for risk in analysis.added.worth[2:]] == [{10.0}, {10.0}]
    assert any("no prevent risk" in note for note in analysis.notes)


def test_the_order_of_the_lines_changes_nothing():
    women = simulate_cohort(2000, 5)
    shuffled = women.where(np.random.default_rng(0).permutation(2000))
    first, second = (analyse(cohort, adjust=ADJUST).effects for cohort in (women, shuffled))
    for task in first:
        np.testing.assert_allclose(
            [e.hazard_ratio for e in first[task].values()],
            [e.hazard_ratio for e in second[task].values()],
            rtol=1e-6,
        )


def test_the_thresholds_are_the_callers(women):
    analysis = analyse(women.where(np.arange(4000)), adjust=["age"], thresholds=(0, 5, 12))
    expected = np.bincount(severity(women.area_mm2[:4000], (0, 5, 12)))
    assert [group.women for group in analysis.groups] == expected.tolist()


def test_without_covariates_it_is_still_an_analysis(women):
    analysis = analyse(women.where(np.arange(3000)), adjust=[])
    assert analysis.effects["cox_adjusted"] == analysis.effects["cox_unadjusted"]
    assert [risk.name for risk in analysis.added.worth] == ["covariates and calcification"]
    assert "added_by_calcification" not in metrics(analysis)


def test_women_without_a_covariate_are_left_out_of_all_and_told():
    women = simulate_cohort(3000, 2)
    sbp = np.where(np.arange(3000) % 10 == 0, np.nan, women.covariates["sbp"])
    analysis = analyse(replace(women, covariates={"sbp": sbp}), adjust=["age", "sbp"])
    assert {
        effect.women for effects in analysis.effects.values() for effect in effects.values()
    } == {2700, 3000}
    assert {e.women for e in analysis.effects["cox_adjusted_imputed"].values()} == {3000}
    assert any("300 of 3,000 women (10.0 %)" in note for note in analysis.notes)


def test_a_severity_without_outcomes_is_told():
    women = simulate_cohort(1500, 2)
    severe = severity(women.area_mm2) == 3
    analysis = analyse(
        replace(women, event=np.where(severe & (women.event == 1), 0, women.event)), adjust=["age"]
    )
    assert list(analysis.effects["cox_adjusted"]) == ["mild", "moderate", "per_mm2"]
    assert any(
        note.startswith(f"severe: {severe.sum()} women with no outcome") for note in analysis.notes
    )
    assert [group.name for group in analysis.groups] == ["zero", "mild", "moderate", "severe"]


def test_short_follow_up_makes_no_long_prediction():
    women = simulate_cohort(4000, 2, years=6.0)
    analysis = analyse(women, adjust=["age"])
    assert set(analysis.added.worth[0].auc) == {5.0}
    assert (
        "Follow-up is too short, or outcomes are too few, for 10-year predictions."
        in analysis.notes
    )


def test_few_women_make_an_analysis_with_remarks():
    women = simulate_cohort(400, 11)
    analysis = analyse(women, adjust=["age"])
    assert {"cox_unadjusted", "cox_adjusted", "fine_gray"} <= set(analysis.effects)
    assert any("too few for hazard ratios" in note for note in analysis.notes)


def nobody_calcified(women):
    return replace(women, area_mm2=np.zeros(len(women)))


def nobody_at_zero(women):
    return replace(women, area_mm2=women.area_mm2 + 1)


IMPOSSIBLE = {
    "no calcification": (nobody_calcified, ["age"], "no outcome among women with calcification"),
    "no reference": (nobody_at_zero, ["age"], "no outcome among women with zero calcification"),
    "a constant covariate": (
        lambda w: replace(w, covariates={"one": np.ones(len(w))}),
        ["age", "one"],
        "one is the same for all",
    ),
}


@pytest.mark.parametrize("change, adjust, message", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_be_analysed_is_refused(women, change, adjust, message):
    with pytest.raises(UserError, match=message):
        analyse(change(women), adjust=adjust)
