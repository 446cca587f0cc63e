"""`quarantine.jsonl` (refused lines) and `warnings.jsonl` (ingested lines with a warning).

They give codes and reasons, and name no file and no patient.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tensorstore as ts

from mmv_jax.store.layout import PARTS, QUARANTINE, TOLD, part_prefix, prefix_range
from mmv_jax.store.task import Place, Refusal, Told, entry_of

EVERY_S = 5.0  # least age of the file at which it is written anew while an ingest runs
# times as long as the last writing took: a file of a million lines is written less often
RARELY = 30
HEADER = 1  # line of a manifest on which a warning about all of it stands
# told of a manifest as a whole, on the first line that shows it
OF_COLUMNS = (
    "third_value",
    "not_carried",
    "line_gone",
    "odd_column",
    "odd_numbers",
    "odd_patients",
    "word_for_missing",
    "may_name_someone",
)
LEAKS = ("image_across_splits", "near_duplicate_across_splits")
# told of manifest lines, and so again at each ingest of the manifest
OF_MANIFESTS = (*OF_COLUMNS, *LEAKS, "file_twice", "differs_from_store")


class Quarantine:
    """Refused lines of a store: `{"manifest": 1, "line": n, "code": "truncated", "reason": "..."}`.

    Manifests have numbers, in the order in which the store first saw them.

    Attributes:
      studies: the study of each line whose warnings name it, so that they follow it to another line
        of an edited manifest, and go with it.
    """

    def __init__(self, root: ts.KvStore, name: str = QUARANTINE):
        self._root, self._name = root, name
        self.studies: Mapping[Place, str] = {}
        # With the reason: two columns of one line may have one code.
        self._entries: dict[tuple[int, int, str, str], dict] = {
            (entry["manifest"], entry["line"], entry["code"], entry["reason"]): entry
            for entry in read_quarantine(root, name)
        }
        self._written, self._every = 0.0, EVERY_S

    def forget(self, manifest: int, codes: Collection[str] | None = None) -> None:
        """Drop the entries of a manifest (or those with one of `codes`): they are tried again."""
        self.keep(
            lambda e: e["manifest"] != manifest or (codes is not None and e["code"] not in codes)
        )

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop all entries but those that are wanted."""
        self._entries = {key: entry for key, entry in self._entries.items() if wanted(entry)}

    def name_studies(self, before: Mapping[Place, str], but: Collection[str]) -> None:
        """Let entries name the study that stood on their line, without those of codes `but`."""
        for key, entry in self._entries.items():
            if key[2] not in but and key[:2] in before:
                entry.setdefault("study", before[key[:2]])

    def follow(self, now: Mapping[str, Place]) -> None:
        """Move the entries of studies to the lines of manifests on which these stand now."""
        # All at once: an entry may move to the line that another one leaves.
        entries = list(self._entries.values())
        self._entries = {}
        for entry in entries:
            place = now.get(entry.get("study", ""), (entry["manifest"], entry["line"]))
            entry |= {"manifest": place[0], "line": place[1]}
            self._entries[*place, entry["code"], entry["reason"]] = entry

    def add(self, refusal: Refusal | Told) -> None:
        """Record a refusal or a warning; the file is rewritten every 5 s, or less often."""
        entry = entry_of(refusal)
        if isinstance(refusal, Told) and refusal.code not in OF_MANIFESTS:
            study = self.studies.get(refusal.place)
            entry |= {"study": study} if study else {}
        self.put(entry)
        # Objects of a bucket cannot be appended to. The whole file is rewritten, so not for each
        # line.
        if time.monotonic() - self._written > self._every:
            self.write()

    def put(self, entry: Mapping[str, Any]) -> None:
        """Record a line as it stands in the file."""
        key = entry["manifest"], entry["line"], entry["code"], entry["reason"]
        self._entries[key] = dict(entry)

    def close(self) -> None:
        self.write()

    def write(self) -> None:
        """Replace the file as a whole."""
        # Measured, since a bucket may be slow, and a store may have a million lines of this kind.
        began = time.monotonic()
        lines = (json.dumps(self._entries[key]) + "\n" for key in sorted(self._entries))
        self._root.write(self._name, "".join(lines).encode()).result()
        self._written = time.monotonic()
        self._every = max(EVERY_S, RARELY * (self._written - began))


def told_of_parts(root: ts.KvStore, now: Mapping[str, Place]) -> list[Told]:
    """Warnings that finished parts keep, of this ingest and of one that was killed.

    A worker finishes parts by itself. If the ingest is killed then, the studies are not read again,
    and nobody else would know of their warnings.

    Args:
      now: lines of studies whose manifest was edited since.
    """
    return [
        Told(now.get(e.get("study", ""), (e["manifest"], e["line"])), e["code"], e["reason"])
        for e in told_entries(root)
    ]


def told_entries(root: ts.KvStore) -> list[dict[str, Any]]:
    """What finished parts keep, as lines of `warnings.jsonl`."""
    return [entry for key in _told_keys(root) for entry in read_quarantine(root, key)]


def forget_told_of(root: ts.KvStore, part: str, studies: Collection[str]) -> None:
    """Remove what a part keeps about studies that were taken out of it."""
    key = part_prefix(part) + TOLD
    entries = read_quarantine(root, key)
    left = [entry for entry in entries if entry.get("study") not in studies]
    if len(left) < len(entries):
        root.write(key, "".join(json.dumps(entry) + "\n" for entry in left).encode()).result()


def forget_told(root: ts.KvStore) -> None:
    """Remove what the parts keep, once `warnings.jsonl` holds it."""
    for key in _told_keys(root):
        root.write(key, None).result()


def _told_keys(root: ts.KvStore) -> list[str]:
    keys = map(bytes.decode, root.list(prefix_range(PARTS)).result())
    return sorted(key for key in keys if key.endswith(f"/{TOLD}"))


def read_quarantine(root: ts.KvStore, name: str = QUARANTINE) -> list[dict]:
    """Entries of a store's quarantine (or of its warnings), by manifest and line."""
    answer = root.read(name).result()
    return (
        [json.loads(line) for line in answer.value.decode().splitlines()]
        if answer.state == "value"
        else []
    )
