"""Cohorts with known hazards, so that an analysis can be proved. Axis: N women."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.outcomes.cohort import SEVERITIES, Cohort, severity
from mmv_jax.outcomes.cox import Z95, Cox, cox
from mmv_jax.outcomes.fine_gray import fine_gray

PER_MM2 = 1.02
LOG_RATIOS = (0.5, -0.5)


@dataclass(frozen=True)
class Coverage:
    """Of `of` intervals, `held` held the truth; the estimates' mean and spread on the log scale,
    and the mean standard error.
    """

    name: str
    held: int
    of: int
    mean: float
    spread: float
    error: float


def cox_coverage(cohorts: int, women: int) -> list[Coverage]:
    """Adjusted hazard ratios of mild, moderate and severe calcification, and per mm² in cohorts
    whose hazard is so made.
    """
    names, estimates, errors = (*SEVERITIES[1:], "per_mm2"), [], []
    for seed in range(cohorts):
        by_severity, by_area = (
            simulate_cohort(women, seed),
            simulate_cohort(women, seed, per_mm2=PER_MM2),
        )
        group = severity(by_severity.area_mm2)
        fits = [
            _adjusted(by_severity, {SEVERITIES[i]: (group == i).astype(float) for i in (1, 2, 3)}),
            _adjusted(by_area, {"per_mm2": by_area.area_mm2}),
        ]
        estimates.append(np.concatenate([fits[0].log_ratios[:3], fits[1].log_ratios[:1]]))
        errors.append(
            np.sqrt(
                np.concatenate([np.diag(fits[0].covariance)[:3], np.diag(fits[1].covariance)[:1]])
            )
        )
    return _count(names, np.log([*HAZARD_RATIOS, PER_MM2]), np.array(estimates), np.array(errors))


def _adjusted(cohort: Cohort, calcification: dict[str, np.ndarray]) -> Cox:
    return cox(
        cohort.time_years,
        cohort.event == 1,
        calcification | {name: cohort.column(name) for name in ADJUST},
    )


def fine_gray_coverage(simulations: int, women: int) -> list[Coverage]:
    """Coefficients of a model that is true of the subdistribution, with the sandwich's standard
    errors.
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
            name,
            int(held[i]),
            len(estimates),
            *(
                float(x)
                for x in (estimates[:, i].mean(), estimates[:, i].std(ddof=1), errors[:, i].mean())
            ),
        )
        for i, name in enumerate(names)
    ]


# mild, moderate, severe: the middle of the two health systems' adjusted ratios (arXiv 2503.14550)
HAZARD_RATIOS = (1.2, 1.4, 2.1)
ADJUST = ("age", "sbp", "diabetes", "smoker")


def simulate_cohort(
    women: int,
    seed: int,
    *,
    hazard_ratios: Sequence[float | int] = HAZARD_RATIOS,
    per_mm2: float | None = None,
    confounding: float = 0.09,
    death_at_60: float = 0.006,
    years: float = 12.0,
) -> Cohort:
    """A screening cohort whose outcome and competing death have proportional Weibull hazards.

    Calcification grows with age (its log odds by `confounding` a year) and so do both hazards:
    unadjusted ratios are therefore too large, and ratios adjusted for `ADJUST` are true. Entry is
    even over `years` and follow-up ends at one date; one woman in fifty a year is lost before.

    Args:
      hazard_ratios: of mild, moderate and severe against zero, for the outcome.
      per_mm2: the hazard ratio of one mm² more, in place of the categories' ratios.
      death_at_60: hazard of competing death in the first year of a woman of 60 without risk
        factors, per year.
    """
    rng = np.random.default_rng(seed)
    age = np.clip(rng.normal(57.0, 10.5, women), 35.0, 89.0)
    sbp = 125.0 + 0.45 * (age - 57.0) + rng.normal(0.0, 15.0, women)
    diabetes, smoker = rng.random(women) < 0.09, rng.random(women) < 0.12
    area = _area_mm2(rng, age, confounding)
    risk = 0.065 * (age - 60.0) + 0.012 * (sbp - 125.0) + 0.6 * diabetes + 0.55 * smoker
    effect = (
        np.log(np.array([1.0, *hazard_ratios]))[severity(area)]
        if per_mm2 is None
        else np.log(per_mm2) * area
    )
    outcome = _weibull(rng, 0.008, 1.2, risk + effect)
    death = _weibull(rng, death_at_60, 1.3, 0.09 * (age - 60.0) + 0.7 * smoker)
    left = np.minimum(rng.uniform(0.5, years, women), rng.exponential(50.0, women))
    time = np.minimum(np.minimum(outcome, death), left)
    event = np.select([time == outcome, time == death], [1, 2], 0)
    covariates = {"sbp": sbp, "diabetes": diabetes.astype(float), "smoker": smoker.astype(float)}
    return Cohort("simulated", np.arange(2, women + 2), time, event, area, age, covariates)


def simulate_subdistribution(
    women: int,
    seed: int,
    log_ratios: Sequence[float | int],
    *,
    incidence: float = 0.4,
    censored_by: float = 4.0,
) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"], dict[str, Float[np.ndarray, "N"]]]:
    """Time, event and normal covariates for which Fine and Gray's model is true with the given
    coefficients.

    Args:
      incidence: the probability that the outcome ever happens at covariates 0.
      censored_by: censoring is even over this time; the outcome's and the death's times have mean
        1.
    Source: Fine and Gray, J Am Stat Assoc 1999, section 5.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(women, len(log_ratios)))
    ratio = np.exp(z @ np.asarray(log_ratios, float))
    ever = 1 - (1 - incidence) ** ratio
    u = rng.random(women)
    # Given the outcome happens, F(t) / F(∞) = u is solved for t, where F(t) = 1 - (1 - p (1 -
    # exp(-t)))^ratio.
    outcome = -np.log1p(-(1 - (1 - u * ever) ** (1 / ratio)) / incidence)
    death = rng.exponential(1.0, women) / np.exp(-0.5 * z[:, 0])
    happens = rng.random(women) < ever
    left = rng.uniform(0.0, censored_by, women)
    ended = np.where(happens, outcome, death)
    event = np.where(left < ended, 0, np.where(happens, 1, 2))
    return np.minimum(ended, left), event, {f"z{i}": z[:, i] for i in range(len(log_ratios))}


def _area_mm2(rng: np.random.Generator, age: np.ndarray, confounding: float) -> np.ndarray:
    """Zero for most; the others' areas are log-normal, so that about 10 % are mild, 6 % moderate
    and 4 % severe.
    """
    present = rng.random(len(age)) < 1 / (1 + np.exp(1.65 - confounding * (age - 57.0)))
    return np.where(present, rng.lognormal(2.2 + 0.02 * (age - 57.0), 1.0, len(age)), 0.0)


def _weibull(
    rng: np.random.Generator, rate: float, shape: float, log_hazard: np.ndarray
) -> np.ndarray:
    """Times with the cumulative hazard rate · t^shape · exp(log_hazard)."""
    return (rng.exponential(1.0, len(log_hazard)) / (rate * np.exp(log_hazard))) ** (1 / shape)
