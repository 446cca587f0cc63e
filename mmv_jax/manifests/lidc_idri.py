"""LIDC-IDRI, by its folders and the XML files of its readers."""

import re
import statistics
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, split_of

PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
LARGEST_XML = 32 << 20  # bytes; those of the release have less than one MiB
LEAST_SLICES = 20  # radiographs of the same patients have one or two files in a folder


def list_lidc_idri(root: Path, tell: Tell) -> Iterator[Row]:
    """List the CT series, each with what its (up to four) readers wrote; splits by patient.

    `nodule` is 1 where at least half of the readers marked one of 3 mm or more. `malignancy` is the
    median over the readers of the highest score (1 to 5) that each gave; it is empty where nobody
    gave one. Scores of 3 are indeterminate, so no class is made of them.

    Source: Armato et al., Medical Physics 2011; folders PATIENT/STUDY/SERIES as in
      github.com/notmatthancock/pylidc, pylidc/Scan.py; elements `unblindedReadNodule` and
      `characteristics` of the readers' XML.
    """
    radiographs = unread = 0
    for folder in sorted({path.parent for path in root.rglob("*.dcm")}):
        path = folder.relative_to(root)
        patient = next((part for part in path.parts if PATIENT.fullmatch(part)), None)
        if patient is None:
            continue
        if len(list(folder.glob("*.dcm"))) < LEAST_SLICES:
            radiographs += 1
            continue
        readers = [scores for file in folder.glob("*.xml") for scores in read_scores(file)]
        unread += not readers
        highest = [max(scores) for scores in readers if scores]
        yield {
            "study_id": path.as_posix(),
            "path": path.as_posix(),
            "patient_id": patient,
            "split": split_of(patient),
            "modality": "CT",
            "readers": str(len(readers)) if readers else "",
            "nodule": str(int(2 * len(highest) >= len(readers))) if readers else "",
            "malignancy": f"{statistics.median(highest):g}" if highest else "",
        }
    if radiographs or unread:
        tell(f"Left out: {radiographs} folders of radiographs. {unread} series have no readings.")


def read_scores(file: Path) -> list[list[int]]:
    """Malignancy scores of the nodules of 3 mm or more, for each reader of a series.

    A nodule without characteristics is smaller than 3 mm, and has no score.
    """
    if file.stat().st_size > LARGEST_XML:
        return []
    try:
        tree = ElementTree.parse(file)
    except ElementTree.ParseError:
        return []
    # The name space changed within the release; `{*}` stands for any and for none.
    return [
        [
            int(score.text or 0)
            for nodule in session.findall("{*}unblindedReadNodule")
            for score in nodule.findall("{*}characteristics/{*}malignancy")
            if (score.text or "").strip() in ("1", "2", "3", "4", "5")
        ]
        for session in tree.getroot().iter()
        if session.tag.split("}")[-1] == "readingSession"
    ]
