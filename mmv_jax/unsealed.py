"""Check of a checkpoint's step without a seal: Orbax's marks, items and arrays."""

import json
from pathlib import Path

import tensorstore as ts

from mmv_jax.buckets import kvstore_spec

TREES = ("encoder", "head", "state")  # items that are trees of arrays
# Orbax writes these files last: the mark of a complete step, and the list of its items.
COMMITTED, ITEMS = "commit_success.txt", "_CHECKPOINT_METADATA"


def fault_without_seal(folder: Path) -> str | None:
    """The fault of a step without a seal, in words; None if it is complete."""
    for mark in (ITEMS, COMMITTED):
        if not (folder / mark).exists():
            return f"it has no seal, and {mark} is missing: a copy that was cut off, perhaps"
    try:
        items = sorted(json.loads((folder / ITEMS).read_text())["item_handlers"])
    except (ValueError, KeyError, TypeError):
        return f"it has no seal, and {ITEMS} cannot be read"
    # Every step must have these two, whatever its own list says.
    for item in ("config", "encoder", *items):
        if not (folder / item / COMMITTED).exists():
            return f"it has no seal, and the item {item} is missing or not complete"
    for item in items:
        fault = _unreadable(folder / item)
        if fault:
            return f"it has no seal, and the item {item} {fault}"
    return None


def _unreadable(item: Path) -> str | None:
    """The reason why an item's files cannot be read to their end; None if they can."""
    try:
        # An item that is not a tree of arrays is a JSON file.
        if item.name not in TREES:
            json.loads((item / "metadata").read_text())
            return None
        # OCDBT is the file format of Orbax: many arrays in one key-value store.
        base = ts.KvStore.open({"driver": "ocdbt", "base": kvstore_spec(item)}).result()
        keys = base.list().result()
        # A cut-off file may still list its keys, so every value is read.
        for key in keys:
            base.read(key).result()
    except (OSError, ValueError):
        # TensorStore's own message would name paths of this machine.
        return "cannot be read to its end"
    return None if keys else "holds no array"
