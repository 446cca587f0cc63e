"""Flow of mammograms and women through an evaluation, from a manifest's lines: after STROBE."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.bac.agreement import Compared
from mmv_jax.bac.judged import Judged
from mmv_jax.bac.measure import Measure, ViewResult, of_women, severity_of
from mmv_jax.bac.rule_search import RuledView
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.outcomes.cohort import SEVERITIES
from mmv_jax.report.flow_chart import FlowChart, FlowStep
from mmv_jax.report.page import Cell, Section, Table

NO_MASK = "no bac_mask named"


@dataclass
class Looked:
    """What was seen on the mammograms of an evaluation.

    Attributes:
      judged: views with a truth.
      ruled: views by other rules; empty without any truth.
      unread: mammograms that could not be read, by code of refusal.
      untold: views without a truth, by reason.
    """

    judged: list[Judged] = field(default_factory=list)
    views: list[ViewResult] = field(default_factory=list)
    ruled: list[RuledView] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    untold: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class LinesFlow:
    """Lines of a manifest; `refused`, `other_modality`, `other_split` and `listed` add up to
    `lines`.

    Attributes:
      refused: by code.
      listed: the mammograms that were looked for.
    """

    lines: int
    refused: Mapping[str, int]
    other_modality: int
    other_split: int
    listed: int

    @classmethod
    def of(cls, manifest: Path, splits: Sequence[str], listed: int) -> "LinesFlow":
        """Args: manifest: a CSV; else a folder or an image, whose mammograms are its lines."""
        if manifest.suffix.lower() != ".csv":
            return cls(lines=listed, refused={}, other_modality=0, other_split=0, listed=listed)
        # Read once more: the list of entries no longer knows the lines that are none.
        lines, bad = read_manifest(manifest)
        films = [line for line in lines if line.modality == "MG"]
        used = [line for line in films if not splits or line.split in splits]
        codes = Counter(line.code for line in bad)
        return cls(
            lines=len(lines) + len(bad),
            refused=dict(codes.most_common()),
            other_modality=len(lines) - len(films),
            other_split=len(films) - len(used),
            listed=listed,
        )


@dataclass(frozen=True)
class ViewsFlow:
    """Mammograms; `refused` and `read` add up to those listed, `without_truth` and `compared` to
    those read.

    Attributes:
      refused: by code.
      do_not_count: of those read, by remark: they do not count towards their woman's area.
      without_truth: by reason.
    """

    refused: Mapping[str, int]
    read: int
    do_not_count: Mapping[str, int]
    without_truth: Mapping[str, int]
    compared: int


@dataclass(frozen=True)
class WomenFlow:
    """Women of whom a mammogram was read; the last three counts add up to `read`.

    Attributes:
      examinations: of these women; one of each counts.
      by_true_severity: of the compared ones.
    """

    read: int
    examinations: int
    without_area: int
    without_truth: int
    compared: int
    by_true_severity: Mapping[str, int]

    @classmethod
    def of(
        cls, views: Sequence[ViewResult], women: Compared | None, measure: Measure
    ) -> "WomenFlow":
        all_women = of_women(views, measure)
        compared = set(women.women.tolist()) if women else set()
        others = [woman for woman in all_women if woman.woman not in compared]
        # A compared woman may have a further view without a spacing: she is not counted here.
        unknown = sum(np.isnan(woman.area_mm2) for woman in others)
        # Images of one day are one examination, as in `of_one_examination`.
        days = {(v.woman, v.date, "" if v.date else v.examination) for v in views}
        counts = Counter(severity_of(area, measure) for area in women.truth) if women else {}
        return cls(
            read=len(all_women),
            examinations=len(days),
            without_area=int(unknown),
            without_truth=len(others) - int(unknown),
            compared=len(compared),
            by_true_severity={name: counts.get(name, 0) for name in SEVERITIES},
        )


@dataclass(frozen=True)
class MammogramFlow:
    """Counts from the lines of a manifest to the women who are compared with their truth."""

    manifest: LinesFlow
    mammograms: ViewsFlow
    women: WomenFlow

    @classmethod
    def of(
        cls, lines: LinesFlow, looked: Looked, women: Compared | None, measure: Measure
    ) -> "MammogramFlow":
        """Args: women: those who are compared; None without a truth."""
        # A truth without a spacing has pixels and no mm².
        unmeasured = sum(np.isnan(j.found.area_mm2) for j in looked.judged)
        untold = looked.untold + Counter({"no pixel spacing": int(unmeasured)})
        remarks = Counter(view.remark for view in looked.views if view.remark)
        views = ViewsFlow(
            refused=dict(looked.unread.most_common()),
            read=len(looked.views),
            do_not_count=dict(remarks.most_common()),
            without_truth=dict(untold.most_common()),
            compared=len(looked.judged) - int(unmeasured),
        )
        return cls(lines, views, WomenFlow.of(looked.views, women, measure))

    def as_json(self) -> dict[str, Any]:
        """The counts for `protocol.json`."""
        return asdict(self)


def flow_section(flow: MammogramFlow) -> Section:
    """Section with a chart of the mammograms and one of the women."""
    lines, views, women = flow.manifest, flow.mammograms, flow.women
    gone = [(f"refused: {code.replace('_', ' ')}", n) for code, n in lines.refused.items()]
    gone += [("other modality", lines.other_modality), ("other split", lines.other_split)]
    unread = [(f"refused: {code.replace('_', ' ')}", n) for code, n in views.refused.items()]
    untold = [(f"without a truth: {why}", n) for why, n in views.without_truth.items()]
    of_mammograms = FlowChart(
        [
            FlowStep("lines of the manifest", lines.lines, gone),
            FlowStep("mammograms listed", lines.listed, unread),
            FlowStep("mammograms read", views.read, untold),
            FlowStep("mammograms compared with their truth", views.compared),
        ]
    )
    left = [("area not known", women.without_area), ("without a truth", women.without_truth)]
    of_women = FlowChart(
        [
            FlowStep("examinations read", women.examinations),
            FlowStep("women with a mammogram that was read", women.read, left),
            FlowStep("women compared with their truth", women.compared),
        ],
        [FlowStep(name, n) for name, n in women.by_true_severity.items() if women.compared],
    )
    text = [
        "After STROBE. Of a woman one examination counts. A mammogram that does not count towards"
        " its woman's area is still compared with its own truth, view by view.",
    ]
    told = [[Cell(why), Cell(f"{n:,}")] for why, n in views.do_not_count.items()]
    tables = [Table(["does not count towards its woman's area", "mammograms"], told)]
    return Section(
        "Flow of mammograms", text, tables if told else [], [of_mammograms, of_women], fold=True
    )
