"""Files of a Hugging Face folder: its JSON, and its tensors, which are read one at a time."""

import hashlib
import json
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.models.folder_files import refuse_pointer, weight_files
from mmv_jax.provenance import digest_line

CONFIG, TENSORS = "config.json", "model.safetensors"
# Ends of names of tensors that no feature depends on: their values may be whole numbers.
UNREAD = ("mask_token", "position_ids", "relative_position_index", "num_batches_tracked")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a folder.

    Raises:
      UserError: there is no such file, or it is damaged.
    """
    try:
        about = json.loads((folder / name).read_text())
        if not isinstance(about, dict):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"config.init.folder {folder}: it has no {name}. Give the folder of a Hugging Face"
            " model, such as a clone of facebook/dinov2-small."
        ) from None
    except ValueError:
        raise UserError(f"{folder.name}: its {name} is damaged.") from None
    return about


class Tensors:
    """Tensors of a folder by name. Each is read when it is asked for, and is not kept.

    Args:
      prefixes: that the names of the whole model may begin with; they are taken off.
    Raises:
      UserError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, prefixes: Sequence[str]):
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._at: dict[str, tuple[Path, str]] = {}  # file, and the name in it
        for path in weight_files(folder):
            refuse_pointer(path)
            try:
                # The header alone, which has the shapes.
                with safe_open(path, "numpy") as file:
                    for key in file.keys():  # noqa: SIM118 (the file is no dict)
                        self.shapes[key] = tuple(file.get_slice(key).get_shape())
                        self._at[key] = (path, key)
            except (SafetensorError, TypeError) as error:
                raise self._unreadable(path, error) from None
        for prefix in prefixes:
            if any(key.startswith(prefix) for key in self._at):
                # The rest belongs to a head or a decoder, and keeps its own name.
                self.shapes = {k.removeprefix(prefix): x for k, x in self.shapes.items()}
                self._at = {k.removeprefix(prefix): x for k, x in self._at.items()}
                break

    def __getitem__(self, name: str) -> np.ndarray:
        from safetensors import SafetensorError, safe_open

        path, key = self._at[name]
        try:
            with safe_open(path, "numpy") as file:
                value = file.get_tensor(key)
        except (SafetensorError, TypeError) as error:
            raise self._unreadable(path, error) from None
        # Whole numbers and 8 bits hold quantised weights, which need factors that are not read.
        whole = value.dtype.kind in "iub" and not name.endswith(UNREAD)
        eight = value.dtype.itemsize < 2
        if whole or eight or not np.isfinite(value.astype(np.float32)).all():
            raise UserError(
                f"config.init.folder {self.folder}: its tensor {name} ({value.dtype}) is quantised,"
                " or has values that are not finite."
            )
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def keys(self) -> KeysView[str]:
        return self._at.keys()

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, by the file's header.

        Raises:
          UserError: there is no such tensor.
        """
        if name not in self.shapes:
            raise UserError(f"config.init.folder: its {TENSORS} has no tensor {name}.")
        return self.shapes[name]

    def _unreadable(self, path: Path, error: Exception) -> UserError:
        return UserError(f"config.init.folder {self.folder}: {path.name} cannot be read ({error}).")


class TensorPlan:
    """Which parameter each tensor of a folder fills, before any of them is read."""

    def __init__(self, tensors: Tensors, folder: str):
        self.tensors, self.folder = tensors, folder
        self.taken: dict[str, str] = {}
        self._put: dict[str, np.ndarray | Callable[[np.ndarray], None]] = {}

    def __call__(
        self,
        name: str,
        where: str,
        shape: tuple[int, ...],
        into: np.ndarray | Callable[[np.ndarray], None],
    ) -> None:
        """Plans a tensor of this shape: a view that it fills, or a function that takes it."""
        if self.tensors.shape_of(name) != shape:
            raise UserError(
                f"config.init.folder {self.folder}: its tensor {name} has the shape"
                f" {self.tensors.shape_of(name)} instead of {shape}. Its {CONFIG} is another"
                " model's."
            )
        self.taken[name], self._put[name] = where, into

    def empty_norm(self, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {name: np.zeros(shape, np.float32) for name in ("scale", "bias")}

    def into_norm(self, name: str, where: str, into: Mapping[str, np.ndarray]) -> None:
        for own, their in (("scale", "weight"), ("bias", "bias")):
            self(f"{name}.{their}", where, into[own].shape, into[own])

    def norm(self, name: str, where: str, *, like: tuple[int, ...]) -> dict[str, np.ndarray]:
        made = self.empty_norm(like)
        self.into_norm(name, where, made)
        return made

    def carry_out(self) -> str:
        """Reads every tensor once, in the order of their digest, which is returned."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            value = self.tensors[name]
            for part in digest_line(name, value):
                digest.update(part)
            into = self._put.get(name)
            if isinstance(into, np.ndarray):
                into[...] = value
            elif into is not None:
                into(value.astype(np.float32))
        return digest.hexdigest()[:16]
