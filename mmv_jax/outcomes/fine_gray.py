"""Fine and Gray's model of an outcome that death competes with. Axes: N women, P covariates, T
distinct times of the outcome.

The coefficients are surpyval's. Its standard errors are those of the inverse information, which
take the censoring weights as known; here they are Fine and Gray's own, as R's `cmprsk::crr` gives
them.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cox import Effect, effect

LARGEST_RANGE = 600.0  # of log hazards: beyond, their exponentials leave what a float can hold


@dataclass(frozen=True)
class FineGray:
    """A fitted model: `hazard` is the cumulative baseline subdistribution hazard of a woman at the
    covariates' means.
    """

    names: tuple[str, ...]
    log_ratios: Float[np.ndarray, "P"]
    covariance: Float[np.ndarray, "P P"]
    means: Float[np.ndarray, "P"]
    time: Float[np.ndarray, "T"]
    hazard: Float[np.ndarray, "T"]
    women: int
    outcomes: int

    def effects(self) -> dict[str, Effect]:
        errors = np.sqrt(np.diag(self.covariance))
        return {
            name: effect(name, value, error, women=self.women, outcomes=self.outcomes)
            for name, value, error in zip(self.names, self.log_ratios, errors)
        }

    def score(self, x: Mapping[str, Float[np.ndarray, "N"]]) -> Float[np.ndarray, "N"]:
        """The log subdistribution hazard relative to a woman at the covariates' means."""
        return (np.stack([x[name] for name in self.names], axis=1) - self.means) @ self.log_ratios

    def risk(self, x: Mapping[str, Float[np.ndarray, "N"]], years: float) -> Float[np.ndarray, "N"]:
        """The predicted probability of the outcome within `years`, in the presence of competing
        deaths.
        """
        at = np.searchsorted(self.time, years, side="right")
        hazard = self.hazard[at - 1] if at else 0.0
        return -np.expm1(-hazard * np.exp(self.score(x)))


def fine_gray(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    x: Mapping[str, Float[np.ndarray, "N"]],
) -> FineGray:
    """Subdistribution hazard ratios of outcome 1, where 2 competes and 0 is censored.

    Source: Fine and Gray, J Am Stat Assoc 1999, the weighted estimating equation; ties as Breslow,
      an outcome before a censoring of the same time.
    Raises:
      UserError: the model does not converge, or surpyval is not installed.
    """
    z = np.stack(list(x.values()), axis=1)
    means = z.mean(axis=0)
    z = z - means
    log_ratios = _fit(time, event, z, tuple(x))
    sums = _RiskSets(time, event, z, log_ratios)
    bread = np.linalg.inv(sums.information())
    scores = sums.scores()
    covariance = bread @ (scores.T @ scores) @ bread
    return FineGray(
        names=tuple(x),
        log_ratios=log_ratios,
        covariance=covariance,
        means=means,
        time=sums.at,
        hazard=np.cumsum(sums.step),
        women=len(time),
        outcomes=int(np.sum(event == 1)),
    )


def censoring_survival(
    time: Float[np.ndarray, "N"], event: Int[np.ndarray, "N"], when: Float[np.ndarray, "W"]
) -> Float[np.ndarray, "W"]:
    """G(t-): the probability of not being censored before each time of `when` (Kaplan–Meier of the
    censoring).
    """
    times, place = np.unique(time, return_inverse=True)
    at_risk = np.bincount(place)[::-1].cumsum()[::-1]
    survival = np.concatenate(
        [[1.0], np.cumprod(1 - np.bincount(place[event == 0], minlength=len(times)) / at_risk)]
    )
    return survival[np.searchsorted(times, when, side="left")]


def _fit(time, event, z, names) -> np.ndarray:
    try:
        import surpyval
    except ImportError as error:
        raise UserError(
            "Fine–Gray models need surpyval: pip install 'mmv_jax[survival]'."
        ) from error
    labels = np.array([None, 1, 2], dtype=object)[event]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what surpyval warns of here stands in `maximum`
        fit = surpyval.FineGray.fit(time, z, labels, event=1, center=True)
    if fit.maximum != "verified" or not np.isfinite(fit.beta).all():
        raise UserError(
            f"The Fine–Gray model of {', '.join(names)} does not converge: a covariate separates"
            " the outcomes. Adjust for fewer."
        )
    if np.ptp(z @ fit.beta) > LARGEST_RANGE:
        raise UserError(
            f"The Fine–Gray model of {', '.join(names)} has women far outside the others. Correct"
            " such a covariate, or give its logarithm."
        )
    return np.asarray(fit.beta, float)


class _RiskSets:
    """Sums over the weighted risk sets. A woman is at risk until her own time; one who died of
    another cause at T stays, with weight G(t-) / G(T-).

    All sums over pairs (woman, time) come from cumulative sums along the sorted times, so the work
    is that of sorting.
    """

    def __init__(self, time, event, z, log_ratios):
        order = np.argsort(time, kind="stable")
        self.order, self.time, self.event, self.z = order, time[order], event[order], z[order]
        self.risk = np.exp(self.z @ log_ratios)
        self.at, outcomes = np.unique(self.time[self.event == 1], return_counts=True)
        self.g = censoring_survival(time, event, self.at)
        died = self.event == 2
        # 1 / G(T-) of those who stay
        self.kept = np.where(died, 1 / censoring_survival(time, event, self.time), 0.0) * died
        first = np.searchsorted(self.time, self.at, side="left")
        s0 = self._weighted(self.risk, first)
        self.mean = self._weighted(self.risk[:, None] * self.z, first) / s0[:, None]
        self.step = outcomes / s0
        self.outcomes = outcomes
        # outcomes' times up to and with the woman's own
        self.until = np.searchsorted(self.at, self.time, side="right")

    def _weighted(self, values, first):
        """Sum over women of weight × values, at each outcome's time."""
        own = _from_zero(values[::-1])[::-1][first]  # all whose time is not before
        kept = self.kept if values.ndim == 1 else self.kept[:, None]
        g = self.g if values.ndim == 1 else self.g[:, None]
        return own + g * _from_zero(values * kept)[first]

    def _integrals(self, step):
        """Per woman: the integral of her weight against `step` over time."""
        own, weighted = (
            _from_zero(step),
            _from_zero(step * (self.g if step.ndim == 1 else self.g[:, None])),
        )
        kept = self.kept if step.ndim == 1 else self.kept[:, None]
        return own[self.until] + kept * (weighted[-1] - weighted[self.until])

    def information(self):
        expected = self.risk * self._integrals(self.step)
        return (self.z * expected[:, None]).T @ self.z - (
            self.mean * self.outcomes[:, None]
        ).T @ self.mean

    def scores(self):
        """Each woman's influence on the score [N, P]: her own part, and that through the estimated
        censoring weights.
        """
        expected = self.risk * self._integrals(self.step)
        own = (
            self.risk[:, None] * self._integrals(self.mean * self.step[:, None])
            - expected[:, None] * self.z
        )
        had = np.flatnonzero(self.event == 1)
        own[had] += self.z[had] - self.mean[self.until[had] - 1]
        return own + self._through_censoring()

    def _through_censoring(self):
        """The integral of q(u) / π(u) over the woman's censoring martingale, of which only deaths
        of other causes before u make q.
        """
        times, place = np.unique(self.time, return_inverse=True)
        at_risk = np.bincount(place)[::-1].cumsum()[::-1]
        censored = np.bincount(place[self.event == 0], minlength=len(times))
        until = np.searchsorted(self.time, times, side="left")  # deaths before u
        later = np.searchsorted(self.at, times, side="left")  # outcomes from u on
        weight = self.risk * self.kept
        zsum, wsum = _from_zero(weight[:, None] * self.z)[until], _from_zero(weight)[until]
        step = self.g * self.step
        left, left_mean = (
            sums[-1] - sums[later]
            for sums in (_from_zero(step), _from_zero(step[:, None] * self.mean))
        )
        ratio = (zsum * left[:, None] - wsum[:, None] * left_mean) / at_risk[:, None]
        compensator = np.cumsum(ratio * (censored / at_risk)[:, None], axis=0)
        return np.where((self.event == 0)[:, None], ratio[place], 0.0) - compensator[place]


def _from_zero(values):
    """Cumulative sums along the first axis, with the empty sum before them."""
    return np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
