"""Cohorts with known hazards, and the coverage of the intervals of an analysis. Axis: N women.

  python -m mmv_jax.outcomes.simulate women.csv --women 116135 --endpoints

writes a cohort file for `mmv evaluate --config eval_outcomes`.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.cohort import SEVERITIES, Cohort, severity
from mmv_jax.outcomes.cox import Z95, Cox, cox
from mmv_jax.outcomes.fine_gray import fine_gray
from mmv_jax.outcomes.spline import knots_for, restricted_cubic

# Mild, moderate, severe: between the adjusted ratios of the two health systems (arXiv 2503.14550).
HAZARD_RATIOS = (1.2, 1.4, 2.1)
ENDPOINT_RATIOS = {
    "infarction": (1.3, 1.6, 2.4),
    "stroke": (1.2, 1.4, 1.9),
    "heart_failure": (1.4, 1.8, 3.0),
    "death": (1.1, 1.2, 1.5),
}
# share of women without risk factors, at 60, who have it in the first year
FIRST_YEAR = {"infarction": 0.003, "stroke": 0.003, "heart_failure": 0.004, "death": 0.006}
ADJUST = ("age", "sbp", "diabetes", "smoker")
PER_MM2 = 1.02
LOG_RATIOS = (0.5, -0.5)  # log hazard ratios of the subdistribution


def simulate_cohort(
    women: int,
    seed: int,
    *,
    hazard_ratios: Sequence[float | int] = HAZARD_RATIOS,
    per_mm2: float | None = None,
    confounding: float = 0.09,
    death_at_60: float = 0.006,
    years: float = 12.0,
    bent: bool = False,
) -> Cohort:
    """Screening cohort whose outcome and competing death have proportional Weibull hazards.

    Calcification grows with age, and so do both hazards. Unadjusted ratios are therefore too large;
    ratios adjusted for `ADJUST` are correct. Entry is uniform over `years`, and follow-up ends at
    one date. One woman in fifty is lost each year before that.

    Args:
      hazard_ratios: of mild, moderate and severe against zero, for the outcome.
      per_mm2: hazard ratio of one mm² more, instead of the categories' ratios.
      confounding: growth of the log odds of calcification per year of age.
      death_at_60: hazard of competing death per year, in the first year of a woman of 60 without
        risk factors.
      bent: the log hazard of the outcome bends with age as in the pooled cohort equations;
        otherwise it is linear.
    """
    rng = np.random.default_rng(seed)
    age = np.clip(rng.normal(57.0, 10.5, women), 35.0, 89.0)
    sbp = 125.0 + 0.45 * (age - 57.0) + rng.normal(0.0, 15.0, women)
    diabetes, smoker = rng.random(women) < 0.09, rng.random(women) < 0.12
    area = _area_mm2(rng, age, confounding)
    of_age = _pooled_cohort_age(age) if bent else 0.065 * (age - 60.0)
    risk = of_age + 0.012 * (sbp - 125.0) + 0.6 * diabetes + 0.55 * smoker
    effect = (
        np.log(np.array([1.0, *hazard_ratios]))[severity(area)]
        if per_mm2 is None
        else np.log(per_mm2) * area
    )
    # In the first year 0.8 % have the outcome at a log hazard of 0.
    outcome = _weibull(rng, 0.008, 1.2, risk + effect)
    death = _weibull(rng, death_at_60, 1.3, 0.09 * (age - 60.0) + 0.7 * smoker)
    # The end of the study, or loss to follow-up: one woman in fifty a year.
    left = np.minimum(rng.uniform(0.5, years, women), rng.exponential(50.0, women))
    time = np.minimum(np.minimum(outcome, death), left)
    event = np.select([time == outcome, time == death], [1, 2], 0)
    covariates = {"sbp": sbp, "diabetes": diabetes.astype(float), "smoker": smoker.astype(float)}
    return Cohort(
        name="simulated",
        line=np.arange(2, women + 2),
        time_years=time,
        event=event,
        area_mm2=area,
        age=age,
        covariates=covariates,
    )


def simulate_endpoints(
    women: int, seed: int, ratios: Mapping[str, Sequence[float | int]] = ENDPOINT_RATIOS
) -> dict[str, Float[np.ndarray, "N"]]:
    """The columns of a cohort file with several endpoints, and the inputs of the published scores.

    Components have Weibull hazards that are independent given age, risk factors and severity. Of
    the infarctions 15 % are fatal (`coronary_death`), which is part of `death` as well.

    Args:
      ratios: hazard ratios of mild, moderate and severe calcification, of each component.
    """
    cohort = simulate_cohort(women, seed)
    rng = np.random.default_rng([seed, 1])
    known = cohort.covariates
    risk = 0.065 * (cohort.age - 60.0) + 0.012 * (known["sbp"] - 125.0)
    risk += 0.6 * known["diabetes"] + 0.55 * known["smoker"]
    group = severity(cohort.area_mm2)
    happens = {
        name: _weibull(
            rng, FIRST_YEAR[name], 1.2, risk + np.log(np.array([1.0, *ratios[name]]))[group]
        )
        for name in ratios
    }
    fatal = rng.random(women) < 0.15
    sudden = happens["infarction"] < happens["death"]
    coronary = np.where(fatal & sudden, happens["infarction"], np.inf)
    death = np.minimum(happens["death"], coronary)
    left = np.minimum(rng.uniform(0.5, 12.0, women), rng.exponential(50.0, women))
    end = np.minimum(death, left)
    times = happens | {"death": death, "coronary_death": coronary}
    columns = {f"{name}_years": np.where(time <= end, time, np.nan) for name, time in times.items()}
    inputs = {
        "total_cholesterol": np.clip(rng.normal(205.0, 35.0, women), 131.0, 319.0),
        "hdl": np.clip(rng.normal(58.0, 14.0, women), 21.0, 99.0),
        "bp_treated": (rng.random(women) < 0.3).astype(float),
        "bmi": np.clip(rng.normal(28.0, 5.0, women), 18.6, 39.5),
        "egfr": np.clip(rng.normal(85.0, 15.0, women), 20.0, 130.0),
        "statin": (rng.random(women) < 0.25).astype(float),
    }
    sbp = np.clip(known["sbp"], 91.0, 199.0)
    return {
        "follow_up_years": end,
        **columns,
        "area_mm2": cohort.area_mm2,
        "age": cohort.age,
        **{**known, "sbp": sbp},
        **inputs,
    }


def simulate_subdistribution(
    women: int,
    seed: int,
    log_ratios: Sequence[float | int],
    *,
    incidence: float = 0.4,
    censored_by: float = 4.0,
) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"], dict[str, Float[np.ndarray, "N"]]]:
    """Time, event and normal covariates for which Fine and Gray's model is correct.

    Args:
      log_ratios: its coefficients.
      incidence: probability that the outcome ever happens at covariates 0.
      censored_by: censoring is uniform over this time; times of outcome and death have mean 1.
    Source: Fine and Gray, J Am Stat Assoc 1999, section 5.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(women, len(log_ratios)))
    ratio = np.exp(z @ np.asarray(log_ratios, float))
    # F(∞) of each woman: proportional subdistribution hazards raise 1 - p to the hazard ratio.
    ever = 1 - (1 - incidence) ** ratio
    u = rng.random(women)
    # Given that the outcome happens, solve F(t) / F(∞) = u for t, where F(t) = 1 - (1 - p (1 -
    # exp(-t)))^ratio.
    outcome = -np.log1p(-(1 - (1 - u * ever) ** (1 / ratio)) / incidence)
    death = rng.exponential(1.0, women) / np.exp(-0.5 * z[:, 0])
    happens = rng.random(women) < ever
    left = rng.uniform(0.0, censored_by, women)
    ended = np.where(happens, outcome, death)
    event = np.where(left < ended, 0, np.where(happens, 1, 2))
    return np.minimum(ended, left), event, {f"z{i}": z[:, i] for i in range(len(log_ratios))}


def _area_mm2(rng: np.random.Generator, age: np.ndarray, confounding: float) -> np.ndarray:
    """Areas in mm²: 0 for most women, log-normal for the others.

    About 10 % are mild, 6 % moderate and 4 % severe.
    """
    # At 57 years 16 % have calcification; over all ages about 20 %.
    present = rng.random(len(age)) < 1 / (1 + np.exp(1.65 - confounding * (age - 57.0)))
    # At 57 years the median area is e^2.2 = 9 mm², just below the limit of mild.
    return np.where(present, rng.lognormal(2.2 + 0.02 * (age - 57.0), 1.0, len(age)), 0.0)


def _pooled_cohort_age(age: np.ndarray) -> np.ndarray:
    """Log hazard of white women by age in the pooled cohort equations, relative to 60 years.

    Total cholesterol is 213 and HDL 50 mg/dL.
    """
    log, at_60 = np.log(age), np.log(60.0)
    # -3.114 and 3.149 multiply ln age with ln cholesterol and with ln HDL.
    slope = -29.799 - 3.114 * np.log(213.0) + 3.149 * np.log(50.0)
    return slope * (log - at_60) + 4.884 * (log**2 - at_60**2)


def _weibull(
    rng: np.random.Generator, rate: float, shape: float, log_hazard: np.ndarray
) -> np.ndarray:
    """Times with the cumulative hazard rate · t^shape · exp(log_hazard)."""
    # Inverse transform: the cumulative hazard at the event is a unit exponential.
    return (rng.exponential(1.0, len(log_hazard)) / (rate * np.exp(log_hazard))) ** (1 / shape)


@dataclass(frozen=True)
class Coverage:
    """Coverage of intervals: `held` of `of` contained the true value.

    Attributes:
      mean, spread: mean and standard deviation of the estimates on the log scale.
      error: mean standard error.
    """

    name: str
    held: int
    of: int
    mean: float
    spread: float
    error: float


def cox_coverage(cohorts: int, women: int, *, bent: bool = False) -> list[Coverage]:
    """Coverage of adjusted hazard ratios of severities and per mm² in simulated cohorts.

    Age enters as a spline.

    Args:
      cohorts: number of simulated cohorts, each of `women`.
      bent: as in `simulate_cohort`.
    """
    levels = SEVERITIES[1:]
    estimates, errors = [], []
    for seed in range(cohorts):
        cohort = simulate_cohort(women, seed, bent=bent)
        group = severity(cohort.area_mm2)
        by_severity = _adjusted(
            cohort, {level: (group == i).astype(float) for i, level in enumerate(levels, 1)}
        )
        # The same seed draws the same women. Only the effect of the area differs.
        cohort = simulate_cohort(women, seed, per_mm2=PER_MM2, bent=bent)
        by_area = _adjusted(cohort, {"per_mm2": cohort.area_mm2})
        of_interest = [(by_severity, slice(0, 3)), (by_area, slice(0, 1))]
        estimates.append(np.concatenate([fit.log_ratios[of] for fit, of in of_interest]))
        variances = [np.diag(fit.covariance)[of] for fit, of in of_interest]
        errors.append(np.sqrt(np.concatenate(variances)))
    truth = np.log([*HAZARD_RATIOS, PER_MM2])
    return _count((*levels, "per_mm2"), truth, np.array(estimates), np.array(errors))


def _adjusted(cohort: Cohort, calcification: dict[str, np.ndarray]) -> Cox:
    outcome = cohort.event == 1
    age = restricted_cubic("age", cohort.age, knots_for(cohort.age, int(outcome.sum())))
    others = {name: cohort.column(name) for name in ADJUST if name != "age"}
    return cox(cohort.time_years, outcome, calcification | age | others)


def fine_gray_coverage(simulations: int, women: int) -> list[Coverage]:
    """Coverage of coefficients when Fine and Gray's model is correct.

    Standard errors are those of the sandwich estimator.
    """
    fits = [
        fine_gray(*simulate_subdistribution(women, seed, LOG_RATIOS)) for seed in range(simulations)
    ]
    errors = np.array([np.sqrt(np.diag(fit.covariance)) for fit in fits])
    return _count(
        fits[0].names, np.array(LOG_RATIOS), np.array([fit.log_ratios for fit in fits]), errors
    )


def _count(
    names: Sequence[str], truth: np.ndarray, estimates: np.ndarray, errors: np.ndarray
) -> list[Coverage]:
    held = np.sum(np.abs(estimates - truth) <= Z95 * errors, axis=0)
    return [
        Coverage(
            name=name,
            held=int(held[i]),
            of=len(estimates),
            mean=float(estimates[:, i].mean()),
            spread=float(estimates[:, i].std(ddof=1)),
            error=float(errors[:, i].mean()),
        )
        for i, name in enumerate(names)
    ]


def write_cohort(path: Path, women: int, seed: int, *, endpoints: bool = False) -> None:
    """Write a simulated cohort as CSV; empty cells are events that did not happen.

    Args:
      endpoints: columns of several endpoints and of the published scores' inputs.
    """
    if endpoints:
        columns = simulate_endpoints(women, seed)
    else:
        cohort = simulate_cohort(women, seed)
        columns = {
            **{name: getattr(cohort, name) for name in ("time_years", "event", "area_mm2", "age")},
            **cohort.covariates,
        }
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["patient_id", *columns])
        for n, row in enumerate(zip(*columns.values())):
            # repr: an endpoint at the end of follow-up must not be rounded beyond it.
            cells = ("" if np.isnan(value) else repr(float(value)) for value in row)
            out.writerow([f"w{n}", *cells])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--women", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--endpoints", action="store_true")
    asked = parser.parse_args()
    write_cohort(asked.path, asked.women, asked.seed, endpoints=asked.endpoints)
