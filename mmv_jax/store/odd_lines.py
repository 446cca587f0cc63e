"""What of a manifest's lines is plausible and probably meant otherwise: one file or mask on two
lines, placeholders for patients, ids of views, units and modalities in odd spellings.

A warning quotes no cell.
"""

import os.path
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmv_jax.manifests.folder import person_of
from mmv_jax.manifests.manifest import Line
from mmv_jax.manifests.spelling import one_spelling

Odd = tuple[int, str, str]  # line, code, sentence
# What de-identification and forms leave in place of an id.
PLACEHOLDER = re.compile(
    r"(anon(ym\w*)?|patient|pat|subject|dummy|placeholder|default|test|id|x+|0+|-+|removed|redacted"
    r"|de-?identified)"
)
SEVERAL = 10  # lines of one patient alone from which on the id may be a placeholder
# The side, the view or the visit of one patient, behind an id that stays the same without it.
VIEW = re.compile(
    r"(.*\w)[-_. ](l|r|left|right|cc|mlo|ml|pa|ap|lat|lateral|frontal|baseline|bl"
    r"|(v|visit|t|tp|timepoint|ses|session|scan|exam|study|fu|followup)-?\d{1,3})",
    re.I,
)
UID = re.compile(r"[0-2](\.\d+){3,}")  # of DICOM: of a study or a series, of no patient
NEARLY_HU = re.compile(r"(?i)\bh[.\s]?u|hounsf")
HU = re.compile(r"HU(\+\d+)?")
# UTF-8 that was read as Latin-1: what an accent becomes.
TWICE_DECODED = re.compile("Ã[\x80-\xbf¼¤¶Ÿ„–œ©¨±³]|â€|Â[\xa0-\xbf]")


def odd_lines(lines: Sequence[Line]) -> Iterator[Odd]:
    """(line, code, sentence) of each warning about the lines of a manifest."""
    yield from _files_on_two_lines(lines)
    yield from _masks_of_two_patients(lines)
    yield from _placeholders(lines)
    yield from _ids_of_views(lines)
    yield from _uids(lines)
    for line in lines:
        if line.unit and NEARLY_HU.search(line.unit) and not HU.fullmatch(line.unit):
            what = "unit is no word that is known, so that the values have no unit: write HU"
            yield line.number, "odd_column", what
            break
    spelled: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        spelled[line.modality.casefold()].add(line.modality)
        if len(spelled[line.modality.casefold()]) > 1:
            yield line.number, "odd_column", "modality has one word in two spellings: they are two"
            break
    for line in lines:
        if any(TWICE_DECODED.search(cell) for cell in line.labels.values()):
            what = "accents seem to have been decoded twice (UTF-8 read as Latin-1)"
            yield line.number, "odd_column", what
            break


def _place_of(path: Path) -> str:
    return os.path.normpath(path) if "://" not in str(path) else str(path)


def _files_on_two_lines(lines: Sequence[Line]) -> Iterator[Odd]:
    """Lines of one split whose file another line has: it would count twice."""
    seen: dict[tuple[str, str], int] = {}
    for line in lines:
        earlier = seen.setdefault((line.split, _place_of(line.path)), line.number)
        if earlier != line.number:
            yield line.number, "file_twice", f"the file stands in line {earlier} already"


def _masks_of_two_patients(lines: Sequence[Line]) -> Iterator[Odd]:
    """Lines with the mask of another patient. Two images of one patient may share a mask."""
    seen: dict[str, Line] = {}
    for line in lines:
        for name, path in line.masks.items():
            first = seen.setdefault(_place_of(path), line)
            if first.patient_id != line.patient_id:
                what = f"the mask {name} is that of another patient in line {first.number}"
                yield line.number, "file_twice", what


def _placeholders(lines: Sequence[Line]) -> Iterator[Odd]:
    """Patients whose id stands for nobody, so that it may stand for several."""
    studies: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        studies[one_spelling(line.patient_id)].append(line.number)
    for patient, numbers in studies.items():
        alone = len(studies) == 1 and len(numbers) >= SEVERAL
        if alone or (len(numbers) > 1 and PLACEHOLDER.fullmatch(patient)):
            what = f"{len(numbers)} lines have one patient_id: is it a placeholder for several?"
            yield numbers[0], "odd_patients", what


def _uids(lines: Sequence[Line]) -> Iterator[Odd]:
    """Ids that DICOM gives to studies and series: one patient may have several."""
    uids = [line.number for line in lines if UID.fullmatch(line.patient_id)]
    if len(uids) >= SEVERAL:
        what = "patient_id holds UIDs, which studies have: one patient may have several"
        yield uids[0], "odd_patients", what


def _ids_of_views(lines: Sequence[Line]) -> Iterator[Odd]:
    """Patients in several splits whose ids differ in a side, a view or a visit alone."""
    splits: dict[str, dict[str, str]] = defaultdict(dict)  # person -> id -> split
    for line in lines:
        patient = one_spelling(line.patient_id)
        found = VIEW.fullmatch(line.patient_id)
        person = one_spelling(person_of(found[1] if found else line.patient_id))
        splits[person][patient] = line.split
        if len(splits[person]) > 1 and len(set(splits[person].values())) > 1:
            what = "ids that differ in a side, view or visit alone are in two splits: one patient?"
            yield line.number, "odd_patients", what
            return
