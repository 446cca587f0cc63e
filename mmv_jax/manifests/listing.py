"""Manifests of existing files: a folder, or a known data set with its own splits and labels."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from glob import has_magic
from pathlib import Path

from mmv_jax.errors import UserError
from mmv_jax.files import matching, write_csv
from mmv_jax.manifests.amos import list_amos
from mmv_jax.manifests.cbis_ddsm import list_cbis_ddsm
from mmv_jax.manifests.chexpert import list_chexpert
from mmv_jax.manifests.ct_rate import list_ct_rate
from mmv_jax.manifests.deeplesion import list_deeplesion
from mmv_jax.manifests.embed import list_embed
from mmv_jax.manifests.folder import list_folder
from mmv_jax.manifests.inspect_pe import list_inspect
from mmv_jax.manifests.lidc_idri import list_lidc_idri
from mmv_jax.manifests.manifest import MASK, OPTIONAL, REQUIRED, SPLITS
from mmv_jax.manifests.merlin import list_merlin
from mmv_jax.manifests.mimic_cxr import list_mimic_cxr
from mmv_jax.manifests.nih_cxr14 import list_nih_cxr14
from mmv_jax.manifests.padchest import list_padchest
from mmv_jax.manifests.published import UNCERTAIN, UNCERTAIN_AS, Row, Tell
from mmv_jax.manifests.rsna_pneumonia import list_rsna_pneumonia
from mmv_jax.manifests.siim_acr import list_siim_acr
from mmv_jax.manifests.tcia import list_nlst, list_tcia
from mmv_jax.manifests.vindr_cxr import list_vindr_cxr
from mmv_jax.manifests.vindr_mammo import list_vindr_mammo
from mmv_jax.registry import Registry

MAX_VALUES = 6  # most values of a label that a summary lists
# name -> function that lists the studies, as rows with paths relative to the root
DATASETS: Registry[Callable[[Path, Tell], Iterator[Row]]] = Registry("data set")
DATASETS.register("folder", list_folder)
DATASETS.register("mimic-cxr", list_mimic_cxr)
DATASETS.register("chexpert", list_chexpert)
DATASETS.register("nih-cxr14", list_nih_cxr14)
DATASETS.register("ct-rate", list_ct_rate)
DATASETS.register("vindr-cxr", list_vindr_cxr)
DATASETS.register("vindr-mammo", list_vindr_mammo)
DATASETS.register("rsna-pneumonia", list_rsna_pneumonia)
DATASETS.register("amos", list_amos)
DATASETS.register("cbis-ddsm", list_cbis_ddsm)
DATASETS.register("deeplesion", list_deeplesion)
DATASETS.register("embed", list_embed)
DATASETS.register("inspect", list_inspect)
DATASETS.register("lidc-idri", list_lidc_idri)
DATASETS.register("merlin", list_merlin)
DATASETS.register("nlst", list_nlst)
DATASETS.register("padchest", list_padchest)
DATASETS.register("siim-acr", list_siim_acr)
DATASETS.register("tcia", list_tcia)


def write_manifest_of(
    kind: str,
    root: Path | str,
    out: Path | str,
    tell: Tell = lambda sentence: None,
    *,
    uncertain: str = "ignore",
) -> int:
    """Write a manifest of the studies below `root`; paths are relative to the manifest's folder.

    Args:
      kind: a name of DATASETS.
      root: the folder as it was unpacked or downloaded. For "folder" also a zip or tar archive, or
        a pattern of folders and files.
      out: the CSV to write. It names patients and paths, so it must stay with the user.
      tell: called with each sentence: what was left out, and counts.
      uncertain: what becomes of labels that a report neither states nor denies: "ignore" leaves
        them empty, "ones" and "zeros" count them as seen or not seen (Irvin et al., 1901.07031).
    Returns:
      The number of studies.
    Raises:
      UserError: unknown kind, no such folder, a missing list of the data set, no study, or `out`
        exists with columns that would be lost.
    """
    root, out = Path(root), Path(out)
    list_studies = DATASETS[kind]
    if kind == "folder" and not root.is_dir():
        root, starts = _starts(root)
        rows = list(list_folder(root, tell, starts))
    elif not root.is_dir():
        raise UserError("ROOT is not a folder: give the folder that holds the studies.")
    else:
        rows = list(list_studies(root, tell))
    if not rows:
        raise UserError(
            f"No study was found: is this the folder of {kind}?"
            if kind != "folder"
            else "The folder holds no image of a known format."
        )
    unsure = 0
    for row in rows:
        for name in (column for column, cell in row.items() if cell == UNCERTAIN):
            row[name] = UNCERTAIN_AS[uncertain]
            unsure += 1
        for name in ("path", *(column for column in row if column.endswith(MASK))):
            # Relative to the manifest, as `read_manifest` expects; `..` is allowed.
            row[name] = Path(os.path.relpath(root / row[name], out.parent)).as_posix()
    found = {column for row in rows for column in row}
    others = list(
        dict.fromkeys(
            column for row in rows for column in row if column not in (*REQUIRED, *OPTIONAL)
        )
    )
    columns = [*REQUIRED, *(name for name in OPTIONAL if name in found), *others]
    # Checked before anything is written: the user's columns cannot be recreated.
    keep_added_columns(out, columns)
    if unsure:
        tell(f"{unsure} labels are uncertain: written by --uncertain {uncertain}.")
    for sentence in summary(rows):
        tell(sentence)
    write_csv(out, columns, rows)
    return len(rows)


def _starts(root: Path) -> tuple[Path, list[Path]]:
    """The folder below which everything lies, and what is listed of it: an archive, or what matches
    a pattern.

    Raises:
      UserError: there is no such file, and nothing matches.
    """
    starts = [root] if root.is_file() else matching(root) if has_magic(str(root)) else []
    if not starts:
        raise UserError(
            "ROOT is not a folder, not an archive and no pattern that matches: give the folder that"
            " holds the studies."
        )
    return Path(os.path.commonpath([path.parent for path in starts])), starts


def keep_added_columns(out: Path, columns: list[str]) -> None:
    """Refuse to overwrite a manifest to which someone has added columns.

    Raises:
      UserError: such columns exist.
    """
    try:
        with out.open(encoding="utf-8-sig", newline="") as file:
            added = set(next(csv.reader(file), [])) - set(columns) - {""}
    except (OSError, UnicodeDecodeError, csv.Error):
        return
    if added:
        raise UserError(
            f"{out.name} exists and has columns that would be lost: {', '.join(sorted(added))}."
            " Give another --out, or remove it."
        )


def summary(rows: list[Row]) -> Iterator[str]:
    """Sentences about a manifest: studies and patients by split, and label values."""
    patients = {row["patient_id"]: row["split"] for row in rows}
    studies = Counter(row["split"] for row in rows)
    per_split = Counter(patients.values())
    counts = ", ".join(f"{split} {studies[split]} ({per_split[split]})" for split in SPLITS)
    yield f"{len(rows)} studies of {len(patients)} patients. Studies (patients) by split: {counts}."
    if len(patients) == 1 and len(rows) > 1:
        yield "All studies are of one patient: no test set can come of it. Is the id a placeholder?"
    for column in dict.fromkeys(name for row in rows for name in row):
        values = Counter(row.get(column, "") for row in rows)
        # A column with many values is not a class, and would fill the summary.
        is_label = column not in (*REQUIRED, *OPTIONAL, "age") and not column.endswith(MASK)
        if is_label and len(values) <= MAX_VALUES:
            said = ", ".join(f"{value or 'empty'} {n}" for value, n in values.most_common())
            yield f"{column}: {said}."
