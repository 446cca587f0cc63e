"""Shared parts of the recipes for published data sets: rows, tables, splits and labels.

One rule for splits: what a data set holds out is held out here. If it names three splits, they are
kept. If it names two, the held-out one is "test", and a hash of the patient draws a tenth of the
training patients for "val".

One rule for labels made from reports: 1 positive, 0 negative or not mentioned, empty uncertain
(U-Ignore of Irvin et al., arXiv 1901.07031).
"""

import csv
import gzip
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mmv_jax.errors import UserError
from mmv_jax.readers.archive import MARK, kind_of_archive, open_archive

ARCHIVE_ENDS = (".zip", ".tar", ".tgz", ".gz")
OLDEST = 120  # years; a higher age is a typing error
Row = dict[str, str]
Tell = Callable[[str], None]  # called with a sentence about what was left out or looks odd
# the fourteen labels of CheXpert's labeller, which MIMIC-CXR-JPG used too
REPORT_FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


# A finding that a report neither states nor denies; `write_manifest_of` writes what was chosen.
UNCERTAIN = "(uncertain)"
# By the names of Irvin et al.: U-Ignore, U-Ones and U-Zeros.
UNCERTAIN_AS = {"ignore": "", "ones": "1", "zeros": "0"}


def split_of(patient: str, *, val: int = 10, test: int = 10) -> str:
    """Split drawn by a hash of the patient, with `val` and `test` in percent."""
    # sha256, since Python's `hash` of a text differs between processes.
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % 100
    return "val" if place < val else "test" if place < val + test else "train"


def report_labels(line: Row | None, findings: tuple[str, ...]) -> Row:
    """0/1 columns of a report's findings; UNCERTAIN, or empty without a report."""
    if line is None:
        return dict.fromkeys(map(column_of, findings), "")
    # The labeller writes 1, 0, -1 (uncertain) or nothing (not mentioned).
    words = {"1": "1", "1.0": "1", "-1": UNCERTAIN, "-1.0": UNCERTAIN}
    return {
        column_of(finding): words.get(line.get(finding, "").strip(), "0") for finding in findings
    }


def age_in_years(text: str) -> str:
    """Age in years, as text, from a DICOM age string or a number; empty if implausible.

    Source: DICOM PS3.5, 6.2, AS: three digits and D, W, M or Y.

    >>> [age_in_years(age) for age in ("058Y", "018M", "012D", "010W", "58", "414Y", "")]
    ['58', '1.5', '0.033', '0.19', '58', '', '']
    """
    found = re.fullmatch(r"\s*(\d{1,3})(?:\.0*)?\s*([DWMY]?)\s*", text.upper())
    if found is None:
        return ""
    # Number of these units in a year.
    years = int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}[found[2]]
    return f"{years:.2g}" if years < 10 else f"{years:.0f}" if years <= OLDEST else ""


def column_of(name: str) -> str:
    """Column name of a finding: lower case, words joined by `_`."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_")


def places_of(root: Path, end: str) -> dict[str, str]:
    """Paths below `root` of the files and members of archives that end in `end`, by their names."""
    found: dict[str, str] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        place = path.relative_to(root).as_posix()
        if path.name.endswith(end):
            found.setdefault(path.name, place)
        elif path.suffix in ARCHIVE_ENDS and kind_of_archive(path):
            for member in open_archive(path).members:
                if member.endswith(end):
                    found.setdefault(PurePosixPath(member).name, f"{place}{MARK}{member}")
    return found


def published_table(root: Path, pattern: str, *columns: str, separator: str = ",") -> list[Row]:
    """Lines of the lists that match `pattern`, plain or gzipped.

    Raises:
      UserError: no list matches, or one lacks a column of `columns`. The message names the list: it
        belongs to the data set, not to a patient.
    """
    files = sorted(root.glob(pattern))
    if not files:
        raise UserError(
            f"{pattern} is not in the folder: it is the data set's own list. Download it next to"
            " the images."
        )
    rows: dict[Path, list[Row]] = {}
    for path in files:
        # The same list, also unpacked beside itself, counts once.
        plain = path.with_name(path.name.removesuffix(".gz"))
        if plain in rows:
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = io.StringIO(data.decode("utf-8-sig"))
        # Some lists have blanks in front of their column names.
        names = [name.strip() for name in next(csv.reader(text, delimiter=separator), [])]
        reader = csv.DictReader(text, names, delimiter=separator)
        missing = [name for name in columns if name not in names]
        if missing:
            raise UserError(
                f"{pattern} has no column {', '.join(missing)}. Download the list again: it is the"
                " data set's own."
            )
        rows[plain] = [{key: value or "" for key, value in line.items() if key} for line in reader]
    return [line for lines in rows.values() for line in lines]


def published_words(root: Path, name: str) -> list[str]:
    """Words of one of the data set's lists.

    Raises:
      UserError: the list is missing.
    """
    if not (root / name).exists():
        raise UserError(
            f"{name} is not in the folder: it is the data set's own list. Download it next to the"
            " images."
        )
    return (root / name).read_text().split()
