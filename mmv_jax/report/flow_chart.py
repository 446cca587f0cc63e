"""The flow chart of STROBE: how many entered, how many left at each step, how many remained."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FlowStep:
    """A box, and beside it the exclusions before the next box: (words, count)."""

    name: str
    count: int
    left: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class FlowChart:
    """Boxes below each other, and at the end boxes side by side."""

    steps: Sequence[FlowStep]
    ends: Sequence[FlowStep] = ()

    def draw(self) -> str:
        """The chart as a piece of HTML."""
        rows = "".join(_row(step) for step in self.steps)
        ends = "".join(_box(step, "box") for step in self.ends)
        return f'<div class="flow">{rows}<div class="ends">{ends}</div></div>'


def _row(step: FlowStep) -> str:
    gone = [FlowStep(name, count) for name, count in step.left if count]
    beside = "".join(_box(one, "box gone") for one in gone)
    return f'<div class="step">{_box(step, "box")}<div class="beside">{beside}</div></div>'


def _box(step: FlowStep, kind: str) -> str:
    return f'<div class="{kind}">{html.escape(step.name)} <b>{step.count:,}</b></div>'
