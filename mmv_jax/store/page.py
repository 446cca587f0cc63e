"""A page on a store for whoever manages the data: what was refused and why, leaks, duplicates,
distributions, contact sheets. It names studies by manifest line, and nobody.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mmv_jax.files import write_whole
from mmv_jax.report.figures import picture
from mmv_jax.report.page import Cell, Page, Section, Table
from mmv_jax.report.plots import PlotGrid, PlotLine, PlotPanel
from mmv_jax.store.advice import advice_on
from mmv_jax.store.inspect import sheet_of, summary
from mmv_jax.store.layout import WARNINGS, open_root
from mmv_jax.store.quarantine import read_quarantine
from mmv_jax.store.read import Store

MOST_LINES = 12  # line numbers that a table names; the file has all
BINS = 24
VALUES = 8  # of a label that are counted one by one
LEAKS = ("image_across_splits", "near_duplicate_across_splits", "patient_across_splits")
SHEET_STUDIES = 12
Entries = Sequence[Mapping]


def write_page(path: str | Path, out: Path) -> str:
    """Writes the page of the store at `path` as one HTML file; says where it is."""
    store = Store.open(path)
    root = open_root(path)
    page = page_of(store, read_quarantine(root), read_quarantine(root, WARNINGS))
    write_whole(out, page.html())
    return f"report: {out}"


def page_of(store: Store, refused: Entries, told: Entries) -> Page:
    """The page as data.

    Args:
      refused, told: entries of quarantine.jsonl and warnings.jsonl.
    """
    index = store.index
    doubled = duplicates(index)
    leaking = [entry for entry in (*refused, *told) if entry["code"] in LEAKS]
    verdict = [
        f"{len(index)} studies of {index['patient'].nunique()} patients are in the store.",
        f"{len({(e['manifest'], e['line']) for e in refused})} lines were refused,"
        f" {len({(e['manifest'], e['line']) for e in told})} were taken in and are to be looked"
        " at.",
        f"{len(leaking)} lines leak between splits." if leaking else "No leak between splits.",
        f"{sum(map(len, doubled))} studies have the very pixels of another one."
        if doubled
        else "No two studies have the same pixels.",
    ]
    sections = [
        _by_code("What was refused, and what to do", refused),
        _by_code("What was taken in, and is to be looked at", told),
        _by_code("Leaks between splits", leaking),
        _doubled(index, doubled),
        _kinds(store),
        _splits(index),
        _labels(index),
        Section("Distributions", figures=_distributions(index)),
        *_sheets(store),
    ]
    title = "What is in the store"
    return Page(title, f"named by the key {store.key_fingerprint}", verdict, sections)


def duplicates(index: pd.DataFrame) -> list[list[int]]:
    """Groups of lines of the index that hold the same voxels, masks and levels."""
    # A checksum has 32 bits and can agree by chance among many studies; grid and range decide.
    same = ["checksum", "grid_z", "grid_y", "grid_x", "low", "high"]
    groups = index.groupby(same, sort=False).indices.values()
    return [list(map(int, group)) for group in groups if len(group) > 1]


def _cells(words: Iterable[object]) -> list[Cell]:
    return [Cell(str(word)) for word in words]


def _places(entries: Entries) -> str:
    """Manifest lines in words: `manifest 1: 2, 5, 9`."""
    lines = defaultdict(list)
    for entry in entries:
        lines[entry["manifest"]].append(entry["line"])
    parts = []
    for manifest, numbers in sorted(lines.items()):
        numbers = sorted(set(numbers))
        more = f" and {len(numbers) - MOST_LINES} more" if len(numbers) > MOST_LINES else ""
        parts.append(f"manifest {manifest}: {', '.join(map(str, numbers[:MOST_LINES]))}{more}")
    return "; ".join(parts)


def _by_code(title: str, entries: Entries) -> Section:
    codes = defaultdict(list)
    for entry in entries:
        codes[entry["code"]].append(entry)
    if not codes:
        return Section(title, ["None."])
    lines = [
        _cells((code, len(found), found[0]["reason"], advice_on(code), _places(found)))
        for code, found in sorted(codes.items(), key=lambda item: -len(item[1]))
    ]
    return Section(title, tables=[Table(["code", "lines", "why", "what to do", "where"], lines)])


def _doubled(index: pd.DataFrame, groups: list[list[int]]) -> Section:
    title = "Duplicates"
    if not groups:
        return Section(title, ["No two studies have the same pixels."])
    lines = []
    for group in groups[:MOST_LINES]:
        own = index.iloc[group]
        where = _places(own[["manifest", "line"]].to_dict("records"))
        people = own["patient"].nunique()
        lines.append(_cells((where, len(group), people, ", ".join(sorted(set(own["split"]))))))
    more = len(groups) - len(lines)
    words = [f"{more} more groups are not shown."] if more > 0 else []
    return Section(title, words, tables=[Table(["where", "studies", "patients", "splits"], lines)])


def _kinds(store: Store) -> Section:
    table = summary(store)
    lines = [_cells(line) for line in table.itertuples(index=False)]
    return Section("Kinds of studies", tables=[Table(list(map(str, table.columns)), lines)])


def _splits(index: pd.DataFrame) -> Section:
    lines = [
        _cells((modality, split, len(group), group["patient"].nunique()))
        for (modality, split), group in index.groupby(["modality", "split"])
    ]
    columns = ["modality", "split", "studies", "patients"]
    return Section("Splits", tables=[Table(columns, lines, compact=True)])


def _labels(index: pd.DataFrame) -> Section:
    lines = []
    for column in (c for c in map(str, index) if c.startswith("label_")):
        values = index[column]
        by_split = [f"{split} {_values(group)}" for split, group in values.groupby(index["split"])]
        filled = f"{values.notna().mean():.0%}"
        lines.append(_cells((column.removeprefix("label_"), filled, "; ".join(by_split))))
    if not lines:
        return Section("Labels", ["The store holds no label."])
    return Section("Labels", tables=[Table(["label", "filled", "values"], lines)])


def _values(values: pd.Series) -> str:
    """Counts of few values, or least, median and greatest of many numbers."""
    counts = values.value_counts()
    if len(counts) <= VALUES:
        named = sorted(counts.items(), key=lambda item: -item[1])
        return (
            ", ".join(f"{v:g}: {n}" if isinstance(v, float) else f"{v}: {n}" for v, n in named)
            or "none"
        )
    if is_numeric_dtype(values):
        return f"{values.min():.4g} to {values.max():.4g}, median {values.median():.4g}"
    return f"{len(counts)} words"


def _distributions(index: pd.DataFrame) -> list[PlotGrid]:
    """Histograms of what a store that was put together wrongly shows first, a line a modality."""
    panels = []
    shown = {
        "spacing_x": "in-plane spacing, mm",
        "spacing_z": "distance of slices, mm",
        "grid_x": "columns",
        "grid_z": "slices",
        "low": "0.5 percentile",
        "high": "99.5 percentile",
        "label_age": "age",
    }
    for column, label in shown.items():
        if column not in index or not is_numeric_dtype(index[column]):
            continue
        volumes = column in ("spacing_z", "grid_z")
        own = index[index["ndim"] == 3] if volumes else index
        known = own[column].dropna()
        if known.nunique() < 2:
            continue
        edges = np.histogram_bin_edges(known, BINS)
        middles = [round(float(m), 4) for m in (edges[1:] + edges[:-1]) / 2]
        lines = []
        for modality, group in own.groupby("modality"):
            counts = np.histogram(group[column].dropna(), edges)[0].tolist()
            tips = [f"{modality}, about {m:g}: {n} studies" for m, n in zip(middles, counts)]
            lines.append(PlotLine(str(modality), middles, counts, tips=tips, dots=False))
        panels.append(PlotPanel(label, label, "studies", lines))
    return [PlotGrid("Distributions", panels)] if panels else []


def _sheets(store: Store) -> list[Section]:
    """A contact sheet a modality."""
    sections = []
    for modality, group in store.index.groupby("modality"):
        sheet = sheet_of(store, group.index.to_numpy(), studies=SHEET_STUDIES)
        pixels = np.asarray(sheet, np.float64) / 255
        image = picture(pixels, f"contact sheet of {modality}", max(sheet.size))
        sections.append(Section(f"Contact sheet of {modality}", figures=[image]))
    return sections
