"""`quarantine.jsonl`: which manifest lines were refused, and why. Names no file and no patient."""

import json
import time

import tensorstore as ts

from mmv_jax.store.layout import QUARANTINE
from mmv_jax.store.task import Place, Refusal

EVERY_S = 5.0  # at most this old is the file while an ingest runs


class Quarantine:
    """The refused lines of a store, `{"manifest": 1, "line": n, "code": "truncated", "reason":
    "..."}` each.

    The manifest is its number in the order in which the store met it.
    """

    def __init__(self, root: ts.KvStore):
        self._root = root
        self._entries: dict[Place, dict] = {
            (entry["manifest"], entry["line"]): entry for entry in read_quarantine(root)
        }
        self._written = 0.0

    def forget(self, manifest: int) -> None:
        """Drops a manifest's lines: they are tried again."""
        self._entries = {
            place: entry for place, entry in self._entries.items() if place[0] != manifest
        }

    def add(self, refusal: Refusal) -> None:
        manifest, line = refusal.place
        self._entries[refusal.place] = {
            "manifest": manifest,
            "line": line,
            "code": refusal.code,
            "reason": refusal.reason,
        }
        if time.monotonic() - self._written > EVERY_S:
            self.write()

    def close(self) -> None:
        self.write()

    def write(self) -> None:
        """Replaces the file as a whole."""
        lines = (json.dumps(self._entries[place]) + "\n" for place in sorted(self._entries))
        self._root.write(QUARANTINE, "".join(lines).encode()).result()
        self._written = time.monotonic()


def read_quarantine(root: ts.KvStore) -> list[dict]:
    """The entries of a store's quarantine, by manifest and line."""
    answer = root.read(QUARANTINE).result()
    return (
        [json.loads(line) for line in answer.value.decode().splitlines()]
        if answer.state == "value"
        else []
    )
