"""Estimators against R, by printed values and, where R is installed, by R itself.

The 80 women of `test_published` (times in whole years, so ties of every kind), of whom some come
under observation late. R 4.2.2 with survival 3.5-3 and cmprsk 2.2-11 (Debian: r-base-core,
r-cran-survival, r-cran-cmprsk).
"""

import csv
import shutil
import subprocess

import numpy as np
import pytest
from test_published import EVENT, GROUP, TIME, Z, digits, numbers

from mmv_jax.outcomes.cox import cox
from mmv_jax.outcomes.discrimination import uno_concordance
from mmv_jax.outcomes.fine_gray import fine_gray
from mmv_jax.outcomes.gray import gray
from mmv_jax.outcomes.spline import restricted_cubic
from mmv_jax.outcomes.survival import (
    cumulative_incidence,
    kaplan_meier,
    log_rank,
    median_follow_up,
    restricted_mean,
)

T, E, G, X = numbers(TIME), digits(EVENT), digits(GROUP).astype(float), numbers(Z)
N = np.arange(len(T))
LATE = np.where(N % 2 == 0, 0.0, np.floor(T / 3))  # entry, before every woman's own time
THIRD = N % 3
# without ties, where the conventions of programs for ties differ
APART = T + ((N + 1) * 37 % 80) / 1000
LATE_APART = np.where(LATE > 0, LATE + ((N + 1) * 29 % 80) / 1700, 0.0)
KNOTS = np.array([-0.9, -0.1, 0.6, 1.3])
WHEN = [2, 5, 10, 15]

SCRIPT = r"""
suppressMessages({library(survival); library(cmprsk)})
d <- read.csv("women.csv"); d$id <- seq_len(nrow(d))
out <- function(name, x) cat(name, format(as.vector(x), digits=12), "\n")
f <- coxph(Surv(late, time, event==1) ~ g + x, d)
out("cox_entry", c(coef(f), vcov(f)[c(1, 2, 4)], f$loglik[2]))
out("zph_entry", cox.zph(f, transform="km")$table[,1])
s <- summary(survfit(Surv(late, time, event==1) ~ 1, d, conf.type="log-log"), times=c(2,5,10,15))
out("km_entry", c(s$surv, s$lower, s$upper))
s <- summary(survfit(Surv(late, time, factor(event,0:2)) ~ 1, d, id=id), times=c(2,5,10,15))
out("aj_entry", s$pstate[,2])
mean_of <- function(y) survival:::survmean(survfit(y ~ 1), rmean=9)$matrix[c("rmean","se(rmean)")]
out("mean", with(d, mean_of(Surv(time, event==1))))
out("mean_entry", with(d, mean_of(Surv(late, time, event==1))))
q <- quantile(survfit(Surv(time, event==0) ~ 1, d, conf.type="log-log"), 0.5)
out("follow_up", c(q$quantile, q$lower))
out("gray", c(cuminc(d$time, d$event, d$third)$Tests[,1], cuminc(d$time, d$event, d$g)$Tests[,1]))
out("log_rank", survdiff(Surv(time, event==1) ~ third, d)$chisq)
f <- coxph(Surv(time, event==1) ~ splines::ns(x, knots=c(-0.1,0.6), Boundary.knots=c(-0.9,1.3)) + g,
           d)
out("spline", c(f$loglik[2], coef(f)["g"], sqrt(vcov(f)["g","g"])))
out("zph_spline", cox.zph(f, transform="km")$table[,1])
w <- finegray(Surv(late_apart, apart, factor(event,0:2)) ~ ., data=d, id=id)
f <- coxph(Surv(fgstart, fgstop, fgstatus) ~ g + x, w, weights=fgwt, ties="breslow", cluster=id)
out("fine_gray_entry", c(coef(f), f$var[c(1, 2, 4)]))
"""

PRINTED = {
    "cox_entry": [0.8262347142, 0.2613656927, 0.117429719624, 0.004519181133, 0.022347780057]
    + [-137.8667498],
    "zph_entry": [0.01753832412, 0.48049287120, 0.48459701810],
    "km_entry": [0.7168831169, 0.5179902925, 0.3472841799, 0.1543485244]
    + [0.58523811612, 0.38541547852, 0.21693690950, 0.05448225648]
    + [0.8131916733, 0.6351889951, 0.4809656430, 0.3012363118],
    "aj_entry": [0.2603896104, 0.4090364518, 0.5088690528, 0.6081239797],
    "mean": [5.9351401586, 0.3777942549],
    "mean_entry": [5.5473367385, 0.4131307505],
    "follow_up": [17, 8],
    "gray": [0.8958988759, 0.8871618444, 7.015029234197, 4.843002679776],
    "log_rank": [0.693302311],
    "spline": [-142.609759473, 0.926954223875, 0.361103871249],
    "zph_spline": [1.5244071884550, 0.0205412031512, 1.5245185249574],
    "fine_gray_entry": [0.818477089156, 0.132259129624]
    + [0.10933655915902, 0.00619693546563, 0.02696216061907],
}


def ours():
    x = {"g": G, "x": X}
    late = cox(T, E == 1, x, entry=LATE)
    curve = kaplan_meier(T, E == 1, entry=LATE)
    at = np.searchsorted(curve.time, WHEN, side="right") - 1
    bent = cox(T, E == 1, restricted_cubic("x", X, KNOTS) | {"g": G})
    weighted = fine_gray(APART, E, x, entry=LATE_APART)
    means = [restricted_mean(T, E == 1, 9.0, entry=entry) for entry in (None, LATE)]
    swapped = np.array([0, 2, 1])[E]
    return {
        "cox_entry": [*late.log_ratios, *late.covariance.ravel()[[0, 1, 3]], late.log_likelihood],
        "zph_entry": [test.chi2 for test in late.proportionality],
        "km_entry": [*curve.value[at], *curve.low[at], *curve.high[at]],
        "aj_entry": cumulative_incidence(T, E, entry=LATE).at(np.array(WHEN, float)),
        "mean": [means[0].value, means[0].error],
        "mean_entry": [means[1].value, means[1].error],
        "follow_up": median_follow_up(T, E)[:2],
        "gray": [gray(T, codes, of).chi2 for of in (THIRD, G) for codes in (E, swapped)],
        "log_rank": [log_rank(T, E == 1, THIRD).chi2],
        "spline": [bent.log_likelihood, bent.log_ratios[-1], np.sqrt(bent.covariance[-1, -1])],
        "zph_spline": [test.chi2 for test in bent.proportionality],
        "fine_gray_entry": [*weighted.log_ratios, *weighted.covariance.ravel()[[0, 1, 3]]],
    }


def test_the_estimators_equal_what_r_printed():
    found = ours()
    assert set(found) == set(PRINTED)
    for name, printed in PRINTED.items():
        np.testing.assert_allclose(found[name], printed, rtol=1e-6, err_msg=name)


def test_r_prints_this(tmp_path):
    """The printed values are those of the R that is installed."""
    if not shutil.which("Rscript"):
        pytest.skip("R is not installed")
    columns = {"time": T, "event": E, "g": G, "x": X, "late": LATE, "third": THIRD}
    columns |= {"apart": APART, "late_apart": LATE_APART}
    with open(tmp_path / "women.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*(c.tolist() for c in columns.values()))])
    (tmp_path / "women.R").write_text(SCRIPT)
    ran = subprocess.run(
        ["Rscript", "--vanilla", "women.R"], cwd=tmp_path, capture_output=True, text=True
    )
    if "there is no package" in ran.stderr:
        pytest.skip("R lacks survival or cmprsk")
    lines = [line.split() for line in ran.stdout.splitlines()]
    found = {line[0]: [float(word) for word in line[1:]] for line in lines}
    assert set(found) == set(PRINTED), ran.stderr
    for name, printed in PRINTED.items():
        np.testing.assert_allclose(found[name], printed, rtol=1e-6, err_msg=name)


def test_unos_c_is_the_weighted_share_of_pairs():
    """scikit-survival 0.28: concordance_index_ipcw(y, y, x, tau=10.0001)[0] of the times apart."""
    value = uno_concordance(APART, (E == 1).astype(int), X, 10.0).value
    assert value == pytest.approx(0.5439044501494885, abs=1e-12)


def test_unos_c_with_ties_by_loops():
    outcome, won, pairs = E == 1, 0.0, 0.0
    for i in np.flatnonzero(outcome & (T <= 8)):
        free = 1.0
        for u in np.unique(T[E == 0]):
            if u < T[i]:
                followed = u <= T
                free *= 1 - np.sum((u == T) & (E == 0)) / followed.sum()
        for j in range(len(T)):
            ends = np.inf if E[j] == 2 else T[j]
            if ends > T[i] or (ends == T[i] and E[j] == 0):
                pairs += 1 / free**2
                won += ((X[i] > X[j]) + 0.5 * (X[i] == X[j])) / free**2
    assert uno_concordance(T, E, X, 8.0).value == pytest.approx(won / pairs, abs=1e-12)


def test_what_lifelines_has_equals_lifelines():
    lifelines = pytest.importorskip("lifelines")
    from lifelines.statistics import multivariate_logrank_test

    survival = lifelines.KaplanMeierFitter().fit(T, E == 1).survival_function_.iloc[:, 0]
    curve = kaplan_meier(T, E == 1)
    np.testing.assert_allclose(survival.to_numpy(), curve.value, rtol=1e-12)
    expected = multivariate_logrank_test(T, THIRD, E == 1).test_statistic
    assert log_rank(T, E == 1, THIRD).chi2 == pytest.approx(expected, rel=1e-10)
