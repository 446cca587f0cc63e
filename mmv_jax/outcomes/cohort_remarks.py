"""Remarks on a cohort that was read: what is possible, but may be a mistake. Axis: N women."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmv_jax.manifests.spelling import one_spelling
from mmv_jax.outcomes.cohort_table import ENTRY, at_lines

SHOWN = 12  # number of column names in a note
LONG_YEARS = 25.0  # a longer median follow-up gives a note: it may be in months
# Middle of the areas above 0 that no breast artery has, and the bound below which no severity but
# mild exists: such areas may be in pixels, or in cm².
MANY_MM2, FEW_MM2 = 250.0, 1.0
ENOUGH_AREAS = 20  # areas above 0 by which the unit is judged


def remarks(
    values: Mapping[str, np.ndarray],
    ids: Sequence[str],
    lines: np.ndarray,
    *,
    areas: Mapping[str, float] | None,
    unread: Sequence[str],
) -> list[str]:
    """Notes for the reader of a report.

    Args:
      values: `time_years`, `event`, `area_mm2` and `entry_years`.
      areas: as of `read_cohort`.
      unread: names of columns that are not read.
    """
    notes = [*_of_times(values), *_of_events(values["event"]), *_alike(ids, lines)]
    if areas is None:
        notes += _of_areas(values["area_mm2"])
    elif others := len(set(areas) - set(ids)):
        notes.append(
            f"{others:,} women with mammograms are not in the cohort file and are not analysed."
        )
    if unread:
        more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        notes.append(f"Columns that are not read: {', '.join(unread[:SHOWN])}{more}.")
    return notes


def _of_times(values: Mapping[str, np.ndarray]) -> list[str]:
    time, late = values["time_years"], int(np.sum(values[ENTRY] > 0))
    notes = []
    if at_once := int(np.sum(time == 0)):
        notes.append(
            f"{at_once:,} women have a follow-up of 0 years: they are at risk at that instant only."
        )
    if (median := float(np.median(time))) > LONG_YEARS:
        notes.append(
            f"Half of the women are followed for more than {median:.0f} years. If these are months,"
            " divide time_years by 12."
        )
    if late:
        notes.append(
            f"{late:,} women come under observation after the mammogram (entry_years): they count"
            " as at risk from then on."
        )
    return notes


def _of_events(event: np.ndarray) -> list[str]:
    share = float(np.mean(event == 1))
    if not np.any(event == 0):
        return [
            "No woman is censored (event 0). Check the codes: in some files 1 is censored and 2 is"
            " the outcome."
        ]
    if share > 0.5:
        return [
            f"{100 * share:.0f} % of the women have the outcome. Check that event 1 is the outcome"
            " and 0 is censored."
        ]
    return []


def _of_areas(area: np.ndarray) -> list[str]:
    above = area[area > 0]
    if len(above) < ENOUGH_AREAS:
        return []
    if np.median(above) > MANY_MM2:
        return [
            f"Half of the areas above 0 exceed {MANY_MM2:g} mm². If they are counted in pixels,"
            " multiply them by the area of a pixel."
        ]
    if np.quantile(above, 0.95) < FEW_MM2:
        return [
            f"Of the areas above 0, 95 % are below {FEW_MM2:g} mm². If they are in cm², multiply"
            " them by 100."
        ]
    return []


def _alike(ids: Sequence[str], lines: np.ndarray) -> list[str]:
    """A note about ids that differ only as spreadsheets and keyboards spell one id."""
    same = pd.Series([one_spelling(name) for name in ids]).duplicated(keep=False).to_numpy()
    if not same.any():
        return []
    return [
        f"{at_lines(lines[same])} a patient_id that differs from another only by capitals, spaces,"
        " separators or leading zeros. If they are one woman, merge them."
    ]
