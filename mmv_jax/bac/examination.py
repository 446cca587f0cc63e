"""Choice of a woman's examination, and of the views that show her whole breast."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset

from mmv_jax.readers.deidentify import VIEW_CODES

EARLIER = "an earlier examination: of a woman's the latest counts"
LATER = "a later examination: time counts from the earliest, so that is the one"
NOT_INDEX = "not the examination on the index date"
UNORDERED = "one of several examinations that cannot be put in order: a date is missing"
PART = "a view of a part of the breast or with displaced tissue (its modifier, or Partial View)"
SAID_PART = "its description says a view of a part of the breast (spot, magnification, biopsy, ...)"
OTHER_SIDE = "its description names the other side"
A_MAN = "the mammogram of a man (Patient's Sex)"
NO_READING = "its description says that it is not for reading (rejected, or quality control)"
OTHER_VIEW = "its view code is neither that of a CC nor of an MLO view"
COMPUTED = "computed from tomosynthesis, which is no second measurement"
SUBTRACTED = "recombined from two energies (contrast), which removes calcium"
# DICOM PS3.16 CID 4015, as SNOMED CT. With any other modifier a view does not show what a routine
# view does.
HARMLESS = {"442581004", "R-40AB3"}  # nipple in profile
COUNTED_CODES = {code for code, view in VIEW_CODES.items() if view in ("CC", "MLO")}
COMPUTED_TYPES = {"GENERATED_2D", "TOMO_2D", "TOMOSYNTHESIS", "TOMO_PROJ", "CVIEW", "SYNTHETIC"}
# breast tomosynthesis and its projections, as images and as what an image was made of
TOMOSYNTHESIS = {f"1.2.840.10008.5.1.4.1.1.13.1.{n}" for n in (3, 4, 5)}
# Words of vendors and of archives, between spaces: "-" and "_" are read as spaces.
COMPUTED_WORDS = re.compile(
    r"\b([csg] ?view|v ?preview|synth\w*|syn ?2d|s2d|(generated|insight|intelligent|tomo|i) ?2d)\b"
)
# A slice or slab as an image of its own. With COMBINED the words speak of the whole examination,
# to which a real planar image belongs.
SLICE_WORDS = re.compile(r"\b(tomosynth\w*|dbt|\w*3d|slices?|slabs?)\b")
COMBINED = re.compile(r"\b(combo|2d|ffdm)\b")
# ACR's letters behind a view (implant displaced, rolled, ...) and in front (magnified, spot).
PART_WORDS = re.compile(
    r"\b(spot\w*|mag|magnif\w*|mag ?view|tangential|rolled|axillary tail|cleavage|coned?|partial"
    r"|biopsy|specimen|stereo\w*|eklund|implant displaced|cropped|roi|wire|needle|clip\w*"
    r"|locali\w*|[lr]?(cc|mlo) ?(id|m|s|rl|rm|ri|rs|tan|at|cv|imf|ax)|[lr]? ?(m|s|sm|ms)(cc|mlo))\b"
)
REJECTED_WORDS = re.compile(r"\b(reject\w*|qc|quality control|acr phantom|flat ?field)\b")
SIDE_WORDS = re.compile(r"\b(?:(l|lt|left)|(r|rt|right)) ?(?:cc|mlo)\b")
SUBTRACTED_WORDS = re.compile(r"\b(recombined|subtract\w*)\b")
DESCRIBED = (
    *("SeriesDescription", "ProtocolName", "PaddleDescription", "DerivationDescription"),
    *("AcquisitionDeviceProcessingDescription", "ViewPosition"),
)
# tags that `special` reads
KEYWORDS = (
    *("ViewCodeSequence", "ViewModifierCodeSequence", "PartialView", "PartialViewDescription"),
    *("PartialViewCodeSequence", "ImageType", "SOPClassUID", "SourceImageSequence"),
    *("PatientSex", "ImageLaterality", "Laterality"),
    *("DistanceSourceToDetector", "DistanceSourceToPatient", *DESCRIBED),
)


def special(tags: Dataset) -> str:
    """Reason why a mammogram is not a routine view of a whole breast; "" if it is one.

    A view counts by an allow-list of codes. Free text can only take a view out.
    """
    kind = tags.get("ImageType") or ()
    kinds = {str(word).upper() for word in ([kind] if isinstance(kind, str) else kind)}
    described = _plain(" ".join([*kinds, *(str(tags.get(name) or "") for name in DESCRIBED)]))
    if kinds & COMPUTED_TYPES or COMPUTED_WORDS.search(described) or _of_tomosynthesis(tags):
        return COMPUTED
    series = _plain(str(tags.get("SeriesDescription") or ""))
    if SLICE_WORDS.search(series) and not COMBINED.search(series):
        return COMPUTED
    if SUBTRACTED_WORDS.search(described):
        return SUBTRACTED
    partial = str(tags.get("PartialView") or "").strip().upper()
    told = bool(tags.get("PartialViewDescription") or tags.get("PartialViewCodeSequence"))
    if partial == "YES" or (told and partial != "NO"):
        return PART
    if any(code not in HARMLESS for code in _modifiers(tags)):
        return PART
    if any(code not in COUNTED_CODES for code in _view_codes(tags)):
        return OTHER_VIEW
    if PART_WORDS.search(described):
        return SAID_PART
    if REJECTED_WORDS.search(described):
        return NO_READING
    if str(tags.get("PatientSex") or "").strip().upper() == "M":
        return A_MAN
    return OTHER_SIDE if _names_other_side(tags) else ""


def _names_other_side(tags: Dataset) -> bool:
    """Whether the series' description names one side alone, and it is not that of the header."""
    header = str(tags.get("ImageLaterality") or tags.get("Laterality") or "").strip().upper()
    found = SIDE_WORDS.findall(_plain(str(tags.get("SeriesDescription") or "")))
    sides = {"L" if left else "R" for left, _ in found}
    return header in ("L", "R") and len(sides) == 1 and header not in sides


def _plain(text: str) -> str:
    return re.sub(r"[\s_\-/.,;:]+", " ", text).lower()


def _of_tomosynthesis(tags: Dataset) -> bool:
    sources = [item.get("ReferencedSOPClassUID") for item in tags.get("SourceImageSequence") or ()]
    return any(str(uid) in TOMOSYNTHESIS for uid in (tags.get("SOPClassUID"), *sources))


def _view_codes(tags: Dataset) -> Iterator[str]:
    # An item without a code says nothing; ViewPosition then has to.
    codes = (str(item.get("CodeValue") or "") for item in tags.get("ViewCodeSequence") or ())
    yield from filter(None, codes)


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
