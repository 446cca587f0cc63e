"""What an ingest did: lines read, refused and told."""

from collections import Counter
from dataclasses import dataclass, field

from mmv_jax.store.quarantine import Quarantine
from mmv_jax.store.task import (
    Refusal,
    Told,
)

# share of the lines; an ingest that refuses more of them ends as failed
MAX_REFUSED = 0.5


@dataclass
class Report:
    """What an ingest did."""

    lines: int = 0  # of the manifests
    ingested: int = 0
    already: int = 0  # were in the store before
    refused: Counter[str] = field(default_factory=Counter)  # by code
    told: Counter[str] = field(default_factory=Counter)  # by code: taken in, and odd
    max_refused: float = MAX_REFUSED  # share of the lines, beyond which the ingest has failed
    # columns that stayed behind, by manifest
    not_carried: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the store holds anything of these manifests, and no more of their lines were
        refused than may be: what `mmv ingest` makes its exit code of.
        """
        few = self.refused.total() <= self.max_refused * self.lines
        return self.ingested + self.already > 0 and few

    def tell(self, told: Told, warnings: Quarantine) -> None:
        self.told[told.code] += 1
        warnings.add(told)

    def refuse(self, refusal: Refusal, quarantine: Quarantine) -> None:
        self.refused[refusal.code] += 1
        quarantine.add(refusal)

    def __str__(self) -> str:
        codes = ", ".join(f"{n} {code}" for code, n in self.refused.most_common()) or "none"
        text = (
            f"{self.ingested} studies ingested in {self.seconds:.0f} s, {self.already} were there"
            f" already, refused: {codes}."
        )
        if self.told:
            told = ", ".join(f"{n} {code}" for code, n in self.told.most_common())
            text += f"\nTaken in, and to be looked at (warnings.jsonl): {told}."
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
