"""What a converted folder says of itself: where its weights come from, and what they have seen."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmv_jax.errors import UserError

CARD = "conversion.json"
# Words for `trained_on` in the place of names of data sets.
NONE, UNKNOWN = "none", "unknown"


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a folder; None where it has none.

    Raises:
      UserError: it is damaged.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text())
        names = card["trained_on"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder.name}: its {CARD} is damaged. Convert it again.") from None
    return card


def checked_names(names: Iterable[str]) -> list[str]:
    """Names of data sets that an encoder was trained on, or "none" or "unknown" alone.

    Raises:
      UserError: there is no name, or one of these words beside others.

    Example:
      >>> checked_names(["MIMIC-CXR ", "CheXpert"])
      ['MIMIC-CXR', 'CheXpert']
      >>> checked_names(["None"])
      ['none']
    """
    found = [name.strip() for name in names if name.strip()]
    found = [n.lower() if n.lower() in (NONE, UNKNOWN) else n for n in found]
    words = {NONE, UNKNOWN} & set(found)
    if not found or (words and len(found) > 1):
        raise UserError(
            "--trained-on: give the name of each data set of its training, as the column `source`"
            f" of your manifests spells it; or alone {NONE!r} (no medical image) or {UNKNOWN!r}."
        )
    return found


def same_set(declared: str, source: str) -> bool:
    """Whether a declared data set is one of a store, whatever hyphens and prefixes.

    Example:
      >>> same_set("ChestX-ray14", "NIH ChestX-ray14"), same_set("CheXpert", "NIH ChestX-ray14")
      (True, False)
    """
    if {declared, source} & {NONE, UNKNOWN}:  # words, and no names
        return False
    one, other = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (declared, source))
    short, long = sorted((one, other), key=len)
    return bool(short) and (short == long or (len(short) >= 5 and short in long))
