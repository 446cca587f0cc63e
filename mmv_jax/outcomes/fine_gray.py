"""Fine and Gray's model of an outcome with competing death.

Axes: N women, P covariates, T distinct times of the outcome. It is our own; the tests compare it
with surpyval, comprisk and R. Surpyval has no delayed entry, and its standard errors take the
censoring weights as known. Here they are Fine and Gray's own, as in R's `cmprsk::crr`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.errors import UserError
from mmv_jax.outcomes.cox import Effect, effect
from mmv_jax.outcomes.newton import maximum


@dataclass(frozen=True)
class FineGray:
    """Fitted Fine–Gray model.

    Attributes:
      hazard: cumulative baseline subdistribution hazard at each `time`, of a woman at the
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
        """Subdistribution hazard ratio of each covariate."""
        errors = np.sqrt(np.diag(self.covariance))
        return {
            name: effect(name, value, error, women=self.women, outcomes=self.outcomes)
            for name, value, error in zip(self.names, self.log_ratios, errors)
        }

    def score(self, x: Mapping[str, Float[np.ndarray, "N"]]) -> Float[np.ndarray, "N"]:
        """Log subdistribution hazard relative to a woman at the covariates' means."""
        return (np.stack([x[name] for name in self.names], axis=1) - self.means) @ self.log_ratios

    def risk(self, x: Mapping[str, Float[np.ndarray, "N"]], years: float) -> Float[np.ndarray, "N"]:
        """Predicted probability of the outcome within `years`, under competing death."""
        at = np.searchsorted(self.time, years, side="right")
        hazard = self.hazard[at - 1] if at else 0.0
        # 1 - exp(-H) by expm1, which keeps the digits of small risks.
        return -np.expm1(-hazard * np.exp(self.score(x)))


def fine_gray(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    x: Mapping[str, Float[np.ndarray, "N"]],
    *,
    entry: Float[np.ndarray, "N"] | None = None,
) -> FineGray:
    """Fine–Gray model fitted by Newton's method on the weighted partial likelihood.

    Args:
      time: years to the event or the end of follow-up.
      event: 0 censored, 1 outcome, 2 competing death.
      entry: when each woman came under observation. A woman who died of another cause then keeps
        the weight of those who would have entered by then and not been censored. The standard
        errors take these weights as known.
    Raises:
      UserError: a covariate is constant, or the model does not converge.
    Source: Fine and Gray, J Am Stat Assoc 1999, the weighted estimating equation; ties as Breslow,
    an outcome before a censoring of the same time. Delayed entry: Geskus, Biometrics 2011, as R's
    `survival::finegray`.
    """
    z = np.stack(list(x.values()), axis=1)
    means, scale = z.mean(axis=0), z.std(axis=0)
    if not scale.all():
        raise UserError(
            f"The Fine–Gray model of {', '.join(x)} has a covariate that is the same for all."
            " Adjust for fewer."
        )
    # `maximum` needs standard deviations of 1. Centring makes the baseline that of the means.
    sets = _RiskSets(time, event, (z - means) / scale, entry)
    beta, state = maximum(sets.at, len(scale))
    if state is None:
        raise UserError(
            f"The Fine–Gray model of {', '.join(x)} does not converge: a covariate separates the"
            " outcomes, or has values far outside the others. Correct it, or adjust for fewer."
        )
    # Sandwich A⁻¹ B A⁻¹: censoring weights are estimated, so A⁻¹ alone is not the variance.
    bread = np.linalg.inv(state.information())
    scores = state.scores()
    covariance = bread @ (scores.T @ scores) @ bread / np.outer(scale, scale)
    log_ratios = beta / scale
    return FineGray(
        names=tuple(x),
        log_ratios=log_ratios,
        covariance=covariance,
        means=means,
        time=sets.at_times,
        hazard=np.cumsum(state.step),
        women=len(time),
        outcomes=int(np.sum(event == 1)),
    )


def censoring_survival(
    time: Float[np.ndarray, "N"],
    event: Int[np.ndarray, "N"],
    when: Float[np.ndarray, "W"],
    *,
    entry: Float[np.ndarray, "N"] | None = None,
) -> Float[np.ndarray, "W"]:
    """G(t-): probability of not being censored before each time of `when`.

    It is the Kaplan–Meier estimate of the censoring.
    """
    times, place = np.unique(time, return_inverse=True)
    at_risk = np.bincount(place)[::-1].cumsum()[::-1]
    if entry is not None:
        # side="left": a woman who enters at a time is not yet at risk at that time.
        late = np.sort(entry[entry > 0])
        at_risk = at_risk - (len(late) - np.searchsorted(late, times, side="left"))
    censored = np.bincount(place[event == 0], minlength=len(times))
    survival = np.concatenate([[1.0], np.cumprod(1 - censored / at_risk)])
    # side="left" and the 1 in front give G(t-): a tied outcome came before the censoring.
    return survival[np.searchsorted(times, when, side="left")]


def entered_before(
    time: Float[np.ndarray, "N"], entry: Float[np.ndarray, "N"], when: Float[np.ndarray, "W"]
) -> Float[np.ndarray, "W"]:
    """H(t-): probability of having come under observation before each time of `when`.

    It is Kaplan–Meier in reversed time: of those followed beyond s, some entered at s.
    """
    times, arrived = np.unique(entry[entry > 0], return_counts=True)
    # In reversed time a woman is at risk from her own time down to her entry.
    followed = np.searchsorted(np.sort(entry), times, side="right") - np.searchsorted(
        np.sort(time), times, side="right"
    )
    # probability that nobody enters from here on
    later = np.cumprod((1 - arrived / followed)[::-1])[::-1]
    return np.concatenate([later, [1.0]])[np.searchsorted(times, when, side="left")]


class _RiskSets:
    """Weighted risk sets of Fine and Gray.

    A woman is at risk from her entry until her own time. One who died of another cause at T stays,
    with weight G(t-) H(t-) / (G(T-) H(T-)). Sums over pairs (woman, time) come from cumulative sums
    along the sorted times, so the cost is that of sorting.
    """

    def __init__(self, time, event, z, entry=None):
        order = np.argsort(time, kind="stable")
        self.time, self.event, self.z = time[order], event[order], z[order]
        self.at_times, self.outcomes = np.unique(self.time[self.event == 1], return_counts=True)
        late = entry is not None and bool(entry.any())
        self.g = censoring_survival(time, event, self.at_times, entry=entry if late else None)
        died = self.event == 2
        own = censoring_survival(time, event, self.time, entry=entry if late else None)
        if late:
            self.g = self.g * entered_before(time, entry, self.at_times)
            own = own * entered_before(time, entry, self.time)
        # Weight of those who stay. The inner `where` avoids a division by 0 for women whose value
        # is unused.
        self.kept = np.where(died, 1 / np.where(died, own, 1.0), 0.0)
        self.first = np.searchsorted(self.time, self.at_times, side="left")
        # number of outcome times up to and including the woman's own
        self.until = np.searchsorted(self.at_times, self.time, side="right")
        self.entry = entry[order] if late else None
        if late:
            # Only those who enter after 0: the others are at risk at 0 too.
            some = np.flatnonzero(self.entry > 0)
            self.by_entry = some[np.argsort(-self.entry[some], kind="stable")]
            self.outside = np.searchsorted(-self.entry[self.by_entry], -self.at_times, side="right")
            since = np.searchsorted(self.at_times, self.entry, side="right")
            self.since = np.where(self.entry > 0, since, 0)

    def at(self, beta):
        """Likelihood state at `beta`."""
        return _FineGrayState(self, beta)

    def weighted(self, values):
        """Sum over women of weight × values, at the time of each outcome."""
        own = _from_zero(values[::-1])[::-1][self.first]  # all whose time is this one or later
        if self.entry is not None:
            own = own - _from_zero(values[self.by_entry])[self.outside]
        # A death at exactly this time is still in `own`, so only earlier deaths are added here.
        kept, g = (_column(x, values) for x in (self.kept, self.g))
        return own + g * _from_zero(values * kept)[self.first]

    def integrals(self, step):
        """Integral of each woman's weight against `step` over time."""
        own, weighted = _from_zero(step), _from_zero(step * _column(self.g, step))
        # Weight 1 until her own time; after a competing death, kept · G(t-) H(t-).
        mine = own[self.until] - (own[self.since] if self.entry is not None else 0.0)
        return mine + _column(self.kept, step) * (weighted[-1] - weighted[self.until])


class _FineGrayState:
    """Weighted likelihood and its derivatives at one `beta`."""

    def __init__(self, sets, beta):
        self.sets = sets
        linear = sets.z @ beta
        # The largest exponent becomes 0, so exp cannot overflow.
        shift = linear.max()
        risk = np.exp(linear - shift)
        s0 = sets.weighted(risk)
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.log(s0)
            self.log_likelihood = float(
                np.sum(linear[sets.event == 1] - shift) - np.sum(sets.outcomes * logs)
            )
        self.mean = sets.weighted(risk[:, None] * sets.z) / s0[:, None]
        # Undo the shift: `step` is the increment of the baseline hazard that a fit returns.
        self.risk = risk * np.exp(shift)
        self.step = sets.outcomes / (s0 * np.exp(shift))

    def score(self):
        """Gradient of the weighted log likelihood, [P]."""
        sets = self.sets
        return sets.z[sets.event == 1].sum(axis=0) - sets.outcomes @ self.mean

    def information(self):
        """Negative second derivative of the weighted log likelihood, [P, P]."""
        sets = self.sets
        expected = self.risk * sets.integrals(self.step)
        return (sets.z * expected[:, None]).T @ sets.z - (
            self.mean * sets.outcomes[:, None]
        ).T @ self.mean

    def scores(self):
        """Each woman's influence on the score [N, P].

        It has her own part, and the part through the estimated censoring weights.
        """
        sets = self.sets
        expected = self.risk * sets.integrals(self.step)
        own = (
            self.risk[:, None] * sets.integrals(self.mean * self.step[:, None])
            - expected[:, None] * sets.z
        )
        had = np.flatnonzero(sets.event == 1)
        # `until - 1` is the index of her own outcome time.
        own[had] += sets.z[had] - self.mean[sets.until[had] - 1]
        return own if sets.entry is not None else own + self._through_censoring()

    def _through_censoring(self):
        """Integral of q(u) / π(u) over each woman's censoring martingale.

        Only deaths of other causes before u contribute to q.
        """
        sets = self.sets
        times, place = np.unique(sets.time, return_inverse=True)
        at_risk = np.bincount(place)[::-1].cumsum()[::-1]
        censored = np.bincount(place[sets.event == 0], minlength=len(times))
        until = np.searchsorted(sets.time, times, side="left")  # deaths before u
        later = np.searchsorted(sets.at_times, times, side="left")  # outcomes from u on
        # q(u) = Σ w_i(t) (z_i - mean(t)) step(t), over deaths i before u and outcomes t from u.
        weight = self.risk * sets.kept
        zsum, wsum = _from_zero(weight[:, None] * sets.z)[until], _from_zero(weight)[until]
        step = sets.g * self.step
        left, left_mean = (
            sums[-1] - sums[later]
            for sums in (_from_zero(step), _from_zero(step[:, None] * self.mean))
        )
        ratio = (zsum * left[:, None] - wsum[:, None] * left_mean) / at_risk[:, None]
        # Martingale of the censoring: her own jump, minus the expected part up to her time.
        compensator = np.cumsum(ratio * (censored / at_risk)[:, None], axis=0)
        return np.where((sets.event == 0)[:, None], ratio[place], 0.0) - compensator[place]


def _column(values, like):
    """Values, shaped to multiply the rows of `like`."""
    return values if like.ndim == 1 else values[:, None]


def _from_zero(values):
    """Cumulative sums along the first axis, starting with the empty sum."""
    return np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
