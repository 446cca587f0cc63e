"""A copy of a store on a disk of this machine, from a shared file system or a bucket."""

from collections.abc import Callable
from pathlib import Path

from mmv_jax.errors import UserError
from mmv_jax.store.layout import STORE_JSON, open_root

AT_ONCE = 16  # objects that are on their way together; a shard may have a GiB


def stage(store: str, folder: str | Path, progress: Callable[[int, int], None]) -> int:
    """Copies what `folder` does not have yet of a store; returns the number of objects copied.

    An object is written whole or not at all, so a copy that was cut off goes on. The store's
    description comes last: a folder that has it is a whole store.

    Args:
      progress: takes how many objects are there and how many there are.
    Raises:
      UserError: there is no store, or another one is in the folder.
    """
    source, target = open_root(store), open_root(folder)
    keys = [key.decode() for key in source.list().result()]
    if STORE_JSON not in keys:
        raise UserError(f"{store} is not a store, which `mmv ingest` makes.")
    there = {key.decode() for key in target.list().result()}
    own = source.read(STORE_JSON).result().value
    if STORE_JSON in there and target.read(STORE_JSON).result().value != own:
        raise UserError(f"{folder} holds another store, or an older state of it. Give another one.")
    missing = sorted(set(keys) - there - {STORE_JSON})
    for at in range(0, len(missing), AT_ONCE):
        some = missing[at : at + AT_ONCE]
        read = [source.read(key) for key in some]
        for write in [target.write(key, r.result().value) for key, r in zip(some, read)]:
            write.result()
        progress(len(keys) - len(missing) + at + len(some), len(keys))
    if STORE_JSON not in there:
        target.write(STORE_JSON, own).result()
    return len(missing) + (STORE_JSON not in there)
