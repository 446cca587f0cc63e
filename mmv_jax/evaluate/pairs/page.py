"""The page of an evaluation of pairs, and its figures as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.evaluate.measure import as_json
from mmv_jax.evaluate.pairs.compared import WayDifference
from mmv_jax.evaluate.pairs.find import Factor, Pairs
from mmv_jax.evaluate.pairs.measure import ALL, MATCHED, PRIVATE, SHARED, WRONG, PairFigures
from mmv_jax.evaluate.pairs.stated import state_pairs
from mmv_jax.evaluate.report.about import evaluated_words, studies_of
from mmv_jax.files import write_json
from mmv_jax.metrics.intervals import Interval, bounds_text, value_text
from mmv_jax.provenance import facts
from mmv_jax.report.about import About
from mmv_jax.report.page import Cell, Section, Table, write_page
from mmv_jax.store.read import Store

LEAVES = (ALL, SHARED, WRONG, PRIVATE)  # columns of the table of factors
METHOD = (
    "Encoders are frozen; the features of a study are CLS and the mean of its patch tokens, joined."
    " Canonical variates are fitted on train, counted on val, fitted again on both, and measured"
    " once on test. The shared subspace has the variates whose correlation on val is above the 95th"
    " percentile of the largest one with the pairs permuted; the private one has the others, up to"
    " the principal components that were looked at. “Shared of wrong pairs” has as many variates of"
    " pairs that were paired at random.",
    "A factor is told by a ridge probe: R² of a number, AUROC of two classes, on test. It counts as"
    " told where the interval of all features is above chance, and as shared or private where the"
    " paired difference of both subspaces has an interval without 0.",
    "Retrieval ranks all test studies of the other modality by cosine, or by a learned score. The"
    " latter weighs each canonical variate by its correlation on held-out folds of train and val,"
    " as the cosine of the latents that both studies let expect (probabilistic canonical"
    " correlation), or as the likelihood ratio of one body against two. Val chooses which, and how"
    " many principal components, by the mAP of both directions. Recalls have Wilson's interval."
    " Precision (mAP, with one answer a query the mean reciprocal rank), CKA and means"
    " are jackknifed over patients; of several seeds, the variance between seeds is added, with"
    " Student's quantile. Differences are paired by patient and seed, and their p-values are"
    " corrected (Holm) within a figure.",
    "The modality is removed by LEACE, after which no linear probe on the studies it was fitted to"
    " can tell it. Floors: “random” has fresh weights, “pixels” is 100 principal components of each"
    " modality at low resolution.",
)


@dataclass(frozen=True)
class PairFindings:
    """Everything that the page shows.

    Attributes:
      merged: by way, its figures over all seeds.
      record: of `provenance.provenance`.
      notices: that a reader must not miss.
    """

    pairs: Pairs
    factors: Sequence[Factor]
    merged: Mapping[str, PairFigures]
    compared: Sequence[WayDifference]
    maps: Sequence[Section]
    record: Mapping[str, Any]
    about: About
    notices: Sequence[str] = ()


def as_metrics(merged: Mapping[str, PairFigures]) -> dict:
    """The contents of `metrics.json`."""
    return as_json(
        (),
        [
            (task, way, metric, part.found)
            for way, parts in merged.items()
            for (task, metric), part in parts.items()
        ],
    )


def as_comparisons(compared: Sequence[WayDifference]) -> list[dict]:
    """The contents of `comparisons.json`; a value that is not defined is null."""

    def null(value: float) -> float | None:
        return None if np.isnan(value) else value

    return [
        {
            "task": c.key[0],
            "metric": c.key[1],
            "first": c.first,
            "second": c.second,
            "better_by": null(c.better_by.value),
            "ci95": [null(c.better_by.low), null(c.better_by.high)],
            "p": null(c.better_by.p),
            "p_holm": null(c.p_holm),
            "words": c.words,
        }
        for c in compared
    ]


def where_found(parts: PairFigures, factor: Factor, names: tuple[str, str]) -> tuple[str, str]:
    """Where a factor was found, in words, with the tone: whether it is where it was planted."""
    task, chance = f"factor {factor.name}", 0.5 if factor.has_classes else 0.0
    # Where a modality cannot tell the factor at all, its subspaces say nothing of it.
    leans = {}
    for name in names:
        if parts[task, f"{name}, {ALL}"].found.low > chance:
            apart = parts[task, f"{name}, shared minus private"].found
            leans[name] = "shared" if apart.low > 0 else "private" if apart.high < 0 else "both"
    if not leans:
        return "not told by either", ""
    words = "; ".join(f"{name}: {lean}" for name, lean in leans.items())
    # What the generator planted, in the same form as what was found.
    wanted = {
        "shared": dict.fromkeys(names, "shared"),
        "first": {names[0]: "private"},
        "second": {names[1]: "private"},
    }[factor.place]
    if leans == wanted:
        return words, "good"
    # A modality that cannot tell a shared factor, or cannot settle its place, contradicts nothing.
    against = any(name not in wanted for name in leans) or any(
        lean not in ("both", wanted[name]) for name, lean in leans.items()
    )
    return words, "bad" if against else ""


def write_pairs_page(workdir: Path, findings: PairFindings, store: Store) -> str:
    """Write `protocol.json` and the page; return the differences as text and the page's path."""
    pairs, ways, record = findings.pairs, list(findings.merged), findings.record
    # All studies of both modalities, paired or not: what the flow begins with.
    known = store.index["modality"].isin(pairs.names).to_numpy()
    studies = studies_of(store.index, np.flatnonzero(known), findings.about)
    protocol, stated = state_pairs(pairs, store, studies, has_maps=bool(findings.maps))
    write_json(workdir / "protocol.json", protocol)
    held = [*facts(record), ("data", studies.data), ("truth read by", studies.truth)]
    sections = [
        *([] if pairs.why_none else _of_pairs(findings)),
        _modality(findings.merged),
        *findings.maps,
        *stated,
        Section("What was evaluated", facts=held, fold=True),
        Section("How it was measured", METHOD, fold=True),
        Section("Configuration", pre=json.dumps(record["config"], indent=2), fold=True),
    ]
    write_page(
        report := workdir / "report.html",
        title=findings.about.title or f"Pairs of {pairs.names[0]} and {pairs.names[1]}",
        subtitle=f"{', '.join(ways)}; {evaluated_words(record)}",
        verdict=_verdict(findings),
        sections=sections,
        notices=[*studies.notices, *findings.notices],
    )
    return f"{text_of(findings)}\n\nreport: {report}"


def _verdict(findings: PairFindings) -> list[str]:
    pairs = findings.pairs
    if pairs.why_none:
        return [
            f"{pairs.why_none}. So likeness, shared and private subspaces and retrieval are not"
            " possible here: each needs both studies of one body. How well the modality can be told"
            " is measured on all studies."
        ]
    way, parts = next(iter(findings.merged.items()))
    first, second = pairs.names
    said = []
    for query, answer in ((first, second), (second, first)):
        found = parts[f"{answer} from {query}", f"mAP, {MATCHED}"].found
        chance = parts[f"{answer} from {query}", "mAP, chance"].found.value
        said.append(
            f"{way}: the {answer} of a {query} is found with mAP {_number(found)} by the"
            f" learned score; chance is {chance:.3f}."
        )
    # The tone says whether a factor is where it was planted.
    placed = [where_found(parts, factor, pairs.names)[1] for factor in findings.factors]
    if placed:
        said.append(
            f"Of {len(placed)} planted factors {placed.count('good')} are found where they were"
            f" planted, {placed.count('bad')} elsewhere, and of {placed.count('')} the place is not"
            " settled."
        )
    return said


def _of_pairs(findings: PairFindings) -> list[Section]:
    merged, (first, second) = findings.merged, findings.pairs.names
    ways = list(merged)
    differences = [
        [
            Cell(f"{c.first} minus {c.second}"),
            Cell(f"{c.key[0]}: {c.key[1]}"),
            Cell(f"{c.better_by.value:+.3f}", bounds_text(c.better_by, "+.3f")),
            Cell("not defined" if np.isnan(c.p_holm) else f"{c.p_holm:.3f}"),
            Cell(c.words, tone={"higher": "good", "lower": "bad"}.get(c.words, "")),
        ]
        for c in findings.compared
    ]
    # The first way has every figure that twins have too.
    likeness = [key for key in merged[ways[0]] if key[0] in ("likeness", "shared subspace")]
    return [
        Section(
            "Ways to train, compared",
            tables=[
                _table("way", merged, [key for key in merged[ways[0]] if key[0] == "means"]),
                Table(["difference", "figure", "by", "corrected p", "in words"], differences),
            ],
        ),
        Section(
            "Retrieval",
            tables=[
                _table(f"{answer} from {query}", merged, _keys(merged, f"{answer} from {query}"))
                for query, answer in ((first, second), (second, first))
            ],
        ),
        Section("Likeness and shared subspace", tables=[_table("figure", merged, likeness)]),
        _factors(findings),
    ]


def _factors(findings: PairFindings) -> Section:
    """Where each factor was found, of every way; the subspaces of the first way."""
    names, merged = findings.pairs.names, findings.merged
    if not findings.factors:
        return Section("Factors", ["The config names no factor."])
    planted = {"shared": "both", "first": f"{names[0]} alone", "second": f"{names[1]} alone"}
    lines = []
    for factor in findings.factors:
        found = [where_found(parts, factor, names) for parts in merged.values()]
        cells = [Cell(words, tone=tone) for words, tone in found]
        lines.append([Cell(factor.name), Cell(planted[factor.place]), *cells])
    tables = [Table(["factor", "planted in", *merged], lines)]
    way, parts = next(iter(merged.items()))
    for name in names:
        lines = [
            [
                Cell(f"{factor.name}, {'AUROC' if factor.has_classes else 'R²'}"),
                *(
                    _cell(parts[f"factor {factor.name}", f"{name}, {leaf}"].found)
                    for leaf in LEAVES
                ),
            ]
            for factor in findings.factors
        ]
        tables.append(Table([f"{way}, told by the {name}", *LEAVES], lines))
    return Section("Factors in shared and private subspaces", tables=tables)


def _modality(merged: Mapping[str, PairFigures]) -> Section:
    # Only ways with one encoder have an AUROC of the modality.
    shown = {way: parts for way, parts in merged.items() if _keys({way: parts}, "modality")}
    text = [
        "Whether a study is of one modality or the other. Twins are left out: two encoders have two"
        " spaces."
    ]
    return Section(
        "Modality, before and after its removal",
        text,
        [_table("probe", shown, _keys(shown, "modality"))] if shown else [],
    )


def _keys(merged: Mapping[str, PairFigures], task: str) -> list[tuple[str, str]]:
    """The figures of a task that any way has."""
    # Ways may lack figures: the order is that in which a figure comes up first.
    every = [key for parts in merged.values() for key in parts if key[0] == task]
    return list(dict.fromkeys(every))


def _table(head: str, merged: Mapping[str, PairFigures], keys: Sequence[tuple[str, str]]) -> Table:
    lines = [
        [
            Cell(metric),
            *(
                _cell(parts[task, metric].found) if (task, metric) in parts else Cell("")
                for parts in merged.values()
            ),
        ]
        for task, metric in keys
    ]
    return Table([head, *merged], lines)


def _cell(found: Interval) -> Cell:
    """A figure with its interval; references have none, and need no reason."""
    return Cell(value_text(found), "" if np.isnan(found.low) else bounds_text(found))


def _number(found: Interval) -> str:
    return f"{value_text(found)} {bounds_text(found)}"


def text_of(findings: PairFindings) -> str:
    """The verdict and the differences as lines of text."""
    lines = _verdict(findings)
    for c in findings.compared:
        p = "not defined" if np.isnan(c.p_holm) else f"{c.p_holm:.3f}"
        lines.append(
            f"{c.key[1]}: {c.first} minus {c.second} {c.better_by.value:+.3f}"
            f" {bounds_text(c.better_by, '+.3f')}, corrected p {p}: {c.words}"
        )
    return "\n".join(lines)
