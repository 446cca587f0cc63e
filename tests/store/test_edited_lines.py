"""A manifest that was edited since it was read, and warnings that follow their studies: to another
line, out of the store, and into a joined one.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from planted import read_npy, run_here, volumes, write_manifest

from mmv_jax.errors import UserError
from mmv_jax.store import jobs, write
from mmv_jax.store.edit import deal_splits, merge, remove
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store
from mmv_jax.store.task import Job, Told
from mmv_jax.store.workers import ENGINES


def told_npy(job: Job):
    """Reads a study and warns of it, in words that say which one it was."""
    study, masks = read_npy(job)
    return replace(study, told=(("odd_study", f"begins with {study.voxels.flat[0]}"),)), masks


def take_in(path: Path, store: Path, **options):
    common = {"engine": "here", "timeout_s": 60.0, "key_path": store.parent / "key"}
    return ingest([path], store, **{"read_fn": told_npy, **common, **options})


def stopped_at(monkeypatch, name: str, command: Callable[[], object]) -> None:
    """Ends a command where it calls a function."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"mmv_jax.store.{name}", stop)
        with pytest.raises(KeyboardInterrupt):
            command()


def edited(path: Path, change: Callable[[list[dict]], list[dict]]) -> None:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(change(rows))


def warnings_of(store: Path) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list] = {}
    for entry in map(json.loads, (store / "warnings.jsonl").read_text().splitlines()):
        found.setdefault(entry["line"], []).append((entry["code"], entry["reason"]))
    return found


def said_rightly(store: Path) -> int:
    """How many studies are told of; each warning stands on the line of its own study."""
    opened = Store.open(store)
    told, count = warnings_of(store), 0
    assert not opened.index.duplicated(["manifest", "line"]).any()
    for n, line in enumerate(opened.index["line"]):
        own = [reason for code, reason in told.get(line, []) if code == "odd_study"]
        if own:
            count += 1
            first = opened.read_study(n).voxels.flat[0]
            assert own == [f"begins with {first:g}"]
    return count


@pytest.mark.parametrize("kill", [None, "written", "renumbered"])
def test_lines_that_move_take_their_warnings_along(tmp_path, monkeypatch, kill):
    path, store = write_manifest(tmp_path / "in", volumes(6)), tmp_path / "store"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    edited(path, lambda rows: rows[2:5])
    assert take_in(path, store).ingested == 3
    # New lines in front, others behind, and two in another order.
    edited(path, lambda _: [rows[0], rows[4], rows[1], *rows[2:4], rows[5]])
    if kill:  # between the two files that are written, or behind the second of them
        name = {"written": "renumber_lines", "renumbered": "tasks_of"}[kill]
        stopped_at(monkeypatch, f"ingest.{name}", lambda: take_in(path, store))
    report = take_in(path, store)
    assert (report.ingested, report.already) == (3, 3)
    assert said_rightly(store) == 6
    assert take_in(path, store).already == 6 and said_rightly(store) == 6


def test_an_edit_after_a_killed_ingest_moves_what_its_parts_keep(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "PART_STUDIES", 2)
    monkeypatch.setattr(jobs, "TASK_LINES", 4)
    path, store = write_manifest(tmp_path / "in", volumes(7)), tmp_path / "store"
    stopped_at(monkeypatch, "ingest.told_of_parts", lambda: take_in(path, store))
    (store / "warnings.jsonl").unlink()  # so that the parts alone know
    edited(path, lambda rows: [rows[6], *rows[:6]])
    assert take_in(path, store).already == 7
    assert said_rightly(store) == 7


def test_a_line_that_is_read_twice_is_told_once(tmp_path, monkeypatch):
    def twice(*given, **named):
        for event in run_here(*given, **named):
            yield from [event] * (1 + isinstance(event, Told))

    monkeypatch.setitem(ENGINES, "here", twice)
    path = write_manifest(tmp_path / "in", volumes(3))
    assert take_in(path, tmp_path / "store").told == {"odd_study": 3}


def test_lines_that_are_gone_are_told(tmp_path):
    path, store = write_manifest(tmp_path / "in", volumes(6)), tmp_path / "store"
    take_in(path, store)
    edited(path, lambda rows: rows[:2] + [{**rows[2], "split": "val"}] + rows[4:])
    report = take_in(path, store)
    assert report.told["line_gone"] == 1
    assert "1 studies of the store are on no line" in dict(warnings_of(store)[1])["line_gone"]
    with path.open() as file:
        assert len(list(file)) == 6
    write_manifest(tmp_path / "in", volumes(6))
    assert "line_gone" not in take_in(path, store).told


def test_another_list_under_the_same_name_leaves_the_warnings_of_the_first(tmp_path):
    path, store = write_manifest(tmp_path / "in", volumes(2)), tmp_path / "store"
    take_in(path, store)
    write_manifest(tmp_path / "in", volumes(2, seed=1), first=2)
    assert take_in(path, store).told["line_gone"] == 1
    entries = map(json.loads, (store / "warnings.jsonl").read_text().splitlines())
    assert len({entry["study"] for entry in entries if entry["code"] == "odd_study"}) == 4


def test_warnings_of_removed_studies_go(tmp_path):
    path, store = write_manifest(tmp_path / "in", volumes(4), note=["x y"] * 4), tmp_path / "store"
    take_in(path, store)
    gone = write_manifest(tmp_path / "gone", volumes(1), note=["x y"])
    remove(store, [gone], tmp_path / "key")
    assert said_rightly(store) == 3
    assert "odd_study" not in dict(warnings_of(store).get(2, []))
    remove(store, [path], tmp_path / "key")
    assert (store / "warnings.jsonl").read_text() == ""


def test_a_leak_is_told_as_long_as_both_of_it_are_there(tmp_path):
    contents = volumes(3)
    splits = ["train", "train", "test"]
    path = write_manifest(tmp_path / "in", [contents[0], contents[1], contents[0]], split=splits)
    store = tmp_path / "store"
    assert take_in(path, store).told["image_across_splits"] == 2
    deal_splits(store, (1, 0, 0))
    assert "image_across_splits" not in (store / "warnings.jsonl").read_text()
    deal_splits(store, (1, 1, 1), seed=next(n for n in range(9) if _apart(store, n)))
    assert (store / "warnings.jsonl").read_text().count("image_across_splits") == 2
    remove(store, [write_manifest(tmp_path / "gone", contents[:1])], tmp_path / "key")
    assert "image_across_splits" not in (store / "warnings.jsonl").read_text()


def _apart(store: Path, seed: int) -> bool:
    deal_splits(store, (1, 1, 1), seed=seed)
    index = Store.open(store).index.set_index("line")["split"]
    return index[2] != index[4]


def test_a_joined_store_has_the_warnings_and_refusals_of_its_stores(tmp_path):
    bad: list[np.ndarray | bytes] = [*volumes(3), b"broken"]
    one = write_manifest(tmp_path / "a", bad)
    two = write_manifest(tmp_path / "b", volumes(4, seed=1), first=2)
    take_in(one, tmp_path / "one")
    take_in(two, tmp_path / "two")
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    both = tmp_path / "both"
    entries = list(map(json.loads, (both / "warnings.jsonl").read_text().splitlines()))
    # Study 2 is in both, and taken from the first.
    assert sorted((e["manifest"], e["line"]) for e in entries) == [
        *((1, n) for n in (2, 3, 4)),
        *((2, n) for n in (3, 4, 5)),
    ]
    assert (both / "quarantine.jsonl").read_text().count("not_an_image") == 1


def test_a_killed_change_goes_on_with_the_same_studies_alone(tmp_path, monkeypatch):
    path, store = write_manifest(tmp_path / "in", volumes(6)), tmp_path / "store"
    take_in(path, store)
    lists = [write_manifest(tmp_path / f"list{n}", volumes(2), first=2 * n) for n in range(2)]
    first = partial(remove, store, lists[:1], tmp_path / "key")
    stopped_at(monkeypatch, "edit.take_out", first)
    for other in (lists[1:], lists):
        with pytest.raises(UserError, match="other manifests or options"):
            remove(store, other, tmp_path / "key")
    with pytest.raises(UserError, match="other manifests or options"):
        first(patients=True)
    first()
    assert len(Store.open(store)) == 4
    remove(store, lists[1:], tmp_path / "key")
    assert len(Store.open(store)) == 2


def test_a_killed_merge_goes_on_with_other_stores_and_keeps_nothing_of_the_first(
    tmp_path, monkeypatch
):
    stores = [tmp_path / name for name in ("one", "two", "three")]
    for n, store in enumerate(stores):
        path = write_manifest(tmp_path / f"in{n}", volumes(2, seed=n), first=2 * n)
        take_in(path, store)
    stopped_at(monkeypatch, "edit.write_whole_index", lambda: merge(stores[:2], tmp_path / "out"))
    merge(stores[:0:-1], tmp_path / "out")
    index = Store.open(tmp_path / "out").index
    assert len(index) == 4 and index["study"].is_unique
