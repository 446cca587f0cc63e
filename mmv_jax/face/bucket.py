"""Copies of a trained encoder from a bucket: the files that `load_encoder` needs."""

import json
import warnings
from pathlib import Path

from tensorstore import KvStore

from mmv_jax.checkpoint import SEALS, STEPS, find_fault
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.store.layout import open_root, prefix_range

UNUSED = ("state/", "head/")  # not copied: the optimizer's state is several times the encoder


def copy_from_bucket(address: str, folder: Path) -> Path | None:
    """Copy a file, or a run's newest whole step without the optimizer, from a bucket.

    Args:
      address: a safetensors file, a workdir of `mmv pretrain` or one of its steps, at `gs://`,
        `s3://` or any other address that TensorStore can list.
      folder: an empty one, for the copies.
    Returns:
      The path of the file or the step; None if the address has neither.
    Raises:
      UserError: it is not an address.
      WorkFailed: the bucket cannot be read.
    """
    whole = address.rstrip("/")
    bucket, _, name = whole.rpartition("/")
    try:
        if "://" in bucket:  # otherwise the address is a bucket alone, and no file
            single = open_root(bucket).read(name).result()
            if single.state == "value":
                return _written(folder / name, single.value)
        # "WORKDIR/checkpoints/1000" names a step. Without the middle part all of it is the workdir.
        workdir, _, step = whole.partition(f"/{STEPS}/")
        return _copy_run(open_root(workdir), step, folder)
    except (ValueError, OSError) as error:  # the message begins with TensorStore's error code
        code = str(error).split(":")[0]
        kind = UserError if code == "INVALID_ARGUMENT" else WorkFailed
        raise kind(
            f"load_encoder: {address} cannot be read ({code}). Check the address, your access and"
            " the network."
        ) from None


def _copy_run(root: KvStore, wanted: str, folder: Path) -> Path | None:
    """Copy the wanted step, or else the newest whole one."""
    keys = [key.decode() for key in root.list(prefix_range(f"{STEPS}/")).result()]
    # A key is "checkpoints/STEP/...", so its second part is the step.
    numbers = {key.split("/")[1] for key in keys}
    steps = sorted((int(n) for n in numbers if n.isdigit()), reverse=True)
    for step in steps if not wanted else [n for n in steps if str(n) == wanted]:
        _copy_step(root, step, keys, folder)
        # Checked on the copies, so that a broken download is found too.
        fault = find_fault(folder, step)
        if fault is None:
            return folder / STEPS / str(step)
        warnings.warn(f"Checkpoint {step} of the bucket is not whole ({fault}).", stacklevel=4)
    return None


def _copy_step(root: KvStore, step: int, keys: list[str], folder: Path) -> None:
    """Copy a step with its seal, reduced to the copied files."""
    inside = f"{STEPS}/{step}/"
    used = [
        key
        for key in keys
        if key.startswith(inside) and not key.removeprefix(inside).startswith(UNUSED)
    ]
    # All reads are started at once: the files are many and small.
    for key, answer in [(key, root.read(key)) for key in used]:
        _written(folder / key, answer.result().value)
    seal = root.read(f"{SEALS}/{step}.json").result()
    if seal.state == "value":
        kept = {k: v for k, v in json.loads(seal.value).items() if not k.startswith(UNUSED)}
        _written(folder / SEALS / f"{step}.json", json.dumps(kept).encode())


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
