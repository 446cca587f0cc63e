"""Checks of what an evaluation of mammograms is asked for, before hours of measuring."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmv_jax.bac.sources import Entry
from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import read_cohort
from mmv_jax.outcomes.index_dates import read_index_dates
from mmv_jax.outcomes.risk import PREVENT_INPUTS

MASK = "bac"
# Columns of a cohort that published scores need; read if the cohort has them.
COMPARED = (*PREVENT_INPUTS, "black")
# Rules of `Measure` that an evaluation may replace.
RULES = ("threshold", "least_group_mm2", "least_mm2", "artery", "least_artery")


def rules_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `RULES` that a config sets.

    Raises:
      UserError: one that is not a number, or, of `artery`, not numbers.
    """
    rules = {name: config[name] for name in RULES if config.get(name) is not None}
    for name, value in rules.items():
        several = name == "artery" and isinstance(value, list | tuple)
        for number in value if several else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise UserError(f"config.{name} is {value!r}, but must be a number.")
    # A rule is compared with those of other runs, where a list would differ from a tuple.
    if "artery" in rules:
        rules["artery"] = tuple(rules["artery"])
    return rules


def index_dates_of(cohort: str, notes: list[str]) -> dict[str, str] | None:
    """The index dates of a cohort; None without one. A cohort without any is told in `notes`."""
    if not cohort:
        return None
    if not (found := read_index_dates(cohort)):
        notes.append(
            "The cohort has no index_date: of each woman the earliest examination counts, and"
            " time_years must count from it. An examination after the event would tell of the past."
        )
    return found


def check_asked(entries: Sequence[Entry], cohort: str, adjust: Sequence[str]) -> None:
    """Raise UserError without truth and cohort, or for a cohort with mistakes."""
    if not cohort and not any(MASK in entry.masks for entry in entries):
        raise UserError(
            "config.mammograms has no bac_mask and config.cohort is empty: there is nothing to"
            " compare the areas with."
        )
    if cohort:  # report its mistakes before hours of measuring
        # Areas are not known yet: zeros are enough to check patients and columns.
        areas = {entry.patient_id or "": 0.0 for entry in entries}
        read_cohort(cohort, covariates=adjust, also=COMPARED, areas=areas)
        read_index_dates(cohort)
