"""Choice of a woman's examination, and of the views that show her whole breast."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset

EARLIER = "an earlier examination: of a woman's the latest counts"
LATER = "a later examination: time counts from the earliest, so that is the one"
NOT_INDEX = "not the examination on the index date"
UNORDERED = "one of several examinations that cannot be put in order: a date is missing"
PART = "a view of a part of the breast or with displaced tissue (its modifier, or Partial View)"
COMPUTED = "computed from tomosynthesis, which is no second measurement"
# DICOM PS3.16 CID 4015, as SNOMED CT. With any other modifier a view does not show what a routine
# view does.
HARMLESS = {"442581004", "R-40AB3"}  # nipple in profile
COMPUTED_TYPES = {"GENERATED_2D", "TOMO_2D", "TOMOSYNTHESIS", "TOMO_PROJ", "CVIEW", "SYNTHETIC"}
COMPUTED_WORDS = (
    "c-view",
    "cview",
    "s-view",
    "synthetic",
    "insight 2d",
    "intelligent 2d",
    "v-preview",
)
# tags that `special` reads
KEYWORDS = (
    *("ViewCodeSequence", "ViewModifierCodeSequence", "PartialView"),
    *("ImageType", "SeriesDescription", "DistanceSourceToDetector", "DistanceSourceToPatient"),
)


def special(tags: Dataset) -> str:
    """Reason why a mammogram is not a routine view of a whole breast; "" if it is one."""
    words = {str(word).upper() for word in tags.get("ImageType") or ()}
    described = str(tags.get("SeriesDescription", "") or "").lower()
    if words & COMPUTED_TYPES or any(word in described for word in COMPUTED_WORDS):
        return COMPUTED
    if str(tags.get("PartialView", "") or "").upper() == "YES":
        return PART
    return PART if any(code not in HARMLESS for code in _modifiers(tags)) else ""


def _modifiers(tags: Dataset) -> Iterator[str]:
    # The standard puts modifiers into the item of the view code; some files have them at the top.
    views = [tags, *(tags.get("ViewCodeSequence") or ())]
    for view in views:
        for item in view.get("ViewModifierCodeSequence") or ():
            yield str(item.get("CodeValue", ""))


def of_one_examination(
    views: Sequence[Any], index_dates: Mapping[str, str] | None = None
) -> list[Any]:
    """The views, with a remark on those of an examination that does not count.

    Args:
      views: with `woman`, `remark`, `date` (YYYYMMDD) and `examination`; the last two are "" if
        unknown.
      index_dates: the date (YYYYMMDD) of each woman's index examination, which then counts; without
        a date of hers, the earliest counts. An area measured after an outcome cannot have predicted
        it (immortal time). None: the latest examination counts, as her present state.
    """
    of_woman: dict[str, set[tuple[str, str]]] = {}
    for view in views:
        # Images of one day are one examination. Without a date only the UID distinguishes them.
        of_woman.setdefault(view.woman, set()).add(
            (view.date, "" if view.date else view.examination)
        )
    remarks = {woman: _remarks(woman, exams, index_dates) for woman, exams in of_woman.items()}
    return [
        replace(view, remark=view.remark or remarks[view.woman].get(view.date, ""))
        for view in views
    ]


def _remarks(
    woman: str, examinations: set[tuple[str, str]], index_dates: Mapping[str, str] | None
) -> dict[str, str]:
    """Reason why an examination of a woman does not count, by date."""
    # YYYYMMDD sorts as text in the order of time; a missing date, "", comes first.
    dates = sorted({date for date, _ in examinations})
    wanted = (index_dates or {}).get(woman, "")
    if wanted:
        return {date: NOT_INDEX for date in dates if date != wanted}
    # An examination without a date may be before or after any other.
    if "" in dates and len(examinations) > 1:
        return dict.fromkeys(dates, UNORDERED)
    if index_dates is None:
        return dict.fromkeys(dates[:-1], EARLIER)
    return dict.fromkeys(dates[1:], LATER)
