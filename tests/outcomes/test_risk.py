"""Published risks equal their papers' worked examples."""

import numpy as np
import pytest

from mmv_jax.outcomes.risk import PCE_INPUTS, PREVENT_INPUTS, pooled_cohort, prevent, women_scores

# The guideline's example (Goff et al., Circulation 2014, appendix 7, table A): sum, mean, survival,
# risk.
EXAMPLES = {
    "white woman": (True, False, -29.67, -29.18, 0.9665, 2.1),
    "black woman": (True, True, 86.16, 86.61, 0.9533, 3.0),
    "white man": (False, False, 60.69, 61.18, 0.9144, 5.3),
    "black man": (False, True, 18.97, 19.54, 0.8954, 6.1),
}
EXAMPLE = {
    "total_cholesterol": 213.0,
    "hdl": 50.0,
    "sbp": 120.0,
    "bp_treated": 0.0,
    "smoker": 0.0,
    "diabetes": 0.0,
}
# The example of the PREVENT paper's supplement (Khan et al., Circulation 2024).
PATIENT = {
    "total_cholesterol": 200.0,
    "hdl": 45.0,
    "sbp": 160.0,
    "bp_treated": 1.0,
    "smoker": 0.0,
    "diabetes": 1.0,
    "bmi": 35.0,
    "egfr": 90.0,
    "statin": 0.0,
}


def one(values, **changes):
    return {name: np.array([changes.get(name, value)]) for name, value in values.items()}


def pce(age=55.0, female=True, black=False, **changes):
    return float(
        pooled_cohort(
            np.array([age]),
            one(EXAMPLE, **changes),
            female=np.array([female]),
            black=np.array([black]),
        )[0]
    )


@pytest.mark.parametrize(
    "female, black, published_sum, mean, survival, percent", EXAMPLES.values(), ids=EXAMPLES.keys()
)
def test_pooled_cohort_example(female, black, published_sum, mean, survival, percent):
    risk = pce(female=female, black=black)
    individual_sum = mean + np.log(np.log(1 - risk) / np.log(survival))
    # the paper adds up rounded products
    assert individual_sum == pytest.approx(published_sum, abs=0.011)
    assert 100 * risk == pytest.approx(percent, abs=0.1)
    assert round(100 * (1 - survival ** np.exp(published_sum - mean)), 1) == percent


RISK_FACTORS = {"smoker": 1.0, "diabetes": 1.0, "sbp": 160.0, "bp_treated": 1.0}


@pytest.mark.parametrize(
    "female, black",
    [(True, False), (True, True), (False, False), (False, True)],
    ids=list(EXAMPLES),
)
@pytest.mark.parametrize("name, value", RISK_FACTORS.items(), ids=RISK_FACTORS.keys())
def test_each_risk_factor_raises_the_pooled_cohort_risk(female, black, name, value):
    assert pce(female=female, black=black, **{name: value}) > pce(female=female, black=black)


@pytest.mark.parametrize("age", [39.9, 79.1])
def test_no_pooled_cohort_risk_outside_its_ages(age):
    assert np.isnan(pce(age=age))


@pytest.mark.parametrize(
    "changes",
    [{"sbp": np.nan}, {"hdl": 0.0}, {"total_cholesterol": -1.0}],
    ids=["missing", "zero", "negative"],
)
def test_an_impossible_input_gives_no_risk(changes):
    assert np.isnan(pce(**changes))


PREVENT_EXAMPLES = {"cvd": 14.7, "ascvd": 9.2, "heart_failure": 8.1}


@pytest.mark.parametrize("outcome, percent", PREVENT_EXAMPLES.items(), ids=PREVENT_EXAMPLES.keys())
def test_prevent_example(outcome, percent):
    pytest.importorskip("pyprevent")
    risk = prevent(np.array([50.0]), one(PATIENT), female=np.array([True]), outcome=outcome)
    assert round(100 * float(risk[0]), 1) == percent


def prevent_by_hand(age, p):
    """The women's base equation for total CVD, as the CDC's knowledge base prints it (KDSS,
    Q811).
    """
    a, n = (age - 55) / 10, (p["total_cholesterol"] - p["hdl"]) * 0.02586 - 3.5
    h, low, high = (
        (p["hdl"] * 0.02586 - 1.3) / 0.3,
        (min(p["sbp"], 110) - 110) / 20,
        (max(p["sbp"], 110) - 130) / 20,
    )
    g_low, g_high = (min(p["egfr"], 60) - 60) / -15, (max(p["egfr"], 60) - 90) / -15
    d, s, rx, st = p["diabetes"], p["smoker"], p["bp_treated"], p["statin"]
    logit = (
        -3.307728
        + 0.7939329 * a
        + 0.0305239 * n
        - 0.1606857 * h
        - 0.2394003 * low
        + 0.360078 * high
        + 0.8667604 * d
        + 0.5360739 * s
    )
    logit += (
        0.6045917 * g_low
        + 0.0433769 * g_high
        + 0.3151672 * rx
        - 0.1477655 * st
        - 0.0663612 * rx * high
        + 0.1197879 * st * n
    )
    logit += (
        -0.0819715 * a * n
        + 0.0306769 * a * h
        - 0.0946348 * a * high
        - 0.27057 * a * d
        - 0.078715 * a * s
        - 0.1637806 * a * g_low
    )
    return 1 / (1 + np.exp(-logit))


def test_prevent_equals_the_printed_equation():
    pytest.importorskip("pyprevent")
    rng = np.random.default_rng(0)
    for _ in range(30):
        changes = {
            "total_cholesterol": rng.uniform(135, 300),
            "hdl": rng.uniform(25, 95),
            "sbp": rng.uniform(92, 178),
            "egfr": rng.uniform(20, 135),
        }
        changes |= {
            name: float(rng.integers(2)) for name in ("bp_treated", "smoker", "diabetes", "statin")
        }
        age = rng.uniform(30, 79)
        risk = prevent(np.array([age]), one(PATIENT, **changes), female=np.array([True]))
        assert float(risk[0]) == pytest.approx(prevent_by_hand(age, PATIENT | changes), rel=1e-4)


def test_scores_of_women_come_with_what_is_missing():
    pytest.importorskip("pyprevent")
    n = 6
    covariates = {name: np.full(n, value) for name, value in PATIENT.items()}
    covariates["egfr"][0], covariates["smoker"][1] = np.nan, np.nan
    scores, notes = women_scores(np.array([50.0, 50.0, 25.0, 35.0, 60.0, 60.0]), covariates)
    assert np.isnan(scores["prevent"]).tolist() == [True, True, True, False, False, False]
    assert np.isnan(scores["pce"]).tolist() == [False, True, True, True, False, False]
    assert notes == [
        "There is no column black: the pooled cohort equation of white women stands for all.",
        (
            "3 of 6 women have no pce risk: an input is missing, or outside the range of the"
            " equations."
        ),
        (
            "3 of 6 women have no prevent risk: an input is missing, or outside the range of the"
            " equations."
        ),
    ]
    black, _ = women_scores(np.full(n, 60.0), covariates | {"black": np.repeat([0.0, 1.0], 3)})
    assert black["pce"][2] != black["pce"][4]


def covariates_of(n=8, **changes):
    return {name: np.full(n, value) for name, value in PATIENT.items()} | changes


def test_a_cell_outside_its_domain_makes_that_score_missing_and_is_told():
    pytest.importorskip("pyprevent")
    smoker = np.array([0.0, 1, 2, 0, 0, 0, 0, 0])
    sbp = np.array([120.0, 120, 120, 400, 120, 120, 120, np.nan])
    scores, notes = women_scores(np.full(8, 55.0), covariates_of(smoker=smoker, sbp=sbp))
    for risk in scores.values():
        assert np.isnan(risk).tolist() == [False, False, True, True, False, False, False, True]
    assert any(note.startswith("smoker: 1 of 8 cells are in a code other than 0") for note in notes)
    assert any(note.startswith("sbp: 1 of 8 cells are outside 90 to 200 mmHg") for note in notes)


def test_a_column_of_one_and_two_says_nothing():
    smoker = np.array([1.0, 2, 2, 2, 2, 2, 2, 2])
    scores, notes = women_scores(
        np.full(8, 55.0), {k: v for k, v in covariates_of(smoker=smoker).items() if k != "bmi"}
    )
    assert np.isnan(scores["pce"]).all()
    assert "smoker: 8 of 8 cells" in notes[0] and "If 1 is yes and 2 is no" in notes[0]


def test_cholesterol_in_another_unit_is_told():
    chol, hdl = np.full(8, 5.2), np.full(8, 1.4)
    scores, notes = women_scores(
        np.full(8, 55.0), covariates_of(total_cholesterol=chol, hdl=hdl, black=np.zeros(8))
    )
    assert np.isnan(scores["pce"]).all()
    assert sum("They look like mmol/L: multiply them by 38.67" in note for note in notes) == 2


def test_unknown_race_is_not_white():
    black = np.array([0.0, 1, np.nan, 9, 0, 0, 0, 0])
    scores, notes = women_scores(np.full(8, 55.0), covariates_of(black=black))
    assert np.isnan(scores["pce"]).tolist() == [False, False, True, True] + [False] * 4
    assert any(note.startswith("2 women whose race is unknown (black)") for note in notes)


def test_without_inputs_there_are_no_scores():
    assert women_scores(np.array([50.0]), {"sbp": np.array([120.0])}) == ({}, [])
    assert set(PCE_INPUTS) < set(PREVENT_INPUTS)
