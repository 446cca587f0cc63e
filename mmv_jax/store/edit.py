"""Changes to a store that is there: takes studies out, corrects what the index says of them, deals
the splits anew, and joins stores.

A change that was killed leaves a mark in `store.json`: nobody reads the store until the same
command has run to its end.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorstore as ts

from mmv_jax.errors import UserError
from mmv_jax.manifests.manifest import SPLITS, read_manifest
from mmv_jax.readers.deidentify import Key
from mmv_jax.store.index import (
    carried_kinds,
    finished_parts,
    read_index,
    remove_older_indices,
    remove_whole_index,
    replace_index,
    write_whole_index,
)
from mmv_jax.store.layout import (
    FORMAT,
    PARTS,
    STORE_JSON,
    array_spec,
    open_root,
    part_prefix,
    prefix_range,
    remove_part,
)
from mmv_jax.store.lock import only_ingest
from mmv_jax.store.log_edits import forget_warnings, new_logs, retell_leaks, take_entries
from mmv_jax.store.quarantine import forget_told_of
from mmv_jax.store.read import STUDIES, UNFINISHED, read_about, refuse_lost, write_about
from mmv_jax.store.task import Place

LABEL = "label_"
UNFINISHED_OF = "unfinished_of"  # in store.json: of what a change is that was not ended


def refuse_unfinished(about: Mapping[str, Any], *, but: str = "") -> None:
    """
    Args:
      about: of a store, as `read_about` gives it.
      but: the change that may go on.
    Raises:
      UserError: a change of the store was begun and not ended.
    """
    begun = about.get(UNFINISHED)
    if begun and begun != but:
        raise UserError(
            f"`mmv {begun}` of this store was stopped. Run the same command again first."
        )


@contextlib.contextmanager
def changing(root: ts.KvStore, what: str, of: Iterable[str] = ()) -> Iterator[None]:
    """Marks a store as unfinished while it is changed; the mark stays where the change fails.

    Args:
      of: what the change is of. One that was killed goes on only with all of it: another list of
        patients would take the mark away, and leave half of the first in the store.
    Raises:
      UserError: another change was begun and not ended, whose mark this one would take away.
    """
    about, of = read_about(root) or {}, list(of)
    refuse_unfinished(about, but=what)
    if not set(about.get(UNFINISHED_OF, ())) <= set(of):
        raise UserError(
            f"`mmv {what}` of this store was stopped, with other manifests or options. Run that"
            " command again first."
        )
    write_about(root, about | {UNFINISHED: what, UNFINISHED_OF: of})
    # Before the parts: it would show what they no longer hold.
    remove_whole_index(root)
    yield
    remove_older_indices(root)
    about[STUDIES] = write_whole_index(root)
    about.pop(UNFINISHED, None)
    about.pop(UNFINISHED_OF, None)
    write_about(root, about)


def take_out(root: ts.KvStore, studies: Collection[str]) -> int:
    """Removes studies from their parts: their blocks become zeros, then their lines go. Returns how
    many there were. To be called within `changing`.
    """
    count = 0
    for part in finished_parts(root):
        lines = read_index(root, part)
        gone = lines["study"].isin(set(studies)).to_numpy()
        if not gone.any():
            continue
        count += int(gone.sum())
        forget_told_of(root, part, set(lines["study"][gone]))
        if gone.all():
            remove_part(root, part)
            continue
        # The blocks first: until the line goes, a damaged study is seen and taken out again.
        _blank(root, part, lines, gone)
        replace_index(root, part, lines[~gone])
    return count


def _blank(root: ts.KvStore, part: str, lines: pd.DataFrame, gone: np.ndarray) -> None:
    """Writes zeros over the blocks of some of a part's studies."""
    array = ts.open(array_spec(root, part), open=True).result()
    # A study's masks and levels follow its own blocks, up to the first block of the next study.
    firsts = np.sort(lines["first_block"].to_numpy())
    ends = np.append(firsts[1:], array.shape[0])
    for first in lines["first_block"].to_numpy()[gone]:
        end = int(ends[np.searchsorted(firsts, first)])
        array[int(first) : end].write(np.zeros((), np.int16)).result()


def renumber_lines(root: ts.KvStore, moved: Mapping[str, Place]) -> None:
    """Replaces the lines of manifests on which studies stand, by study."""
    for part in finished_parts(root) if moved else ():
        lines = read_index(root, part)
        now = lines["study"].map({study: line for study, (_, line) in moved.items()})
        if now.notna().any():
            lines["line"] = now.fillna(lines["line"]).astype(lines["line"].dtype)
            replace_index(root, part, lines)


def correct_lines(root: ts.KvStore, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Replaces what the index says of studies, by study: splits, patients, labels. Voxels stay. To
    be called within `changing`.
    """
    for part in finished_parts(root):
        lines = read_index(root, part)
        studies = [study for study in lines["study"] if study in known]
        # Column by column: cell by cell takes a second for a thousand studies.
        for name in dict.fromkeys(name for study in studies for name in known[study]):
            values = {study: known[study][name] for study in studies if name in known[study]}
            is_text = any(isinstance(value, str) for value in values.values())
            if name not in lines:
                lines[name] = None if is_text else np.nan
            if is_text and lines[name].dtype.kind == "f":
                lines[name] = _as_text(lines[name])
            own = lines["study"].isin(values)
            lines.loc[own, name] = [values[study] for study in lines["study"][own]]
        if studies:
            replace_index(root, part, lines)


def _as_text(numbers: pd.Series) -> pd.Series:
    return numbers.map(lambda x: f"{x:.15g}", na_action="ignore").astype(object)


def remove(
    store: str | Path,
    manifests: Sequence[Path],
    key_path: Path | None = None,
    *,
    patients: bool = False,
) -> str:
    """Takes out of a store the studies that manifests list, or all studies of their patients.

    Args:
      key_path: the key that the store was made with; by default `<store>.key`.
      patients: whether every study of a listed patient goes, listed or not.
    Returns:
      What was done, in a sentence.
    Raises:
      UserError: another key, or none of these studies is in the store.
    """
    root, fingerprint = _opened(store)
    key = Key.load(key_path or str(store).rstrip("/") + ".key")
    if key.fingerprint != fingerprint:
        raise UserError(
            f"--key: this key is {key.fingerprint}, and the store names its studies by the key"
            f" {fingerprint}. Give that one."
        )
    # A list of who withdrew may name one patient on many lines, or in two splits: only names count.
    lines = [line for path in manifests for line in read_manifest(path).lines]
    names = {key.hash("patient", line.patient_id) for line in lines}
    studies = {key.hash("study", line.study_id) for line in lines}
    list_of = key.hash("remove", "\0".join(sorted(names if patients else studies)))
    with only_ingest(store, root):
        index = read_index(root)
        refuse_lost(store, read_about(root) or {}, index)
        chosen = index["patient"].isin(names) if patients else index["study"].isin(studies)
        if not chosen.any() and not (read_about(root) or {}).get(UNFINISHED):
            raise UserError("No study of these manifests is in the store: nothing was removed.")
        with changing(root, "remove", of=[list_of]):
            # Before the studies: afterwards nobody knows on which lines they were.
            forget_warnings(root, index[chosen], index[~chosen])
            count = take_out(root, set(index["study"][chosen]))
            retell_leaks(root, read_index(root))
    return f"{count} studies were removed from {store}, {len(index) - count} are left."


def deal_splits(store: str | Path, shares: Sequence[int], seed: int = 0) -> str:
    """Gives every patient of a store a split anew, by a hash of patient and seed.

    Stores with one key give a patient the same split, so that they can be joined afterwards.

    Args:
      shares: parts of train, val and test, such as (80, 10, 10).
    Returns:
      Studies and patients by split, in a sentence.
    Raises:
      UserError: not three shares, or no store.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or sum(shares) <= 0:
        raise UserError("--shares: give three whole numbers for train, val and test: 80,10,10")
    root, _ = _opened(store)
    with only_ingest(store, root):
        refuse_lost(store, read_about(root) or {}, read_index(root))
        with changing(root, "split"):
            for part in finished_parts(root):
                lines = read_index(root, part)
                lines["split"] = [_dealt(patient, shares, seed) for patient in lines["patient"]]
                replace_index(root, part, lines)
            index = read_index(root)
            retell_leaks(root, index)
    groups = index.groupby("split")["patient"]
    said = ", ".join(f"{name} {len(group)} ({group.nunique()})" for name, group in groups)
    return f"Studies (patients) by split: {said}."


def _dealt(patient: str, shares: Sequence[int], seed: int) -> str:
    # sha256, since `hash` of a text differs from process to process.
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") % sum(shares)
    return SPLITS[int(np.searchsorted(np.cumsum(shares), place, side="right"))]


def merge(stores: Sequence[str | Path], out: str | Path) -> str:
    """Joins stores that were made with one key into a new one, part by part; none is changed.

    A study that is in several of them is taken from the first.

    Returns:
      How many studies there are, in a sentence.
    Raises:
      UserError: other keys, a patient in two splits, or `out` is there already.
    """
    roots = [_opened(store)[0] for store in stores]
    abouts = [read_about(root) or {} for root in roots]
    for about in abouts:
        refuse_unfinished(about)
    if len({about["key_fingerprint"] for about in abouts}) > 1:
        raise UserError(
            "These stores name their patients by different keys, so one patient could have two"
            " names. Ingest the manifests again with one --key FILE."
        )
    indices = [read_index(root) for root in roots]
    for store, about, index in zip(stores, abouts, indices):
        refuse_lost(store, about, index)
    _check_splits(indices)
    target = open_root(out)
    with only_ingest(out, target):
        begun = read_about(target)
        if begun is not None and begun.get(UNFINISHED) != "merge":
            raise UserError(f"--out {out} is a store already. Give the name of a new one.")
        names = list(dict.fromkeys(name for about in abouts for name in about["manifests"]))
        about = {"format": FORMAT, "key_fingerprint": abouts[0]["key_fingerprint"]}
        write_about(target, about | {"manifests": names, UNFINISHED: "merge"})
        with changing(target, "merge"):
            # What one that was killed has copied may be of other stores.
            target.delete_range(prefix_range(PARTS)).result()
            logs = new_logs(target)
            taken: set[str] = set()
            for n, (root, own, index) in enumerate(zip(roots, abouts, indices)):
                numbers = {k + 1: names.index(name) + 1 for k, name in enumerate(own["manifests"])}
                take_entries(logs, root, index[~index["study"].isin(taken)], numbers=numbers)
                for part in finished_parts(root):
                    taken |= _copied(
                        root, part, target, f"{part}-m{n}", taken=taken, numbers=numbers
                    )
            retell_leaks(target, read_index(target))
        doubled = sum(map(len, indices)) - len(taken)
    return f"{len(taken)} studies in {out}; {doubled} were in more than one store."


def _copied(
    root: ts.KvStore,
    part: str,
    target: ts.KvStore,
    name: str,
    *,
    taken: set[str],
    numbers: Mapping[int, int],
) -> set[str]:
    """Copies a part; the studies of it that were not `taken` before."""
    lines = read_index(root, part)
    kept = ~lines["study"].isin(taken).to_numpy()
    if not kept.any():
        return set()
    remove_part(target, name)
    prefix = part_prefix(part)
    for key in root.list(prefix_range(f"{prefix}blocks/")).result():
        # One shard at a time: 32 MiB at most.
        place = part_prefix(name) + key.decode().removeprefix(prefix)
        target.write(place, root.read(key).result().value).result()
    if not kept.all():
        _blank(target, name, lines, ~kept)
    # Numbers count the manifests of each store on its own; the joined store counts anew.
    lines["manifest"] = lines["manifest"].map(lambda number: numbers.get(number, number))
    replace_index(target, name, lines[kept])
    return set(lines["study"][kept])


def _check_splits(indices: Sequence[pd.DataFrame]) -> None:
    pairs = pd.concat([index[["patient", "split"]] for index in indices]).drop_duplicates()
    across = int(pairs["patient"].duplicated().sum())
    if across:
        raise UserError(
            f"{across} patients are in one split here and in another there. Give all stores the"
            " same splits first: mmv split STORE --shares 80,10,10 --seed 0, which goes by patient."
        )
    kinds = [carried_kinds(index) for index in indices]
    for name in set().union(*kinds):
        if len({own[name] for own in kinds if name in own}) > 1:
            raise UserError(
                f"The label {name!r} holds numbers in one store and words in another. Correct one"
                " manifest and ingest it with --correct."
            )


def _opened(store: str | Path) -> tuple[ts.KvStore, str]:
    """The root of a store that is there, and the fingerprint of its key."""
    root = open_root(store)
    about = read_about(root)
    if about is None:
        raise UserError(f"{store} is not a store ({STORE_JSON} is missing).")
    return root, about["key_fingerprint"]
