"""Curves, tests and models equal what R printed for public data sets, to the digits that were
printed.

`R`: the values that surpyval stores for R 4.3.3 with survival 3.5.8 and cmprsk 2.2.11 (MIT
  licence).
"""

import numpy as np
import pytest

from mmv_jax.outcomes.cox import cox
from mmv_jax.outcomes.discrimination import auc, concordance
from mmv_jax.outcomes.fine_gray import fine_gray
from mmv_jax.outcomes.survival import cumulative_incidence, kaplan_meier, log_rank


@pytest.fixture(scope="module")
def lung():
    pytest.importorskip("lifelines")
    from lifelines.datasets import load_lung

    table = load_lung()
    return {
        name: table[name].to_numpy(float) for name in ("time", "status", "age", "sex", "ph.ecog")
    }


@pytest.fixture(scope="module")
def lung_cox(lung):
    known = ~np.isnan(lung["ph.ecog"])
    x = {name: lung[name][known] for name in ("age", "sex", "ph.ecog")}
    return lung["time"][known], lung["status"][known] == 1, x


def test_kaplan_meier_of_lung(lung):
    """R: survfit(Surv(time, status) ~ 1, lung, conf.type = "log-log")."""
    curve = kaplan_meier(lung["time"], lung["status"] == 1)
    at = np.searchsorted(curve.time, [180, 364, 731], side="right") - 1
    np.testing.assert_allclose(
        curve.value[at], [0.721670653409762, 0.409241624460064, 0.106793629241113], rtol=1e-12
    )
    np.testing.assert_allclose(
        curve.low[at], [0.658304528445661, 0.338714269088323, 0.0606465536695675], rtol=1e-12
    )
    np.testing.assert_allclose(
        curve.high[at], [0.775314690716979, 0.478380767646914, 0.167753768217767], rtol=1e-12
    )


def test_log_rank_of_lung_by_sex(lung):
    """R: survdiff(Surv(time, status) ~ sex, lung)."""
    chi2, df, p = log_rank(lung["time"], lung["status"] == 1, lung["sex"])
    assert (chi2, df, p) == (
        pytest.approx(10.3267419548856, rel=1e-10),
        1,
        pytest.approx(0.00131116452035549, rel=1e-9),
    )


def test_cox_of_lung(lung_cox):
    """R: coxph(Surv(time, status) ~ age + sex + ph.ecog, lung), and cox.zph(fit, "km")."""
    fit = cox(*lung_cox)
    np.testing.assert_allclose(
        fit.log_ratios, [0.0110667645600735, -0.552612395703631, 0.463728475370428], rtol=1e-9
    )
    np.testing.assert_allclose(
        np.sqrt(np.diag(fit.covariance)),
        [0.00926741101370053, 0.167739053787264, 0.113577266161997],
        rtol=1e-9,
    )
    assert fit.log_likelihood == pytest.approx(-729.230121374862, rel=1e-12)
    chi2 = [test.chi2 for test in fit.proportionality]
    np.testing.assert_allclose(
        chi2, [0.18798767365229, 2.30543722740497, 2.05424877405441, 4.46365758875861], rtol=1e-9
    )
    assert fit.proportionality[-1].p == pytest.approx(0.215554945341796, rel=1e-9)


def test_concordance_of_lung(lung_cox):
    """Therneau, A Package for Survival Analysis in R: "Concordance= 0.637 (se = 0.025)"."""
    time, outcome, x = lung_cox
    score = np.stack(list(x.values()), axis=1) @ cox(time, outcome, x).log_ratios
    c = concordance(time, outcome.astype(int), score)
    assert round(c.value, 3) == 0.637
    assert round(np.sqrt(np.sum(c.influence**2)), 3) == 0.025


def test_cox_of_rossi():
    """Fox and Weisberg, Cox Proportional-Hazards Regression for Survival Data in R (appendix to An
    R Companion), after Allison.
    """
    pytest.importorskip("lifelines")
    from lifelines.datasets import load_rossi

    table = load_rossi()
    names = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
    fit = cox(
        table["week"].to_numpy(float),
        table["arrest"].to_numpy() == 1,
        {name: table[name].to_numpy(float) for name in names},
    )
    assert fit.log_ratios.round(5).tolist() == [
        -0.37942,
        -0.05744,
        0.31390,
        -0.14980,
        -0.43370,
        -0.08487,
        0.09150,
    ]
    assert np.sqrt(np.diag(fit.covariance)).round(5).tolist() == [
        0.19138,
        0.02200,
        0.30799,
        0.21222,
        0.38187,
        0.19576,
        0.02865,
    ]


def test_cox_of_gbsg2():
    """Everitt and Hothorn, A Handbook of Statistical Analyses Using R, chapter "Survival Analysis":
    coxph(Surv(time, cens) ~ ., data = GBSG2).

    The tumour grade is an ordered factor there: a linear and a quadratic contrast.
    """
    pytest.importorskip("lifelines")
    from lifelines.datasets import load_gbsg2

    table = load_gbsg2()
    grade = table["tgrade"].map({"I": 0, "II": 1, "III": 2}).to_numpy()
    x = {
        "horTh": table["horTh"] == "yes",
        "age": table["age"],
        "menostat": table["menostat"] == "Post",
        "tsize": table["tsize"],
    }
    x |= {
        "tgrade.L": np.array([-1, 0, 1])[grade] / np.sqrt(2),
        "tgrade.Q": np.array([1, -2, 1])[grade] / np.sqrt(6),
    }
    x |= {name: table[name] for name in ("pnodes", "progrec", "estrec")}
    fit = cox(
        table["time"].to_numpy(float),
        table["cens"].to_numpy() == 1,
        {name: np.asarray(values, float) for name, values in x.items()},
    )
    printed = [
        -0.3462784,
        -0.0094592,
        0.2584448,
        0.0077961,
        0.5512988,
        -0.2010905,
        0.0487886,
        -0.0022172,
        0.0001973,
    ]
    errors = [
        0.1290747,
        0.0093006,
        0.1834765,
        0.0039390,
        0.1898441,
        0.1219654,
        0.0074471,
        0.0005735,
        0.0004504,
    ]
    np.testing.assert_allclose(fit.log_ratios, printed, atol=6e-8)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), errors, atol=6e-8)


# The example of cmprsk itself (tests/test.R of version 2.2-12; R's RNGversion("1.6.2"),
# set.seed(2)): in order of time, each patient's event and three binary covariates, drawn once with
# R's generators. The model sees the order of the times only.
CMPRSK_EVENT = (
    "000212012212202100022112111112220211200111221012210222211222"
    "2001000012100002220102101011222012001"
)
CMPRSK_X = (
    "100100100101001111111111101100101010101101100110111011001110"
    "1000011001101111010000001101110110111",
    "100001001100010100100010100001101011101010111010000011001001"
    "0110000111111110001111101000101110110",
    "010011011011011000010011000010110111111100111011011101111000"
    "1110100010100111101011010010111101110",
)


def digits(text):
    return np.array(list(text), int)


def test_fine_gray_of_the_cmprsk_example():
    """cmprsk prints coefficients -0.29130 -0.06346 -0.47510 and standard errors 0.3698 0.3566
    0.3544.
    """
    event = digits(CMPRSK_EVENT)
    x = {f"cv{i}": digits(text).astype(float) for i, text in enumerate(CMPRSK_X)}
    fit = fine_gray(np.arange(1.0, len(event) + 1), event, x)
    assert [f"{value:.3e}" for value in fit.log_ratios] == [
        "-2.913e-01",
        "-6.346e-02",
        "-4.751e-01",
    ]
    assert np.sqrt(np.diag(fit.covariance)).round(4).tolist() == [0.3698, 0.3566, 0.3544]


# surpyval's fixture "competing": causes tied with each other and with censorings.
TIME = """
    2 3 6 3 1 5 1 5 2 5 8 15 5 2 2 1 6 2 7 5 9 1 1 4 2 1 17 3 23 7 7 3 2 2 5 5 15 4 9 15 1 4 6 2
    4 6 10 2 9 1 2 3 1 6
    1 4 1 1 5 2 1 2 14 19 17 3 2 11 6 1 1 1 6 5 3 4 5 8 7 2
"""
EVENT = "11021120120120120210021212110111112112112222012101111211020212120111112001111011"
GROUP = "11101101100011101111001010011000010100110011001111110011010100000111101001011101"
Z = """
    1.0 -.1 -.3 .7 .2 -1.3 .5 0 2.2 -.9 .7 .7 1.3 -1.2 .7 .8 -.2 .2 -1 -.8 -.3 1 .2 -.1 .6 .8 .5
    -.6 -2.4 -1 .7 -.4
    1.1 -.4 -.1 -.2 .6 .2 -.9 .3 -.6 -.6 0 1 -1 .9 -.7 -1.3 -.2 -1.4 1.5 -.2 -.4 .3 1.9 .5 .8
    -.5 1.8 -.3 .1 .7 -.2
    1.1 -1 1 .5 -.2 2.4 -.2 1.5 -1.4 -.9 1.3 -1.2 0 .6 1.7 .1 .2
"""


def numbers(text):
    return np.array(text.split(), float)


def test_cumulative_incidence_with_ties():
    """R: cuminc(x, cause, group); the interval is ours, its variance is R's."""
    of_group = digits(GROUP) == 0
    curve = cumulative_incidence(numbers(TIME)[of_group], digits(EVENT)[of_group])
    at = np.searchsorted(curve.time, [2, 5, 10, 15], side="right") - 1
    estimate = np.array(
        [0.113247863247863, 0.173076923076923, 0.318078979843686, 0.466166186754422]
    )
    variance = np.array(
        [0.00291781461653257, 0.00422353228156523, 0.00730037020759091, 0.00992505788614562]
    )
    np.testing.assert_allclose(curve.value[at], estimate, rtol=1e-12)
    on_log_log = (np.log(-np.log1p(-curve.high[at])) - np.log(-np.log1p(-curve.low[at]))) / (
        2 * 1.959963984540054
    )
    np.testing.assert_allclose(
        (on_log_log * (1 - estimate) * np.log1p(-estimate)) ** 2, variance, rtol=1e-9
    )


CAUSES = {
    "first": (
        (0, 1, 2),
        [0.789832021015262, 0.125760947016693],
        [[0.0950061951881895, 0.00578652457393443], [0.00578652457393443, 0.0243366678664123]],
    ),
    "second": (
        (0, 2, 1),
        [-0.937505682255701, 0.239088378962845],
        [[0.187645113875782, -0.0108692493632986], [-0.0108692493632986, 0.0413594559497733]],
    ),
}


@pytest.mark.parametrize("codes, log_ratios, covariance", CAUSES.values(), ids=CAUSES.keys())
def test_fine_gray_with_ties(codes, log_ratios, covariance):
    """R: crr(x, cause, cbind(group, z), failcode), fit$coef and fit$var."""
    fit = fine_gray(
        numbers(TIME),
        np.array(codes)[digits(EVENT)],
        {"group": digits(GROUP).astype(float), "z": numbers(Z)},
    )
    np.testing.assert_allclose(fit.log_ratios, log_ratios, rtol=1e-7)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-7)


def test_fine_gray_risk_with_ties():
    """R: predict(fit, rbind(c(0, 0), c(1, 0.5))) at 2, 5, 10 and 20."""
    fit = fine_gray(
        numbers(TIME), digits(EVENT), {"group": digits(GROUP).astype(float), "z": numbers(Z)}
    )
    women = {"group": np.array([0.0, 1.0]), "z": np.array([0.0, 0.5])}
    expected = [
        [0.12486396628318, 0.268677092254731],
        [0.234967256319818, 0.466526154710351],
        [0.330726495711933, 0.610178474638654],
        [0.458933388546544, 0.763295911984904],
    ]
    np.testing.assert_allclose(
        [fit.risk(women, years) for years in (2.0, 5.0, 10.0, 20.0)], expected, rtol=1e-7
    )
    assert fit.risk(women, 0.5).tolist() == [0, 0]


def test_fine_gray_of_primary_biliary_cirrhosis():
    """R: crr of death, with transplant competing, on drug, age, log(bilirubin) and sex of the 312
    patients of the Mayo trial.
    """
    pytest.importorskip("surpyval")
    from surpyval.datasets import load_pbc2

    table = load_pbc2().groupby("id").first()
    x = {
        "drug": (table["drug"] == "D-penicil").to_numpy(float),
        "age": table["age"].to_numpy(float),
        "log_bilirubin": np.log(table["serBilir"].to_numpy(float)),
        "female": (table["sex"] == "female").to_numpy(float),
    }
    event = table["status"].map({"alive": 0, "dead": 1, "transplanted": 2}).to_numpy(int)
    fit = fine_gray(table["years"].to_numpy(float), event, x)
    np.testing.assert_allclose(
        fit.log_ratios,
        [-0.120933906351471, 0.0541957390185112, 0.987243081545348, -0.0151431294056345],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        np.diag(fit.covariance),
        [0.0309203632869071, 9.19923405399873e-05, 0.00885540940494696, 0.0711840289649772],
        rtol=1e-6,
    )
    assert abs(fit.covariance[2, 1] / 0.00029811542059112 - 1) < 1e-6


# surpyval's fixture "prediction_continuous"; the score ranks as riskRegression's predicted risk
# does.
SCORE_TIME = """
    5.903 5.094 .719 6.195 3.478 14.147 7.7 5.298 .101 .141 4.794 13.448 5.155 1.554 17.127 .41
    7.094 18.894 4.284
    3.385 1.837 11.968 2.698 5.336 4.45 2.258 6.157 .689 2.217 2.277 1.379 2.15 .73 10.763 7.387
    4.576 3.043 8.951
    4.098 10.397 6.609 .167 9.022 3.936 5.246 12.712 8.206 8.439 2.716 15.123 2.914 1.077 2.43
    4.178 5.367 3.061 4.265
    3.882 1.694 2.351
"""
CENSORED = "001101011101011110000100000000010011000101001100001011001101"
SCORE = """
    .33 1.12 -.93 -.55 1.42 -.74 .54 .9 .79 -.71 1.85 -.79 .7 .98 -.18 -.83 -.4 .46 .19 -1.18
    .11 -.59 .31 -1.56 -.97
    .4 1.92 1.25 -.08 -.42 -1.89 .59 2.02 -.23 -.24 .32 -.45 -.03 .84 -.06 -.02 .22 -.41 1.56
    -1.29 -1.11 1.95 .9 -.54
    .24 -.33 1.11 .96 -.06 -.94 -.71 -.39 .57 .6 -.31
"""


def test_time_dependent_auc():
    """R: riskRegression::Score(..., metrics = "auc", cens.model = "km") at 3, 6, 9 and 12."""
    time, event, score = numbers(SCORE_TIME), 1 - digits(CENSORED), numbers(SCORE)
    expected = [0.574701212410473, 0.554635670295272, 0.728811044992202, 0.702824357789321]
    np.testing.assert_allclose(
        [auc(time, event, score, years).value for years in (3.0, 6.0, 9.0, 12.0)],
        expected,
        rtol=1e-12,
    )
