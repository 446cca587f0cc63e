"""Simulated cohorts of docs/results.md: wrong times, many seeds, endpoints, gain over PREVENT.

  python tests/outcomes/measured_outcomes.py wrong-times docs/measured/wrong_times.json
  python tests/outcomes/measured_outcomes.py seeds docs/measured/outcome_seeds.json
  python tests/outcomes/measured_outcomes.py endpoints docs/measured/endpoints.json
  python tests/outcomes/measured_outcomes.py gain docs/measured/known_gain.json

Each writes the JSON of its table. `--seeds` and `--women` make it smaller. Axis: N women.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from mmv_jax.bac.examination import of_one_examination
from mmv_jax.metrics.closed_form import exact_proportion
from mmv_jax.outcomes.cohort import Cohort, severity
from mmv_jax.outcomes.endpoints import ENDPOINTS
from mmv_jax.outcomes.gain import gain_over_score
from mmv_jax.outcomes.ratios import Women
from mmv_jax.outcomes.risk import women_scores
from mmv_jax.outcomes.run import evaluate_cohort
from mmv_jax.outcomes.simulate import (
    ADJUST,
    ENDPOINT_RATIOS,
    HAZARD_RATIOS,
    simulate_cohort,
    simulate_endpoints,
    write_cohort,
)
from mmv_jax.outcomes.survival import kaplan_meier

START = date(2010, 1, 1)
YEARS, LAST_YEAR = 10.0, 16.0
LEVELS = ("mild", "moderate", "severe")
GAIN_RATIOS = (1.3, 1.7, 2.6)  # of severity, beyond PREVENT


@dataclass(frozen=True)
class Seen:
    """A mammogram as `of_one_examination` reads it, and the area that was measured on it."""

    woman: str
    date: str
    examination: str
    area_mm2: float
    remark: str = ""


def seen_again(cohort: Cohort, seed: int) -> list[Seen]:
    """Two mammograms of most women, the second only of those without an outcome until then.

    The second is 1 to 6 years later. Calcium grows by 12 % a year, and 3 % of the women without any
    get some each year. The hazard follows the area of the first.
    """
    rng = np.random.default_rng([seed, 2])
    women = len(cohort)
    after = rng.uniform(1.0, 6.0, women)
    comes = (rng.random(women) < 0.8) & (after < cohort.time_years)
    begins = rng.random(women) < -np.expm1(-0.03 * after)
    new = np.where(begins, rng.lognormal(2.2, 1.0, women), 0.0)
    later = np.where(cohort.area_mm2 > 0, cohort.area_mm2 * np.exp(0.12 * after), new)
    views = [
        Seen(str(n), f"{START:%Y%m%d}", f"{n}.0", float(cohort.area_mm2[n])) for n in range(women)
    ]
    for n in np.flatnonzero(comes).tolist():
        day = START + timedelta(days=round(float(after[n]) * 365.25))
        views.append(Seen(str(n), f"{day:%Y%m%d}", f"{n}.1", float(later[n])))
    return views


def counted_areas(views: Sequence[Seen], index_dates: Mapping[str, str] | None) -> np.ndarray:
    """[N] mm² of the examination that counts: the index examination; None for the latest."""
    counted = [view for view in of_one_examination(views, index_dates) if not view.remark]
    by_woman = {int(view.woman): view.area_mm2 for view in counted}
    return np.array([by_woman[n] for n in range(len(by_woman))])


def late(cohort: Cohort, seed: int, *, tied: bool) -> Cohort:
    """Half of the women come under observation 0 to 8 years after the mammogram; those who had an
    event before are never known.

    Args:
      tied: women with calcification come late in 80 %, the others in 40 %.
    """
    rng = np.random.default_rng([seed, 3])
    share = np.where(cohort.area_mm2 > 0, 0.8, 0.4) if tied else 0.5
    comes_late = rng.random(len(cohort)) < share
    entry = np.where(comes_late, rng.uniform(0.0, 8.0, len(cohort)), 0.0)
    known = cohort.time_years > entry
    return replace(cohort.where(known), entry_years=entry[known])


def adjusted(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """[3], [3]: log hazard ratios of `LEVELS` by the adjusted Cox model, and standard errors."""
    group = severity(cohort.area_mm2)
    women = Women(cohort=cohort, group=group, levels=(1, 2, 3), names=ADJUST, splines=("age",))
    fit = women.cox(women.severities() | women.covariates())
    return fit.log_ratios[:3], np.sqrt(np.diag(fit.covariance)[:3])


def survival(cohort: Cohort) -> float:
    """% of the women without calcification who are without the outcome after five years."""
    zero = cohort.where(cohort.area_mm2 == 0)
    curve = kaplan_meier(zero.time_years, zero.event == 1, entry=zero.entry_years)
    return 100 * float(curve.at(np.array([5.0]))[0])


def wrong_times(seeds: int, women: int) -> dict:
    """Immortal time and delayed entry: the wrong analysis, and ours."""
    found = {}
    for severe in (2.1, 1.0):
        ratios = (1.2, 1.4, 2.1) if severe > 1 else (1.0, 1.0, 1.0)
        pairs = []
        for seed in range(seeds):
            cohort = simulate_cohort(women, seed, hazard_ratios=ratios)
            views = seen_again(cohort, seed)
            both = [replace(cohort, area_mm2=counted_areas(views, dates)) for dates in (None, {})]
            pairs.append([adjusted(each) for each in both])
        found[f"immortal time, severe {severe:g}"] = _ratio_row(pairs, severe)
    for tied, words in ((False, "of any half"), (True, "of the calcified above all")):
        pairs, curves = [], []
        for seed in range(seeds):
            whole = simulate_cohort(women, seed)
            ours = late(whole, seed, tied=tied)
            wrong = replace(ours, entry_years=None)
            pairs.append([adjusted(each) for each in (wrong, ours)])
            curves.append([survival(each) for each in (whole, wrong, ours)])
        row = _ratio_row(pairs, HAZARD_RATIOS[2])
        means = [_mean(column) for column in np.array(curves).T]
        for name, cell in zip(("truth", "wrong analysis", "ours"), means):
            row.setdefault(name, {})["zero: free of the outcome at 5 years, %"] = cell
        found[f"delayed entry {words}, severe {HAZARD_RATIOS[2]:g}"] = row
    return found


def _ratio_row(pairs: Sequence, truth: float) -> dict:
    """Cells of the severe level: mean hazard ratio over seeds, and intervals that hold `truth`."""
    row: dict[str, dict] = {"truth": {"hazard ratio of severe": {"value": truth}}}
    for i, name in enumerate(("wrong analysis", "ours")):
        value = np.array([pair[i][0][2] for pair in pairs])
        error = np.array([pair[i][1][2] for pair in pairs])
        row[name] = {
            "hazard ratio of severe": _mean(value, np.exp),
            "% of intervals that hold it": _share(np.abs(value - np.log(truth)) <= 1.96 * error),
        }
    return row


def _mean(values: np.ndarray, shown: Callable = np.asarray) -> dict:
    """Mean over seeds with its normal interval."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    value, *bounds = (float(shown(values.mean() + sign * half)) for sign in (0, -1, 1))
    return _rounded(value, bounds)


def _share(held: np.ndarray) -> dict:
    low, high = exact_proportion(int(held.sum()), len(held))
    return {
        "value": round(100 * float(held.mean()), 1),
        "ci95": [round(100 * low, 1), round(100 * high, 1)],
    }


def many_seeds(seeds: int, women: int) -> dict:
    """Adjusted ratios over many cohorts of the paper's size, with an age effect that bends."""
    began, fits = time.process_time(), []
    for seed in range(seeds):
        fits.append(adjusted(simulate_cohort(women, seed, bent=True)))
    seconds = time.process_time() - began
    values, errors = (np.array([fit[i] for fit in fits]) for i in (0, 1))
    found = {}
    for i, level in enumerate(LEVELS):
        held = np.abs(values[:, i] - np.log(HAZARD_RATIOS[i])) <= 1.96 * errors[:, i]
        found[level] = {
            "truth": {"hazard ratio": {"value": HAZARD_RATIOS[i]}},
            "mean over seeds": {"hazard ratio": _mean(values[:, i], np.exp)},
            "% of intervals that hold it": {"hazard ratio": _share(held)},
            "seeds that fit": {"hazard ratio": {"text": f"{len(fits)} of {seeds}"}},
            "processor time a seed, s": {"hazard ratio": {"value": round(seconds / seeds, 1)}},
        }
    return found


def endpoints_apart(seeds: int, women: int) -> dict:
    """The whole analysis of all endpoints of the cohort with the last seed."""
    with tempfile.TemporaryDirectory() as folder:
        file, workdir = Path(folder) / "women.csv", Path(folder) / "run"
        write_cohort(file, women, seeds - 1, endpoints=True)
        evaluate_cohort(file, workdir, adjust=ADJUST, endpoints=["all"])
        return endpoint_rows(json.loads((workdir / "metrics.json").read_text()))


def endpoint_rows(found: Mapping[str, dict]) -> dict:
    """Ratios by endpoint of a `metrics.json`; the true ones of single components alone.

    Of `death` a part is coronary, and has the ratio of infarction; so no truth stands beside it.
    """
    rows = {}
    for name in ENDPOINTS:
        models = {"Cox, adjusted": f"{name}/cox_adjusted", "Fine–Gray": f"{name}/fine_gray"}
        if "death" in ENDPOINTS[name]:
            del models["Fine–Gray"]  # nothing competes with death
        row = {level: {} for level in LEVELS}
        for words, task in models.items():
            for level in LEVELS:
                cell = found[task][level]["hazard_ratio"]
                row[level][words] = _rounded(cell["value"], cell["ci95"])
        if name in ENDPOINT_RATIOS and name != "death":
            for level, true in zip(LEVELS, ENDPOINT_RATIOS[name]):
                row[level] = {"truth": {"value": true}, **row[level]}
        rows[name.replace("_", " ")] = row
    return rows


def _rounded(value: float, bounds: Sequence[float]) -> dict:
    return {"value": round(value, 3), "ci95": [round(bound, 3) for bound in bounds]}


def scored_women(women: int, seed: int, ratios: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Women with a PREVENT risk whose hazard is that risk's times the ratio of their severity.

    Returns:
      score, calcification [N, 3], and times of outcome, death and end of follow-up [3, N].
    """
    columns = simulate_endpoints(women, seed)
    inputs = {name: column for name, column in columns.items() if not name.endswith("_years")}
    score = women_scores(columns["age"], inputs, "cvd")[0]["prevent"]
    known = np.isfinite(score)
    score, group = score[known], severity(columns["area_mm2"][known])
    rng = np.random.default_rng([seed, 4])
    factor = np.array([1.0, *ratios])[group]
    hazard = -np.log1p(-score) / YEARS * factor
    ends = [
        rng.exponential(1 / hazard),
        rng.exponential(80.0, len(score)),
        rng.uniform(2.0, LAST_YEAR, len(score)),
    ]
    return score, np.stack([group == i for i in (1, 2, 3)], axis=1).astype(float), np.stack(ends)


def true_gain(women: int, ratios: Sequence[float]) -> dict[str, float]:
    """Gains in very many women whom nobody lost sight of, until the last year of the cohorts.

    Beyond it the cohorts have no outcome either: where the hazards of the subdistribution are not
    quite proportional, a model of later years is another one.
    """
    score, calcified, ends = scored_women(women, 10**6, ratios)
    ends[2] = LAST_YEAR
    return _gains(
        ends.min(axis=0),
        np.array([1, 2, 0])[ends.argmin(axis=0)],
        score,
        calcified,
        whole=True,
    )


def _gains(when, event, score, calcified, *, whole=False) -> dict:
    gain = gain_over_score(
        when,
        event,
        score,
        calcification={level: calcified[:, i] for i, level in enumerate(LEVELS)},
        horizons=[YEARS],
    )
    found = {**gain.differences, "nri_10_years": gain.moved[0].total}
    return {
        key: found[key].value if whole else (found[key].value, *found[key].ci95) for key in GAINS
    }


GAINS = {
    # Harrell's C depends on the censoring, so that it has no one true gain.
    "uno_c_10_years": "Uno's C at 10 years",
    "auc_10_years": "AUC at 10 years",
    "ipa_10_years": "IPA at 10 years",
    "net_benefit_10_years": "net benefit at 7.5 %",
    "nri_10_years": "NRI, guideline's categories",
}


def drawn_gains(seed: int, women: int, ratios: Sequence[float]) -> list[tuple[float, ...]]:
    """Value and bounds of each of `GAINS` in one cohort."""
    score, calcified, ends = scored_women(women, seed, ratios)
    event = np.array([1, 2, 0])[ends.argmin(axis=0)]
    return list(_gains(ends.min(axis=0), event, score, calcified).values())


def known_gain(seeds: int, women: int) -> dict:
    """What severity adds to PREVENT where it does and where it does not."""
    some, none = (
        np.array([drawn_gains(seed, women, ratios) for seed in range(seeds)])
        for ratios in (GAIN_RATIOS, (1.0, 1.0, 1.0))
    )
    return gain_table(true_gain(100 * women, GAIN_RATIOS), some, none)


def gain_table(truth: Mapping[str, float], some: np.ndarray, none: np.ndarray) -> dict:
    """Args: some, none: [seeds, gains, 3] value, low and high with a gain and without."""
    table = {}
    for i, (key, words) in enumerate(GAINS.items()):
        held = (some[:, i, 1] <= truth[key]) & (truth[key] <= some[:, i, 2])
        table[words] = {
            "true gain": {"× 100": {"value": round(100 * truth[key], 2)}},
            "mean over seeds": {"× 100": _mean(100 * some[:, i, 0])},
            "% of intervals that hold it": {"× 100": _share(held)},
            "% that tell it": {"× 100": _share(some[:, i, 1] > 0)},
            "without a gain: mean": {"× 100": _mean(100 * none[:, i, 0])},
            "% that tell one": {"× 100": _share(none[:, i, 1] > 0)},
        }
    return table


TABLES = {
    # what: how, seeds, women, head of the table
    "wrong-times": (wrong_times, 200, 10_000, ["cohort", "quantity"]),
    "seeds": (many_seeds, 100, 116_135, ["level", "quantity"]),
    "endpoints": (endpoints_apart, 1, 116_135, ["endpoint", "hazard ratio"]),
    "gain": (known_gain, 200, 10_000, ["measure", "unit"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=TABLES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--women", type=int)
    asked = parser.parse_args()
    how, seeds, women, head = TABLES[asked.what]
    seeds, women = asked.seeds or seeds, asked.women or women
    record = {
        "command": f"python tests/outcomes/measured_outcomes.py {asked.what} {asked.path}",
        "date": str(date.today()),
        "machine": "two cores, no accelerator, beside other work",
        "source": f"seeds 0 to {seeds - 1}, {women:,} women each; intervals over seeds",
        "head": head,
        "metrics": how(seeds, women),
    }
    asked.path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
