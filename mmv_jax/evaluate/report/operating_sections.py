"""Sections of the report on operating points, decision curves and how groups are treated."""

from collections.abc import Sequence

import numpy as np

from mmv_jax.evaluate.kinds.table import metric_label
from mmv_jax.evaluate.operating import ACT_FROM, GroupRates, Operating
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.report.sections import value_cell
from mmv_jax.evaluate.shifts import Shifted
from mmv_jax.metrics.intervals import Difference, bounds_text
from mmv_jax.report.page import Cell, Section, Table


def operating_sections(points: Sequence[Operating], names: Names) -> list[Section]:
    """What each classification is worth as a decision; nothing where there is none."""
    shown = [o for o in points if "/" not in o.encoder]
    if not shown:
        return []
    lines, curves = [], []
    for o in shown:
        own = [Cell(names.task(o.task)), Cell(names.encoder(o.encoder))]
        rates = [value_cell(o.sensitivity), value_cell(o.specificity)]
        lines.append([*own, Cell(f"{o.threshold:.3f}"), *rates])
        curves.append([*own, *(_benefit(o, act_from) for act_from in ACT_FROM)])
    text = [
        "The threshold has the largest sum of sensitivity and specificity on val. Net benefit is"
        " right calls minus false alarms, each of which costs the odds of the probability to act"
        " from, a study. An encoder helps where it is above 0 (calling none) and above calling all,"
        " which stands in brackets."
    ]
    act = [f"act from {100 * p:g} %" for p in ACT_FROM]
    tables = [
        Table(["task", "encoder", "threshold", "sensitivity", "specificity"], lines),
        Table(["net benefit", "encoder", *act], curves),
    ]
    return [Section("Operating points and decision curves", text, tables, fold=True)]


def _benefit(o: Operating, act_from: float) -> Cell:
    own, of_all = o.net_benefit[act_from], o.of_all[act_from]
    tone = "good" if own.value > max(0.0, of_all.value) else ""
    return Cell(f"{own.value:.3f} (all: {of_all.value:.3f})", bounds_text(own), tone)


def fairness_sections(rates: Sequence[GroupRates], names: Names) -> list[Section]:
    """The rates of each group at the operating point, and their distance from the others'."""
    lines = []
    for g in rates:
        lines.append(
            [
                Cell(names.task(g.task)),
                Cell(names.encoder(g.encoder)),
                Cell(f"{names.column(g.column)}: {g.group}"),
                value_cell(g.sensitivity),
                _difference(g.more_found, g.p_holm[0], bad=-1),
                value_cell(g.false_positive_rate),
                _difference(g.more_alarms, g.p_holm[1], bad=1),
                value_cell(g.calibration),
            ]
        )
    text = [
        "One threshold for all, chosen on val. A difference in red is worse for the group, its"
        " p-value corrected over all groups of this page (Holm). “Observed minus predicted” is"
        " above 0 where the finding is more frequent than the encoder says."
    ]
    columns = [
        "task",
        "encoder",
        "group",
        "sensitivity",
        "minus the others",
        "false positive rate",
        "minus the others",
        "observed minus predicted",
    ]
    table = Table(columns, lines)
    return [Section("How groups are treated", text, [table], fold=True)] if lines else []


def shift_sections(shifted: Sequence[Shifted], names: Names) -> list[Section]:
    """What other kernels, doses and scanners cost; nothing where it was not asked."""
    lines = []
    for s in shifted:
        lost = _difference(s.lost, s.p_holm, bad=1)
        own = [Cell(names.task(s.task)), Cell(names.encoder(s.encoder)), Cell(s.shift)]
        lines.append([*own, Cell(metric_label(s.metric)), value_cell(s.value), lost])
    text = [
        "The probe of CLS and patch mean, fitted on the studies as they are, on test studies whose"
        " voxels were changed: a softer or sharper kernel, the noise of a low dose, a scanner out"
        " of tune. “Lost” is positive where it is worse than before, red where that is significant"
        " after Holm's correction."
    ]
    table = Table(["task", "encoder", "shift", "metric", "value", "lost"], lines)
    return [Section("Other kernels, doses, scanners", text, [table], fold=True)] if lines else []


def _difference(found: Difference, p_holm: float, bad: int) -> Cell:
    if np.isnan(found.value):
        return Cell("not defined", found.why)
    told = p_holm < 0.05  # False for a NaN, which was not tested
    tone = "bad" if told and found.value * bad > 0 else "good" if told else ""
    return Cell(f"{found.value:+.3f}", bounds_text(found, "+.3f"), tone)
