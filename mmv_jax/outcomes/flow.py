"""Flow of women through a cohort analysis, from the lines of the file to the models: after STROBE.

Axis: N women.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from mmv_jax.outcomes.cohort import SEVERITIES, Cohort, Left
from mmv_jax.report.flow_chart import FlowChart, FlowStep
from mmv_jax.report.page import Cell, Section, Table


@dataclass(frozen=True)
class Analysed:
    """Women of one severity; who had neither the outcome nor a competing death is censored."""

    women: int
    outcomes: int
    deaths: int


@dataclass(frozen=True)
class CohortFlow:
    """Counts of women; `left` and `women` add up to the lines of the file.

    Attributes:
      by_severity: of all women who are analysed.
      not_compared: severities without an outcome, which are in the curves and in no model by
        severity.
    """

    left: Sequence[Left]
    by_severity: Mapping[str, Analysed]
    not_compared: Sequence[str] = ()

    @classmethod
    def of(
        cls, cohort: Cohort, group: Int[np.ndarray, "N"], levels: Collection[int]
    ) -> "CohortFlow":
        """The flow of a cohort whose incomplete women were left out.

        Args:
          group: for each woman, an index in `SEVERITIES`.
          levels: the severities that have a hazard ratio.
        """
        counts = {
            SEVERITIES[i]: Analysed(
                int((group == i).sum()),
                *(int((cohort.event[group == i] == code).sum()) for code in (1, 2)),
            )
            for i in range(len(SEVERITIES))
        }
        # A severity without any woman has no line; one without an outcome has.
        present = {name: of for name, of in counts.items() if of.women}
        compared = {SEVERITIES[i] for i in (0, *levels)}
        return cls(cohort.left, present, [name for name in present if name not in compared])

    @property
    def lines(self) -> int:
        """The lines of the cohort file; a line is a woman."""
        # Counted backwards, as a cohort no longer holds who has left it.
        return self.women + sum(left.women for left in self.left)

    @property
    def women(self) -> int:
        return sum(of.women for of in self.by_severity.values())

    @property
    def outcomes(self) -> int:
        return sum(of.outcomes for of in self.by_severity.values())

    @property
    def deaths(self) -> int:
        return sum(of.deaths for of in self.by_severity.values())

    @property
    def censored(self) -> int:
        # A woman has one event at most: time ends with it.
        return self.women - self.outcomes - self.deaths

    def as_json(self) -> dict[str, Any]:
        """The counts for `protocol.json`."""
        return {
            "lines": self.lines,
            "left_out": [
                {
                    "why": left.why,
                    "women": left.women,
                    "outcomes": left.outcomes,
                    **({"by_column": dict(left.by_column)} if left.by_column else {}),
                }
                for left in self.left
            ],
            "analysed": self.women,
            "outcomes": self.outcomes,
            "competing_deaths": self.deaths,
            "censored": self.censored,
            "by_severity": {
                name: {"women": of.women, "outcomes": of.outcomes, "competing_deaths": of.deaths}
                for name, of in self.by_severity.items()
            },
            "in_no_model_by_severity": list(self.not_compared),
        }


def flow_section(flow: CohortFlow, others: Mapping[str, CohortFlow]) -> Section:
    """Section with the chart of the main analysis, and a table of all analyses.

    Args:
      others: of further endpoints and definitions, by their names on the page.
    """
    chart = FlowChart(
        [
            FlowStep("women in the cohort file", flow.lines, _left(flow)),
            FlowStep("women analysed", flow.women),
        ],
        [
            FlowStep("with the outcome", flow.outcomes),
            FlowStep("competing death", flow.deaths),
            FlowStep("censored", flow.censored),
        ],
    )
    text = [
        "After STROBE. A line of the file is a woman. Who has no area, no age or no follow-up is"
        " left out. A file with an impossible time, event, age or area is refused as a whole."
    ]
    if flow.not_compared:
        text.append(
            f"In no model by severity, since without an outcome: {', '.join(flow.not_compared)}."
        )
    tables = [_analyses({"main analysis": flow, **others})]
    # One woman may lack several covariates, so these counts may exceed those who are left out.
    missing = [
        [Cell(column), Cell(f"{count:,}")]
        for left in flow.left
        for column, count in left.by_column.items()
    ]
    if missing:
        tables.append(Table(["missing covariate", "women"], missing, compact=True))
    return Section("Flow of women", text, tables, [chart], fold=True)


def _left(flow: CohortFlow) -> list[tuple[str, int]]:
    return [(f"left out: {left.why}", left.women) for left in flow.left]


def _analyses(flows: Mapping[str, CohortFlow]) -> Table:
    columns = ["analysis", "in the file", "left out", "analysed", "outcomes", "competing deaths"]
    lines = []
    for name, flow in flows.items():
        why = "; ".join(f"{left.why} {left.women:,}" for left in flow.left)
        numbers = (flow.women, flow.outcomes, flow.deaths, flow.censored)
        lines.append(
            [
                Cell(name),
                Cell(f"{flow.lines:,}"),
                Cell(why or "none"),
                *(Cell(f"{n:,}") for n in numbers),
            ]
        )
    return Table([*columns, "censored"], lines)
