"""Checks of what an evaluation of mammograms is asked for, before hours of measuring."""

from collections.abc import Sequence

from mmv_jax.bac.sources import Entry
from mmv_jax.errors import UserError
from mmv_jax.outcomes.cohort import read_cohort
from mmv_jax.outcomes.index_dates import read_index_dates
from mmv_jax.outcomes.risk import PREVENT_INPUTS

MASK = "bac"
# Columns of a cohort that published scores need; read if the cohort has them.
COMPARED = (*PREVENT_INPUTS, "black")


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
