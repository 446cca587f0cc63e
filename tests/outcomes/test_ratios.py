"""Models of simulated women: splines, ages, delayed entry, imputation; what fails is told."""

from dataclasses import replace

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.outcomes.analysis import analyse, metrics
from mmv_jax.outcomes.cohort import severity
from mmv_jax.outcomes.cox import cox
from mmv_jax.outcomes.fine_gray import fine_gray
from mmv_jax.outcomes.imputation import impute, pooled
from mmv_jax.outcomes.index_dates import read_index_dates
from mmv_jax.outcomes.ratios import Women, age_interaction, area_curve, ratios_by_age
from mmv_jax.outcomes.simulate import ADJUST, PER_MM2, simulate_cohort
from mmv_jax.outcomes.spline import knots_for, restricted_cubic
from mmv_jax.outcomes.survival import kaplan_meier


def women_of(cohort, names=ADJUST, splines=("age",)):
    group = severity(cohort.area_mm2)
    return Women(cohort=cohort, group=group, levels=(1, 2, 3), names=names, splines=splines)


@pytest.mark.parametrize("seed", range(3))
def test_large_cohorts_fit(seed):
    """Rounding of a likelihood of 100,000 is larger than any absolute limit of convergence."""
    women = women_of(simulate_cohort(116_135, seed))
    area = {"area": women.cohort.area_mm2}
    for x in (area, women.severities() | women.covariates()):
        assert np.all(women.cox(x).log_ratios > -1)


def bent(women, seed):
    """Two covariates: one whose effect is a bend, and one that follows it and has no effect."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(40, 80, women)
    marker = (rng.random(women) < 1 / (1 + np.exp(-0.4 * (np.maximum(age, 60) - 66)))).astype(float)
    time = rng.exponential(20 / np.exp(0.15 * np.maximum(age - 60, 0)))
    return np.minimum(time, 5.0), time < 5.0, age, marker


def test_a_bend_of_age_is_no_effect_of_what_follows_it():
    linear, spline = [], []
    for seed in range(10):
        time, outcome, age, marker = bent(3000, seed)
        knots = knots_for(age, int(outcome.sum()))
        assert len(knots) == 5
        linear.append(cox(time, outcome, {"marker": marker, "age": age}).log_ratios[0])
        columns = {"marker": marker} | restricted_cubic("age", age, knots)
        spline.append(cox(time, outcome, columns).log_ratios[0])
    assert np.mean(linear) > 0.2
    assert abs(np.mean(spline)) < 0.06


def test_few_outcomes_or_few_values_have_fewer_knots():
    age = np.linspace(40, 80, 500)
    assert [len(knots_for(age, n)) for n in (200, 70, 40, 10)] == [5, 4, 3, 0]
    assert len(knots_for(np.repeat([40.0, 50.0], 250), 200)) == 0


@pytest.mark.parametrize("seeds", [5, pytest.param(12, marks=pytest.mark.full)])
def test_an_effect_that_changes_with_age_is_found_and_one_that_does_not_is_not(seeds):
    same = [age_interaction(women_of(simulate_cohort(6000, seed)))[0].p for seed in range(seeds)]
    assert np.median(same) > 0.02
    assert min(same) > 1e-4
    cohort = simulate_cohort(12_000, 3, hazard_ratios=(1.0, 1.0, 1.0))
    early = simulate_cohort(12_000, 3, hazard_ratios=(4.0, 4.0, 4.0))
    young = cohort.age < 60
    mixed = replace(
        cohort,
        time_years=np.where(young, early.time_years, cohort.time_years),
        event=np.where(young, early.event, cohort.event),
    )
    found, _ = age_interaction(women_of(mixed))
    assert found.p < 1e-6 and found.df <= 9


def test_one_age_without_a_model_is_told_and_ends_nothing():
    cohort = simulate_cohort(4000, 1)
    # among the young every smoker has the outcome at once, and nobody else before the end
    young = cohort.age < 50
    smoker = np.where(young, (cohort.event == 1).astype(float), cohort.covariates["smoker"])
    cohort = replace(cohort, covariates=cohort.covariates | {"smoker": smoker})
    found, notes = ratios_by_age(women_of(cohort))
    assert list(found) == ["50–59", "60–69", "≥70"]
    assert any(note.startswith("Age <50") and "does not converge" in note for note in notes)
    assert "cox_adjusted" in analyse(cohort, adjust=ADJUST).effects


def late(cohort, seed):
    """Only those are known who are still without event at a later date, half of the women."""
    rng = np.random.default_rng(seed)
    entry = np.where(rng.random(len(cohort)) < 0.5, rng.uniform(0, 8, len(cohort)), 0.0)
    known = cohort.time_years > entry
    return replace(cohort.where(known), entry_years=entry[known])


def test_delayed_entry_is_corrected():
    """The bias of the wrong analysis: survival of those who lived to be seen is too high."""
    cohort = simulate_cohort(40_000, 4)
    truth = kaplan_meier(cohort.time_years, cohort.event == 1).at(np.array([5.0]))[0]
    seen = late(cohort, 4)
    outcome = seen.event == 1
    naive = kaplan_meier(seen.time_years, outcome).at(np.array([5.0]))[0]
    ours = kaplan_meier(seen.time_years, outcome, entry=seen.entry_years).at(np.array([5.0]))[0]
    assert naive - truth > 0.01
    assert abs(ours - truth) < 0.006
    women = women_of(seen)
    x = women.severities() | women.covariates()
    for fit in (women.cox(x), women.fine_gray(x)):
        low, high = fit.effects()["severe"].ci95
        assert low < 2.1 < high


def test_an_analysis_of_late_women_leaves_out_what_has_no_estimator():
    analysis = analyse(late(simulate_cohort(4000, 6), 6), adjust=ADJUST)
    assert {"cox_unadjusted", "cox_adjusted", "fine_gray"} <= set(analysis.effects)
    assert analysis.gray is None and not analysis.added.worth
    assert any("with delayed entry they have no sound estimator" in n for n in analysis.notes)
    assert np.all(np.diff(analysis.at_risk[:, 0]) != 0)


def test_entry_at_zero_changes_nothing():
    cohort = simulate_cohort(1500, 2)
    women = women_of(cohort)
    x, zero = women.severities() | women.covariates(), np.zeros(1500)
    for model, code in ((cox, cohort.event == 1), (fine_gray, cohort.event)):
        first, second = (model(cohort.time_years, code, x, entry=e) for e in (None, zero))
        np.testing.assert_array_equal(first.log_ratios, second.log_ratios)


def test_an_outcome_at_once_beside_late_women_is_one():
    """As if it came at a moment before any other: where time 0 stands changes no rank."""
    cohort = late(simulate_cohort(1500, 5), 5)
    time, entry = cohort.time_years.copy(), cohort.entry_years
    time[(entry == 0) & (cohort.event > 0) & (np.arange(len(time)) % 7 == 0)] = 0.0
    moved, before = time + 1, np.where(entry > 0, entry + 1, 0.0)
    women = women_of(cohort)
    x = women.severities() | women.covariates()
    for model, code in ((cox, cohort.event == 1), (fine_gray, cohort.event)):
        first, second = model(time, code, x, entry=entry), model(moved, code, x, entry=before)
        np.testing.assert_allclose(first.log_ratios, second.log_ratios, rtol=1e-8)
    first, second = (
        kaplan_meier(t, cohort.event == 1, entry=e) for t, e in ((time, entry), (moved, before))
    )
    np.testing.assert_allclose(first.value, second.value)


def test_imputation_mends_what_complete_cases_bias():
    """A confounder is missing where calcified women had the outcome: complete cases lose them."""
    lost = {"cox_adjusted": [], "cox_adjusted_imputed": []}
    for seed in range(3):
        cohort = simulate_cohort(3000, seed, hazard_ratios=(2.0, 2.0, 2.0))
        rng = np.random.default_rng(seed)
        gone = (cohort.event == 1) & (cohort.area_mm2 > 0) & (rng.random(3000) < 0.6)
        sbp = np.where(gone, np.nan, cohort.covariates["sbp"])
        women = women_of(cohort)
        whole = women.cox(women.severities() | women.covariates()).effects()
        holed = replace(cohort, covariates=cohort.covariates | {"sbp": sbp})
        effects = analyse(holed, adjust=ADJUST, horizons=[]).effects
        for task, found in lost.items():
            for level in ("mild", "severe"):
                ratio = effects[task][level].hazard_ratio / whole[level].hazard_ratio
                found.append(np.log(ratio))
    assert np.mean(lost["cox_adjusted"]) < -0.5
    assert abs(np.mean(lost["cox_adjusted_imputed"])) < 0.06


def test_an_imputed_column_keeps_its_values_and_its_relation():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(2000, 1))
    x = np.stack([2 * known[:, 0] + rng.normal(size=2000), (known[:, 0] > 0) * 1.0], axis=1)
    holes = x.copy()
    holes[rng.random((2000, 2)) < 0.3] = np.nan
    filled = impute(holes, known, np.random.default_rng(1))
    gaps = np.isnan(holes)
    np.testing.assert_array_equal(filled[~gaps], x[~gaps])
    assert set(filled[:, 1]) == {0.0, 1.0}
    assert np.corrcoef(filled[gaps[:, 0], 0], known[gaps[:, 0], 0])[0, 1] > 0.8
    assert np.std(filled[gaps[:, 0], 0]) == pytest.approx(np.std(x[:, 0]), rel=0.1)


def test_rubins_rules():
    """By hand: mean 0.5, within 0.04, between 0.01 × 4 / 3; 3 (1 + 0.04 / 0.01333)² df."""
    effect = pooled("x", np.array([0.4, 0.5, 0.6, 0.5]), np.full(4, 0.04), women=9, outcomes=3)
    between = np.var([0.4, 0.5, 0.6, 0.5], ddof=1) * 5 / 4
    assert effect.hazard_ratio == pytest.approx(np.exp(0.5))
    df = 3 * (1 + 0.04 / between) ** 2
    from scipy.stats import t

    half = t.ppf(0.975, df) * np.sqrt(0.04 + between)
    assert np.log(effect.ci95[1]) - 0.5 == pytest.approx(half)


def test_the_area_as_a_curve():
    women = women_of(simulate_cohort(20_000, 1, per_mm2=PER_MM2))
    curve, bends = area_curve(women)
    for at, effect in zip((1.0, 5.0, 10.0, 25.0), curve.values()):
        assert effect.ci95[0] < PER_MM2**at < effect.ci95[1]
    assert bends.p > 1e-3
    steps, bends = area_curve(women_of(simulate_cohort(20_000, 1, hazard_ratios=(3.0, 3.0, 3.0))))
    assert bends.p < 1e-6


def test_the_curve_and_the_years_lost_are_written():
    cohort = simulate_cohort(5000, 1)
    analysis = analyse(cohort, adjust=["age"], splines=["age", "area"])
    found = metrics(analysis)
    assert "at_10_mm2" in found["cox_area_spline"]
    (name,) = found["restricted_mean"]["severe"]
    assert name == "years_lost_of_10" and found["restricted_mean"]["severe"][name]["value"] > 0
    low, high = found["follow_up"]["all"]["median_years"]["ci95"]
    assert 5 < low < high < 7  # entry even over 12 years, and a loss of one in fifty a year
    linear = analyse(cohort, adjust=["age"], splines=[])
    assert [test.name for test in linear.proportionality][-2:] == ["age", "global"]
    assert [test.df for test in linear.proportionality][-2:] == [1, 4]
    assert [test.df for test in analysis.proportionality][-2:] == [4, 7]
    with pytest.raises(UserError, match="splines names sbp"):
        analyse(cohort, adjust=["age"], splines=["sbp"])
    with pytest.raises(UserError, match="smoker, which has two values"):
        analyse(cohort, adjust=["smoker"], splines=["smoker"])


def test_index_dates_are_read_and_a_cell_that_is_none_is_refused(tmp_path):
    path = tmp_path / "cohort.csv"
    path.write_text("patient_id,index_date\na,2019-05-31 00:00:00\nb,\nc,20200102\n")
    assert read_index_dates(path) == {"a": "20190531", "c": "20200102"}
    path.write_text("patient_id,index_date\na,2019-05-31\nb,31.5.19\n")
    with pytest.raises(UserError, match="line 3 has an index_date that is no date"):
        read_index_dates(path)
    path.write_text("patient_id\na\n")
    assert read_index_dates(path) == {}
