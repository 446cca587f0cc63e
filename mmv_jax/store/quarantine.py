"""`quarantine.jsonl` (refused lines) and `warnings.jsonl` (ingested lines with a warning).

They give codes and reasons, and name no file and no patient.
"""

import json
import time
from collections.abc import Collection

import tensorstore as ts

from mmv_jax.store.layout import PARTS, QUARANTINE, TOLD, prefix_range
from mmv_jax.store.task import Place, Refusal, Told, entry_of

EVERY_S = 5.0  # largest age of the file while an ingest runs


class Quarantine:
    """Refused lines of a store: `{"manifest": 1, "line": n, "code": "truncated", "reason": "..."}`.

    Manifests have numbers, in the order in which the store first saw them.
    """

    def __init__(self, root: ts.KvStore, name: str = QUARANTINE):
        self._root, self._name = root, name
        # With the reason: two columns of one line may have one code.
        self._entries: dict[tuple[int, int, str, str], dict] = {
            (entry["manifest"], entry["line"], entry["code"], entry["reason"]): entry
            for entry in read_quarantine(root, name)
        }
        self._written = 0.0

    def forget(self, manifest: int, codes: Collection[str] | None = None) -> None:
        """Drop the entries of a manifest (or those with one of `codes`): they are tried again."""
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if key[0] != manifest or (codes is not None and key[2] not in codes)
        }

    def forget_lines(self, places: Collection[Place], but: Collection[str]) -> None:
        """Drop the entries of lines whose files are read again, without those of codes `but`."""
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if key[:2] not in places or key[2] in but
        }

    def add(self, refusal: Refusal | Told) -> None:
        """Record a refusal or a warning; the file is rewritten at most every 5 s."""
        self._entries[*refusal.place, refusal.code, refusal.reason] = entry_of(refusal)
        # Objects of a bucket cannot be appended to. The whole file is rewritten, so not for each
        # line.
        if time.monotonic() - self._written > EVERY_S:
            self.write()

    def close(self) -> None:
        self.write()

    def write(self) -> None:
        """Replace the file as a whole."""
        lines = (json.dumps(self._entries[key]) + "\n" for key in sorted(self._entries))
        self._root.write(self._name, "".join(lines).encode()).result()
        self._written = time.monotonic()


def told_of_parts(root: ts.KvStore) -> list[Told]:
    """Warnings that finished parts keep, of this ingest and of one that was killed.

    A worker finishes parts by itself. If the ingest is killed then, the studies are not read again,
    and nobody else would know of their warnings.
    """
    entries = [
        json.loads(line)
        for key in _told_keys(root)
        for line in root.read(key).result().value.decode().splitlines()
    ]
    return [Told((e["manifest"], e["line"]), e["code"], e["reason"]) for e in entries]


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
