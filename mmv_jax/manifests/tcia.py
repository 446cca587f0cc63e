"""Any collection of The Cancer Imaging Archive, as its downloader leaves it; NLST with labels."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from mmv_jax.manifests.published import Row, Tell, published_table, split_of

# Each file of these is an image; of the others, a series is a volume.
PROJECTIONS = ("MG", "CR", "DX", "RF", "XA")
VOLUMES = ("CT", "MR", "PT")
COLUMNS = ("Series UID", "Subject ID", "Modality", "File Location")
TRIAL_YEARS = ("0", "1", "2")


def list_tcia(root: Path, tell: Tell) -> Iterator[Row]:
    """List the series of a TCIA download by its `metadata.csv`; splits are drawn by subject.

    Objects that are no images (SEG, SR, RTSTRUCT and others) are left out and counted, as are
    series whose folder is not there. The collection becomes the column `source`.

    Source: `metadata.csv` of the NBIA Data Retriever (wiki.cancerimagingarchive.net, page
      Downloading TCIA Images): Series UID, Collection, Subject ID, Modality, File Location.
    """
    left: Counter[str] = Counter()
    for line in published_table(root, "**/metadata.csv", *COLUMNS):
        modality, subject = line["Modality"].strip(), line["Subject ID"].strip()
        if modality not in (*PROJECTIONS, *VOLUMES):
            left[f"{modality or 'unnamed'} series"] += 1
            continue
        folder = _folder(root, line["File Location"])
        if folder is None:
            left["series that were not downloaded"] += 1
            continue
        path = folder.relative_to(root).as_posix()
        files = sorted(folder.glob("*.dcm")) if modality in PROJECTIONS else []
        for place in [file.relative_to(root).as_posix() for file in files] or [path]:
            yield {
                "study_id": place,
                "path": place,
                "patient_id": subject,
                "split": split_of(subject),
                "modality": modality,
                "source": line.get("Collection", ""),
            }
    if left:
        tell("Left out: " + ", ".join(f"{n} {kind}" for kind, n in sorted(left.items())) + ".")


def list_nlst(root: Path, tell: Tell) -> Iterator[Row]:
    """List the CT series of NLST; splits are drawn by participant, reconstructions stay together.

    `cancer` is 1 where lung cancer was diagnosed during the trial, `cancer_1y` where it was within
    a year of this screen. Localisers of one slice are left to the reader, which refuses them.

    Source: National Lung Screening Trial on TCIA; the participants' table `nlst_*prsn*.csv` with
      pid, scr_days0 to scr_days2, candx_days and fup_days, as in
      github.com/reginabarzilaygroup/Sybil, sybil/datasets/nlst.py (`check_label`, `get_label`).
    """
    columns = ("pid", "candx_days", "scr_days0", "scr_days1", "scr_days2")
    people = {line["pid"]: line for line in published_table(root, "**/nlst_*prsn*.csv", *columns)}
    dates: dict[str, set[str]] = defaultdict(set)
    rows = list(list_tcia(root, tell))
    for row in rows:
        dates[row["patient_id"]].add(_study_year(row["path"]))
    for row in rows:
        person = people.get(row["patient_id"])
        if person is None:
            continue
        year = _study_year(row["path"])
        known = {"sex": {"1": "M", "2": "F"}.get(person.get("gender", ""), "")}
        yield {**row, **known, "age": person.get("age", ""), **cancer_of(person, year)}


def cancer_of(person: Row, year: str) -> Row:
    """Labels of a screen in the trial's year "0", "1" or "2"; empty where that is not known."""
    diagnosed, screened = person["candx_days"].strip(), ""
    if year in TRIAL_YEARS:
        screened = person[f"scr_days{year}"].strip()
    within = ""
    if screened:
        within = str(int(bool(diagnosed) and 0 <= int(diagnosed) - int(screened) <= 365))
    return {"screen": year, "cancer": str(int(bool(diagnosed))), "cancer_1y": within}


def _study_year(path: str) -> str:
    """Year of the trial (0, 1, 2) by the date of the study's folder, 01-02-1999 and so on.

    The release has no true study dates: 19990102 is year 0, 20000102 year 1, 20010102 year 2.

    Source: wiki.cancerimagingarchive.net, page "NLST CT Images -- General Details" (6881541).
    """
    for part in path.split("/"):
        year = part[6:10] if len(part) > 10 and part[2] == part[5] == "-" else ""
        if year in ("1999", "2000", "2001"):
            return str(int(year) - 1999)
    return ""


def _folder(root: Path, stated: str) -> Path | None:
    """Folder of a series; the table may have the path of Windows, and begin at the download."""
    parts = [part for part in stated.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    inner = [Path(*parts), Path(*parts[1:])]
    tops = [root, *(path for path in root.iterdir() if path.is_dir())]
    return next((top / path for top in tops for path in inner if (top / path).is_dir()), None)
