"""What was seen on each mammogram, kept on disk so that a stopped run goes on where it was.

A file `KEY.npz` a mammogram. The key is a digest of the pixels, their spacing and the model with
its rules, so that nothing of another file, model or rule is taken for it. No name, date or id is
written.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from mmv_jax.bac.infer import Finder
from mmv_jax.bac.sources import Mammogram
from mmv_jax.files import replacing


@dataclass(frozen=True)
class Kept:
    """The masks of one run's model in a folder."""

    folder: Path
    model: str

    @classmethod
    def of(cls, folder: Path, finder: Finder) -> "Kept":
        folder.mkdir(parents=True, exist_ok=True)
        # Rules of breasts and women come later and change no mask.
        measure = finder.measure
        names = ("threshold", "least_group_mm2", "border_mm", "artery", "least_artery")
        rules = [getattr(measure, name) for name in names]
        return cls(folder, json.dumps([dict(finder.origin), rules], sort_keys=True, default=str))

    def key(self, mammogram: Mammogram) -> str:
        voxels = np.ascontiguousarray(mammogram.study.voxels[0])
        digest = hashlib.sha256(voxels.tobytes())
        about = (voxels.shape, str(voxels.dtype), mammogram.spacing_mm, self.model)
        digest.update(repr(about).encode())
        return digest.hexdigest()[:32]

    def load(self, key: str) -> tuple[Bool[np.ndarray, "Y X"], float, bool] | None:
        """(mask, mm² that are sure, whether a breast is seen), or None where it is not there."""
        try:
            # Opened here: `np.load` leaves a damaged file open.
            with self._path(key).open("rb") as file, np.load(file) as arrays:
                shape = tuple(int(n) for n in arrays["shape"])
                mask = np.unpackbits(arrays["bits"], count=math.prod(shape)).reshape(shape)
                return mask.astype(bool), float(arrays["sure_mm2"]), bool(arrays["breast"])
        # A machine that went down may leave half a file: it is measured again.
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, key: str, mask: Bool[np.ndarray, "Y X"], sure_mm2: float, breast: bool) -> None:
        with replacing(self._path(key)) as part, open(part, "wb") as file:
            # A bit a pixel; packing fills up whole bytes, hence the shape.
            np.savez_compressed(
                file,
                bits=np.packbits(mask),
                shape=np.array(mask.shape),
                sure_mm2=sure_mm2,
                breast=breast,
            )

    def prune(self, keys: Collection[str]) -> None:
        """Takes away what none of `keys` names."""
        for path in self.folder.glob("*.npz"):
            if path.stem not in keys:
                path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"
