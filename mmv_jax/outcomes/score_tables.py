"""Tables of published scores: how well each predicts, and what calcification adds to it."""

from collections.abc import Mapping, Sequence

from mmv_jax.outcomes.discrimination import Estimate, Reclassification
from mmv_jax.outcomes.gain import Gain
from mmv_jax.outcomes.prediction import SCORES, Worth
from mmv_jax.report.page import Cell, Table

# Words of the measures, whose names may end in `_5_years`.
MEASURES = {"c_index": "C-index", "uno_c": "Uno's C", "auc": "AUC", "ipa": "IPA"}


def score_worth(worth: Sequence[Worth], endpoint: str = "") -> Table:
    """How well each risk predicts."""
    horizons = list(worth[0].auc)
    lines = [
        [
            Cell(risk.name),
            Cell(f"{risk.women:,}"),
            _three(risk.concordance),
            *(_three(risk.auc[h]) if h in risk.auc else Cell("—") for h in horizons),
            *(_three(risk.accuracy[h]) if h in risk.accuracy else Cell("—") for h in horizons),
            _slope(risk),
        ]
        for risk in worth
    ]
    head = [endpoint or "risk", "women", "C-index", *(f"AUC, {h:g} years" for h in horizons)]
    head += [*(f"IPA, {h:g} years" for h in horizons), "calibration slope"]
    return Table(head, lines)


def score_gains(beyond: Mapping[str, Gain], endpoint: str) -> list[Table]:
    """What calcification adds to each score: differences, and moves between categories."""
    tables = [
        gains_table({SCORES[name]: gain.differences for name, gain in beyond.items()}, endpoint)
    ]
    moved = {SCORES[name]: gain.moved for name, gain in beyond.items() if gain.moved}
    return [*tables, *([moved_table(moved)] if moved else [])]


def gains_table(gains: Mapping[str, Mapping[str, Estimate]], endpoint: str = "") -> Table:
    """A line a risk that calcification is added to, a column a measure."""
    columns = list(dict.fromkeys(name for gain in gains.values() for name in gain))
    lines = [
        [Cell(over), *(_three(gain[c], signed=True) if c in gain else Cell("—") for c in columns)]
        for over, gain in gains.items()
    ]
    head = f"{endpoint}: gain over" if endpoint else "gain over"
    return Table([head, *map(_title, columns)], lines)


def _title(measure: str) -> str:
    """`auc_5_years` as `AUC, 5 years`."""
    name, _, years = measure.removesuffix("_years").rpartition("_")
    if not measure.endswith("_years"):
        name, years = measure, ""
    word = MEASURES.get(name, name.replace("_", " "))
    return f"{word}, {years} years" if years else word


def moved_table(moved: Mapping[str, Sequence[Reclassification]]) -> Table:
    """The women whom calcification moves to another category of risk, net, in per cent."""
    rows = [
        [
            Cell(f"{over}, {r.years:g} years ({_categories(r)} %)"),
            *(_percent(value) for value in (r.with_outcome, r.without_outcome, r.total)),
        ]
        for over, each in moved.items()
        for r in each
    ]
    return Table(["net reclassification", "with the outcome", "without it", "sum"], rows)


def _slope(risk: Worth) -> Cell:
    if risk.slope is None:
        return Cell("—")
    value, (low, high) = risk.slope
    return Cell(f"{value:.2f}".replace("-", "−"), f"{low:.2f} to {high:.2f}".replace("-", "−"))


def _categories(moved: Reclassification) -> str:
    return ", ".join(f"{100 * cutoff:g}" for cutoff in moved.cutoffs)


def _three(estimate: Estimate, signed: bool = False) -> Cell:
    value, low, high = (
        f"{x:{'+' if signed else ''}.3f}".replace("-", "−")
        for x in (estimate.value, *estimate.ci95)
    )
    return Cell(value, f"{low} to {high}")


def _percent(estimate: Estimate) -> Cell:
    value, low, high = (
        f"{100 * x:+.1f}".replace("-", "−") for x in (estimate.value, *estimate.ci95)
    )
    return Cell(f"{value} %", f"{low} to {high}")
