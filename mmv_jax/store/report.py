"""Report of an ingest: lines read, refused and warned about."""

from collections import Counter
from dataclasses import dataclass, field

from mmv_jax.store.quarantine import Quarantine
from mmv_jax.store.task import (
    Refusal,
    Told,
)

# Share of the lines; an ingest that refuses more of them fails.
MAX_REFUSED = 0.5


@dataclass
class Report:
    """Counts of an ingest."""

    lines: int = 0  # of the manifests
    ingested: int = 0
    already: int = 0  # already in the store before
    corrected: int = 0  # in the store before, and differed
    lost: int = 0  # in the store before, and gone with their parts
    refused: Counter[str] = field(default_factory=Counter)  # by code
    told: Counter[str] = field(default_factory=Counter)  # warnings about ingested lines, by code
    max_refused: float = MAX_REFUSED  # share of the lines; with more refusals the ingest has failed
    # rejected columns, by manifest
    not_carried: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the store holds a study of these manifests, and few enough lines were refused.

        `mmv ingest` derives its exit code from it.
        """
        few = self.refused.total() <= self.max_refused * self.lines
        return self.ingested + self.already + self.corrected > 0 and few

    def tell(self, told: Told, warnings: Quarantine) -> None:
        """Count a warning and log it."""
        self.told[told.code] += 1
        warnings.add(told)

    def refuse(self, refusal: Refusal, quarantine: Quarantine) -> None:
        """Count a refusal and log it."""
        self.refused[refusal.code] += 1
        quarantine.add(refusal)

    def __str__(self) -> str:
        codes = ", ".join(f"{n} {code}" for code, n in self.refused.most_common()) or "none"
        text = (
            f"{self.ingested} studies ingested in {self.seconds:.0f} s, {self.already} already in"
            f" the store, refused: {codes}."
        )
        if self.corrected:
            text += f"\n{self.corrected} that were there were corrected."
        if self.lost:
            text += (
                f"\n{self.lost} studies of the store were gone with their parts. Those of these"
                " manifests were read again; give its other manifests too."
            )
        if self.told:
            told = ", ".join(f"{n} {code}" for code, n in self.told.most_common())
            text += f"\nIngested with warnings (look at warnings.jsonl): {told}."
        if self.refused.total() > self.max_refused * self.lines:
            text += (
                f"\nMore than {self.max_refused:.0%} of the lines were refused (--max-refused):"
                " quarantine.jsonl says why."
            )
        for manifest, columns in self.not_carried.items():
            text += (
                f"\n{manifest}: columns not carried (they may name someone): {', '.join(columns)}"
            )
        return text
