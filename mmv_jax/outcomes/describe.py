"""Description of a cohort's women by severity, for the first table of a paper. Axis: N women."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmv_jax.outcomes.cohort import Cohort


@dataclass(frozen=True)
class Described:
    """Summary of a covariate.

    It is the mean and standard deviation of a number, or the count and share of 0/1.
    """

    binary: bool
    first: float
    second: float


@dataclass(frozen=True)
class Group:
    """Women of one severity; the area is described by its quartiles."""

    name: str
    women: int
    outcomes: int
    deaths: int
    woman_years: float
    area_mm2: tuple[float, float, float]
    covariates: Mapping[str, Described]


def group_of(cohort: Cohort, mine: np.ndarray, name: str, covariates: Sequence[str]) -> Group:
    """Description of the women in the mask `mine`."""
    described = {
        column: _described(cohort.column(column), mine)
        for column in dict.fromkeys(("age", *covariates))
    }
    event = cohort.event[mine]
    low, middle, high = np.quantile(cohort.area_mm2[mine], (0.25, 0.5, 0.75)).tolist()
    years = float(cohort.time_years[mine].sum())
    return Group(
        name=name,
        women=int(mine.sum()),
        outcomes=int(np.sum(event == 1)),
        deaths=int(np.sum(event == 2)),
        woman_years=years,
        area_mm2=(low, middle, high),
        covariates=described,
    )


def _described(values: np.ndarray, mine: np.ndarray) -> Described:
    # Decided on all women: within a small group a number may happen to be only 0 and 1.
    if np.isin(values, (0, 1)).all():
        return Described(True, float(values[mine].sum()), float(values[mine].mean()))
    return Described(
        False,
        float(values[mine].mean()),
        float(values[mine].std(ddof=1)) if mine.sum() > 1 else 0.0,
    )
