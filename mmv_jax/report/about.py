"""Facts on the studies of an evaluation: the user's own, and which are phantoms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmv_jax.errors import UserError

NOT_STATED = "not stated"


@dataclass(frozen=True)
class About:
    """Facts on an evaluation that only the user knows: the group `about` of its config.

    Attributes:
      data: the source of the studies: "NIH ChestX-ray14, test list".
      truth: who read them, and how: "two radiologists, in consensus".
      title: of the report.
    """

    data: str = ""
    truth: str = ""
    title: str = ""

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> "About":
        """Read the config's group.

        Raises:
          UserError: a key does not exist, or its value is not text.
        """
        names = tuple(cls.__dataclass_fields__)
        for name, value in group.items():
            if name not in names:
                raise UserError(f"config.about has no key {name!r}. There are: {', '.join(names)}.")
            if value is not None and not isinstance(value, str):
                raise UserError(f"config.about.{name} is {value!r}, but must be text.")
        return cls(**{name: (value or "").strip() for name, value in group.items()})


@dataclass(frozen=True)
class Studies:
    """The studies of an evaluation, with the facts on them.

    Attributes:
      phantoms: how many of `count`.
    """

    count: int
    phantoms: int
    about: About

    @property
    def data(self) -> str:
        """The kind of studies, in words."""
        if self.phantoms == self.count:
            kind = "phantoms: computed images with known truth, of no person"
        elif self.phantoms:
            kind = f"{self.phantoms:,} of {self.count:,} studies are phantoms, of no person"
        else:
            kind = ""
        return "; ".join(part for part in (self.about.data, kind) if part) or NOT_STATED

    @property
    def truth(self) -> str:
        """The readers of the truth, in words."""
        if self.about.truth:
            return self.about.truth
        if self.phantoms == self.count:
            return "nobody: the generator of the phantoms knows it"
        if self.phantoms:
            return f"of phantoms their generator; of the other studies {NOT_STATED}"
        return f"{NOT_STATED} (config.about.truth)"

    @property
    def outline(self) -> str:
        """The name of a true outline."""
        if self.about.truth:
            return f"the truth ({self.about.truth})"
        return "the phantom's truth" if self.phantoms == self.count else "the truth"

    @property
    def notices(self) -> list[str]:
        """Notices that a reader must not miss."""
        if not self.phantoms:
            return []
        share = "All" if self.phantoms == self.count else f"{self.phantoms:,} of {self.count:,}"
        return [
            f"{share} studies are phantoms: computed images, of no person. Results on them do not"
            " show how well the encoder works on patients."
        ]
