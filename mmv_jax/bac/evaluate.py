"""Evaluation of measured mammograms: agreement with the truth, and outcomes of a cohort."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.bac.agreement import (
    Compared,
    area_scores,
    as_json,
    between_views,
    dice_scores,
    limits_of_agreement,
    severity_scores,
)
from mmv_jax.bac.anatomy import anatomy_scores
from mmv_jax.bac.asked import COMPARED, MASK, check_asked, index_dates_of, rules_of
from mmv_jax.bac.conditions import by_condition, women_by_vendor
from mmv_jax.bac.flow import NO_MASK, LinesFlow, Looked, MammogramFlow
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.judged import Judged, as_reported, judge, picture_of, predictions
from mmv_jax.bac.measure import Measure, ViewResult, confirmed, of_women, view_pairs
from mmv_jax.bac.report import (
    WORDS,
    agreement_sections,
    further_sections,
    picture_section,
    vendor_section,
)
from mmv_jax.bac.rule_search import RuledView, rules_section, weights_section
from mmv_jax.bac.run import find, find_all
from mmv_jax.bac.sources import Entry, list_entries
from mmv_jax.bac.stated import Evaluated, state_mammograms
from mmv_jax.config import to_json
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.files import write_json
from mmv_jax.metrics.intervals import Interval, bounds_text
from mmv_jax.outcomes.analysis import Analysis, analyse
from mmv_jax.outcomes.analysis import metrics as outcome_metrics
from mmv_jax.outcomes.cohort import read_cohort, split_names
from mmv_jax.outcomes.page import sections as outcome_sections
from mmv_jax.outcomes.page import settings_section
from mmv_jax.outcomes.page import verdict as outcome_verdict
from mmv_jax.provenance import facts, of_file, provenance, refuse_others, write_metrics, write_table
from mmv_jax.readers.read import read_mask
from mmv_jax.readers.refused import Refused
from mmv_jax.report.about import About, Studies
from mmv_jax.report.page import Section, write_page
from mmv_jax.result_folder import clear_results

SIDES = {"found": "found", "true": "truth"}  # the name in metrics.json, the field of `Judged`
PICTURES = 8  # number of pictures of views, drawn evenly from all


def evaluate_config(config: ConfigDict, checkpoint: Path | None, workdir: Path) -> str:
    """Run `evaluate_mammograms` with a config.

    Raises:
      UserError: no checkpoint, or a measuring rule that is not a number.
    """
    if checkpoint is None:
        raise UserError("--checkpoint is missing: give the workdir of `mmv fit-bac`.")
    return evaluate_mammograms(
        Path(config.mammograms),
        checkpoint,
        workdir,
        splits=config.splits,
        cohort=config.cohort,
        adjust=split_names(config.adjust),
        horizons=config.horizons,
        measure=rules_of(config),
        about=config.get("about"),
        config=to_json(config),
    )


def evaluate_mammograms(
    manifest: Path,
    checkpoint: Path,
    workdir: Path,
    *,
    splits: Sequence[str] = (),
    cohort: str = "",
    adjust: Sequence[str] = ("age",),
    horizons: Sequence[float] = (5.0, 10.0),
    measure: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    config: str = "",
) -> str:
    """Measure the mammograms of a manifest and write a report.

    Areas are compared with the truth if the manifest has a `bac_mask`, and related to outcomes if
    there is a cohort.

    Args:
      splits: of the manifest; all if empty.
      cohort: a cohort CSV with the `patient_id` of the manifest; "" for none.
      adjust, horizons: see `outcomes.analysis.analyse`.
      measure: rules of `Measure` that replace those of the checkpoint.
      about: as of `About`: data, truth and title, which only the user knows.
      config: as JSON, printed at the end of the report.
    Returns:
      The results as text, and the path of the report.
    Raises:
      UserError: a manifest, checkpoint or cohort with mistakes, or neither truth nor cohort.
      WorkFailed: no mammogram, or no `bac_mask`, could be read.
    """
    stated = About.of(about or {})
    workdir.mkdir(parents=True, exist_ok=True)
    finder = Finder.restore(checkpoint).with_measure(**(measure or {}))
    refuse_others(workdir, finder.origin["digest"], "--workdir")
    entries, refused = list_entries([manifest], splits)
    notes = [f"manifest line {number}: {reason}" for number, reason in refused]
    check_asked(entries, cohort, adjust)
    looked = _look(finder, entries, notes)
    _check_looked(looked, cohort, notes)
    index_dates = index_dates_of(cohort, notes)
    # All views at once: a breast is judged by all its views, a woman by her examinations.
    views = looked.views = confirmed(looked.views, finder.measure, index_dates=index_dates)
    judged = looked.judged = as_reported(looked.judged, views)
    notes += _not_counted(views)
    compared = _comparable(judged, finder.measure) if judged else None
    metrics, verdict, parts = (
        _agree(*compared, finder, ruled=looked.ruled) if compared else ({}, [], [])
    )
    agreement, analysis = dict(metrics), None
    if cohort:
        analysis = _relate(views, finder.measure, cohort, adjust=adjust, horizons=horizons)
        metrics |= outcome_metrics(analysis)
        verdict = [*verdict, *outcome_verdict(analysis)]
        parts = [*parts, *outcome_sections(analysis)]
    asked, data = json.loads(config or "{}"), of_file(manifest)
    record = provenance("mmv evaluate", config=asked, weights=finder.origin, data=data)
    studies = _studies_of(entries, views, stated)
    lines = LinesFlow.of(manifest, splits, len(entries))
    women = compared[1] if compared else None
    flow = MammogramFlow.of(lines, looked, women, finder.measure)
    evaluated = Evaluated(studies, flow, agreement, analysis=analysis, drawn=_drawn(judged))
    protocol, of_protocol = state_mammograms(evaluated)
    # The sort is stable: open sections keep their order and come before the folded ones.
    parts = sorted([*parts, _about(record, studies, bool(judged))], key=lambda part: part.fold)
    parts += [*of_protocol, *_closing_sections(notes, finder.measure, config)]
    clear_results(workdir)
    write_page(
        workdir / "report.html",
        stated.title or "Breast arterial calcification",
        subtitle=f"{len(views)} mammograms of {flow.women.read} women",
        verdict=verdict,
        sections=parts,
        notices=studies.notices,
    )
    write_json(workdir / "protocol.json", protocol)
    _write(workdir, metrics, judged, record)
    return "\n".join([*verdict, *notes, "", f"report: {workdir / 'report.html'}"])


def _check_looked(looked: Looked, cohort: str, notes: Sequence[str]) -> None:
    if not looked.views:
        raise WorkFailed("No mammogram could be read. " + "; ".join(notes))
    if not looked.judged and not cohort:
        raise WorkFailed(
            "No bac_mask could be read, so there is nothing to compare the areas with. "
            + "; ".join(notes)
        )


def _drawn(judged: Sequence[Judged]) -> bool:
    """Whether a view is shown with its outlines: one without calcification has none."""
    return any(j.drawn is not None and j.truth.pixels for j in judged)


def _studies_of(entries: Sequence[Entry], views: Sequence[ViewResult], about: About) -> Studies:
    """Of the mammograms that could be read."""
    read = {view.number for view in views}
    return Studies(len(read), sum(e.phantom for e in entries if e.number in read), about)


def _about(record: Mapping[str, Any], studies: Studies, compared: bool) -> Section:
    """What was evaluated, and by whose truth."""
    truth = studies.truth if compared else "no truth"
    stated = [("data", studies.data), ("truth read by", truth)]
    return Section("What was evaluated", facts=[*facts(record), *stated])


def _not_counted(views: Sequence[ViewResult]) -> list[str]:
    return [f"mammogram {v.number} does not count: {v.remark}" for v in views if v.remark]


def _closing_sections(notes: Sequence[str], measure: Measure, config: str) -> list[Section]:
    remarks = [Section("Remarks on the images", notes, fold=True)] if notes else []
    return [*remarks, settings_section(f"{measure}\n{config}")]


def _write(
    workdir: Path, metrics: Mapping, judged: Sequence[Judged], record: Mapping[str, Any]
) -> None:
    """Write the areas of each view that has a truth, and the metrics."""
    if judged:
        write_table(workdir / "predictions.parquet", predictions(judged), record)
    write_metrics(workdir, metrics, record)


def _relate(
    views: Sequence[ViewResult],
    measure: Measure,
    cohort: str,
    *,
    adjust: Sequence[str],
    horizons: Sequence[float],
) -> Analysis:
    """Outcomes of a cohort by the known areas (mm²) of its women."""
    # An unknown area is NaN, no zero: `read_cohort` leaves her out and tells it.
    areas = {woman.woman: woman.area_mm2 for woman in of_women(views, measure)}
    table = read_cohort(cohort, covariates=adjust, also=COMPARED, areas=areas)
    return analyse(table, adjust=adjust, thresholds=measure.severity_mm2, horizons=horizons)


def _look(finder: Finder, entries: Sequence[Entry], notes: list[str]) -> Looked:
    """Every readable view: with its truth, as reported, and by other rules.

    Args:
      notes: gets what could not be read or compared.
    """
    looked = Looked()

    def refuse(number: int, why: Refused) -> None:
        looked.unread[why.code] += 1
        notes.append(f"mammogram {number}: {why}")

    # A picture of every n-th mammogram, so that about `PICTURES` are spread evenly.
    every, compared = (
        max(1, len(entries) // PICTURES),
        any(MASK in entry.masks for entry in entries),
    )
    for found in find_all(partial(find, finder), entries, refuse):
        entry, view = found.mammogram.entry, found.result(found.mammogram.patient_id)
        looked.views.append(view)
        # A view without truth still counts for its breast under other rules.
        mask, truth = np.zeros_like(found.mask), None
        if MASK in entry.masks:
            try:
                mask = read_mask(entry.masks[MASK], like=found.mammogram.study)[0] > 0
                judged = judge(found, view, mask, draw=entry.number % every == 0, warn=notes.append)
                looked.judged.append(judged)
                truth = None if np.isnan(view.area_mm2) else judged.truth
            except Refused as why:
                looked.untold[f"refused, {why.code.replace('_', ' ')}"] += 1
                notes.append(f"mammogram {entry.number} is not compared with the truth: {why}")
        else:
            looked.untold[NO_MASK] += 1
        if compared:
            ruled = RuledView.of(
                view,
                truth,
                mask=mask,
                probability=found.probability,
                factor=found.frame.factor,
                measure=finder.measure,
            )
            looked.ruled.append(ruled)
    return looked


def _comparable(judged: Sequence[Judged], measure: Measure) -> tuple[list[Judged], Compared]:
    """The views whose area is known, and the women.

    Raises:
      WorkFailed: no area can be compared.
    """
    # an unknown spacing appears in the remarks
    known = [j for j in judged if not np.isnan(j.found.area_mm2)]
    if not known:
        raise WorkFailed(
            "No area can be compared: the pixel spacing of no mammogram with a bac_mask is known."
            " Give it in the manifest (spacing_mm)."
        )
    return known, _women(known, measure)


def _agree(
    judged: Sequence[Judged], women: Compared, finder: Finder, *, ruled: Sequence[RuledView]
) -> tuple[dict, list[str], list[Section]]:
    """Metrics, sentences, and sections of the page."""
    names = np.array([j.found.woman for j in judged])
    views = Compared(
        names,
        *(np.array([getattr(j, kind).area_mm2 for j in judged]) for kind in ("truth", "found")),
    )
    pixels = np.array([j.pixels for j in judged])
    of_views = dice_scores(pixels, names) | area_scores(views)
    seen = dice_scores(np.array([j.seen for j in judged]), names)
    of_views |= {"dice_seen": seen["dice"]} if seen else {}
    thresholds = finder.measure.severity_mm2
    of_all = area_scores(women) | severity_scores(women, thresholds)
    limits = limits_of_agreement(women)
    pairs = {name: view_pairs([getattr(j, kind) for j in judged]) for name, kind in SIDES.items()}
    repeats = {name: between_views(each) for name, each in pairs.items()}
    groups = by_condition(views, [j.found.conditions for j in judged], pixels)
    of_vendors = women_by_vendor(
        women, {j.found.woman: j.found.conditions for j in judged}, thresholds
    )
    of_anatomy = anatomy_scores([(j.found.woman, j.anatomy) for j in judged if j.anatomy])
    metrics = {
        "bac_views": {"trained": as_json(of_views)},
        "bac_women": {"trained": as_json(of_all | limits)},
        **{
            f"bac_between_views_{name}": {"trained": as_json(r)} for name, r in repeats.items() if r
        },
        **{
            f"bac_views_by_{name}": {group: as_json(scores) for group, scores in of_group.items()}
            for name, of_group in groups.items()
        },
        **({"bac_anatomy": {"trained": as_json(of_anatomy)}} if of_anatomy else {}),
    }
    if of_vendors:
        metrics["bac_women_by_vendor"] = {name: as_json(of) for name, of in of_vendors.items()}
    sentences = [
        _sentence(name, score)
        for name, score in {**of_views, **of_all, **of_anatomy}.items()
        if name in ("dice", "dice_seen", *of_all, *of_anatomy)
    ]
    shown = [picture for j in judged if (picture := picture_of(j))]
    parts = [picture_section(shown)] if shown else []
    parts += agreement_sections(of_views, of_all, women, thresholds)
    parts += further_sections(limits, repeats, groups) + vendor_section(of_vendors)
    parts.append(rules_section(ruled, finder.measure))
    weights = weights_section(ruled, finder.measure)
    return metrics, sentences, [*parts, weights] if weights else parts


def _women(judged: Sequence[Judged], measure: Measure) -> Compared:
    """The women whose areas are known.

    Raises:
      WorkFailed: there is none.
    """
    true, found = (
        of_women([getattr(j, kind) for j in judged], measure) for kind in ("truth", "found")
    )
    known = [(t, f) for t, f in zip(true, found) if t.severity]
    if not known:
        why = sorted({j.found.remark for j in judged if j.found.remark})
        raise WorkFailed(
            f"No woman's area can be compared: each has a view that does not count"
            f" ({'; '.join(why)})."
        )
    return Compared(
        np.array([t.woman for t, _ in known]),
        *(np.array([w.area_mm2 for w in side]) for side in zip(*known)),
    )


def _sentence(name: str, score: Interval) -> str:
    return f"{WORDS[name]}: {score.value:.3f} {bounds_text(score)}, n = {score.n}."
