"""How often do the 95 % intervals hold the truth? Simulated cohorts, analysed as a real one would
be.

python -c "from mmv_jax.outcomes.coverage import *; print(cox_coverage(200, 10_000));
print(fine_gray_coverage(300, 600))"
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmv_jax.outcomes.cohort import SEVERITIES, Cohort, severity
from mmv_jax.outcomes.cox import Z95, Cox, cox
from mmv_jax.outcomes.fine_gray import fine_gray
from mmv_jax.outcomes.simulate import (
    ADJUST,
    HAZARD_RATIOS,
    simulate_cohort,
    simulate_subdistribution,
)

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
