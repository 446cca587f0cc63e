"""Cox's model with Efron's ties, and the test that its hazards are proportional. Axes: N women, P
covariates, E outcomes.

Our own, with lifelines as the oracle in the tests: on 116,135 women lifelines takes 8 s a fit and
36 s a test, and its Newton steps, which are never halved, do not converge on areas in mm², whose
distribution has a long tail.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from mmv_jax.errors import UserError

Z95 = float(stats.norm.ppf(0.975))
# a model that has a maximum needs about six; where a coefficient has none, each step only moves it
# further
MOST_STEPS = 25
DECREMENT = 1e-12  # twice what the log likelihood could still gain
# in standard deviations of the covariate: beyond, the likelihood is flat because it rises without
# end
LARGEST_ERROR = 100.0


@dataclass(frozen=True)
class Effect:
    """A hazard ratio: one line of a forest plot. `women` and `outcomes` are those of the model."""

    name: str
    hazard_ratio: float
    ci95: tuple[float, float]
    p: float
    women: int
    outcomes: int


def effect(name: str, coefficient: float, error: float, *, women: int, outcomes: int) -> Effect:
    """A hazard ratio from its logarithm and the standard error of that (Wald)."""
    low, high = np.exp([coefficient - Z95 * error, coefficient + Z95 * error])
    p = float(2 * stats.norm.sf(abs(coefficient / error)))
    return Effect(
        name=name,
        hazard_ratio=float(np.exp(coefficient)),
        ci95=(float(low), float(high)),
        p=p,
        women=women,
        outcomes=outcomes,
    )


@dataclass(frozen=True)
class Proportionality:
    """Does the hazard ratio of a covariate change with time? A small p says yes. `global` is the
    test of all at once.
    """

    name: str
    chi2: float
    df: int
    p: float


@dataclass(frozen=True)
class Cox:
    """A fitted model: one unit more of covariate `names[i]` multiplies the hazard by
    exp(log_ratios[i]).
    """

    names: tuple[str, ...]
    log_ratios: Float[np.ndarray, "P"]
    covariance: Float[np.ndarray, "P P"]
    log_likelihood: float
    women: int
    outcomes: int
    proportionality: tuple[Proportionality, ...]

    def effects(self) -> dict[str, Effect]:
        errors = np.sqrt(np.diag(self.covariance))
        return {
            name: effect(name, value, error, women=self.women, outcomes=self.outcomes)
            for name, value, error in zip(self.names, self.log_ratios, errors)
        }


def cox(
    time: Float[np.ndarray, "N"],
    outcome: Bool[np.ndarray, "N"],
    x: Mapping[str, Float[np.ndarray, "N"]],
) -> Cox:
    """Maximises the partial likelihood by Newton's method, halving a step that would lower it.

    Cost: that of sorting, and N P² a step.
    Raises:
      UserError: there is no maximum: a covariate separates those with the outcome from the others.
    """
    columns = np.stack(list(x.values()), axis=1)
    scale = columns.std(axis=0)
    if not scale.all():
        raise UserError(
            f"The Cox model of {', '.join(x)} has a covariate that is the same for all. Adjust for"
            " fewer."
        )
    likelihood = _Efron(time, outcome, (columns - columns.mean(axis=0)) / scale)
    beta = np.zeros(columns.shape[1])
    state = likelihood.at(beta)
    for _ in range(MOST_STEPS):
        try:
            step = np.linalg.solve(state.information(), state.score())
        except np.linalg.LinAlgError:
            break
        if state.score() @ step < DECREMENT:
            covariance = np.linalg.inv(state.information())
            if np.diag(covariance).max() > LARGEST_ERROR**2:
                break
            tests = _proportionality(tuple(x), state)
            return Cox(
                names=tuple(x),
                log_ratios=beta / scale,
                covariance=covariance / np.outer(scale, scale),
                log_likelihood=state.log_likelihood,
                women=len(time),
                outcomes=int(outcome.sum()),
                proportionality=tests,
            )
        following = likelihood.at(beta + step)
        while not following.log_likelihood > state.log_likelihood and np.abs(step).max() > 1e-12:
            step = step / 2
            following = likelihood.at(beta + step)
        beta, state = beta + step, following
    raise UserError(
        f"The Cox model of {', '.join(x)} does not converge: a covariate separates the outcomes."
        " Adjust for fewer."
    )


def _proportionality(names: tuple[str, ...], state: "_State") -> tuple[Proportionality, ...]:
    """Tests each log hazard ratio, and all, against a trend in 1 - S(t), the Kaplan–Meier curve of
    the cohort.

    The score test for an added covariate x · (1 - S(t)), where Grambsch and Therneau (Biometrika
    1994) took the covariates' variance to be the same at every outcome.
    Source: R's `survival::cox.zph` since version 3.0.
    """
    trend = state.data.risen - state.data.risen.mean()
    score = trend @ state.residuals()
    information, crossed, squared = (state.information(trend**power) for power in (0, 1, 2))
    of_score = squared - crossed @ np.linalg.solve(information, crossed)
    # One covariate's trend alone: the others keep their constant coefficients, so only the diagonal
    # counts. A covariate that varies among the women at risk of one outcome only has no trend: its
    # chi-square is 0.
    size = np.diag(squared)
    free = np.diag(of_score) > 1e-9 * size
    alone = np.where(free, score**2 / np.where(free, np.diag(of_score), 1.0), 0.0)
    normed = of_score / np.sqrt(np.outer(size, size) + np.finfo(float).tiny)
    df = int(np.linalg.matrix_rank(normed, tol=1e-9, hermitian=True))
    together = float(score @ np.linalg.pinv(of_score, rcond=1e-9, hermitian=True) @ score)
    found = [
        Proportionality(name, float(chi2), 1, float(stats.chi2.sf(chi2, 1)))
        for name, chi2 in zip(names, alone)
    ]
    return (
        *found,
        Proportionality("global", together, df, float(stats.chi2.sf(together, df)) if df else 1.0),
    )


class _Efron:
    """The risk sets of a cohort, latest time first, so that each is a prefix; the k-th of d tied
    outcomes faces k/d less of the tied.
    """

    def __init__(self, time, outcome, x):
        order = np.argsort(-time, kind="stable")
        self.time, self.x = time[order], x[order]
        self.events = np.flatnonzero(outcome[order])
        at = self.time[self.events]
        # of the women at risk at each outcome
        self.last = np.searchsorted(-self.time, -at, side="right") - 1
        _, self.first, self.tie, size = np.unique(
            -at, return_index=True, return_inverse=True, return_counts=True
        )
        self.share = (np.arange(len(at)) - self.first[self.tie]) / size[self.tie]
        self.size = size
        # the latest outcome that each woman was at risk of
        self.from_event = np.searchsorted(-at, -self.time, side="left")
        times, place = np.unique(time, return_inverse=True)
        at_risk = np.bincount(place)[::-1].cumsum()[::-1]
        survival = np.concatenate(
            [[1.0], np.cumprod(1 - np.bincount(place[outcome], minlength=len(times)) / at_risk)]
        )
        self.risen = 1 - survival[np.searchsorted(times, at)]  # 1 - S(t-) at each outcome

    def at(self, beta):
        return _State(self, beta)

    def tied(self, values):
        """Sums over the outcomes of one time, given back to each of them."""
        return np.add.reduceat(values, self.first, axis=0)[self.tie]


class _State:
    """The likelihood and its derivatives at one `beta`."""

    def __init__(self, data, beta):
        self.data = data
        linear = data.x @ beta
        shift = linear.max()
        self.risk = np.exp(linear - shift)
        self.total = np.cumsum(self.risk)[data.last] - data.share * data.tied(
            self.risk[data.events]
        )
        self.log_likelihood = float(np.sum(linear[data.events] - shift - np.log(self.total)))
        weighted = self.risk[:, None] * data.x
        sums = np.cumsum(weighted, axis=0)[data.last] - data.share[:, None] * data.tied(
            weighted[data.events]
        )
        self.mean = sums / self.total[:, None]

    def score(self):
        return np.sum(self.data.x[self.data.events] - self.mean, axis=0)

    def residuals(self):
        """Schoenfeld's, [E, P]; tied outcomes share one mean."""
        data = self.data
        return data.x[data.events] - data.tied(self.mean) / data.size[data.tie][:, None]

    def information(self, weight=1.0):
        """The sum over outcomes of weight × the covariates' variance in the risk set, [P, P]."""
        data = self.data
        each = weight / self.total
        # sums over this outcome and all earlier in time
        later = np.concatenate([np.cumsum(each[::-1])[::-1], [0.0]])
        expected = later[data.from_event]
        expected[data.events] -= data.tied(data.share * each)
        second = (data.x * (self.risk * expected)[:, None]).T @ data.x
        return second - (self.mean * (weight * np.ones(len(each)))[:, None]).T @ self.mean
