"""An inflated network for CT, from a folder of `mmv convert-encoder` (extra: torch).

Merlin is one. Its features are one vector in 16 slices of 3 mm and 32 pixels of 1.5 mm.

Axes: z y x voxels or tokens, D width.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.data.resample import read_crop
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.inflated_networks import NETWORKS, Inflated
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.store.read import Store

ASTRA_CHEST = (-1000.0, 200.0)  # HU that become 0 and 1
AIR = -1000.0  # HU; a chest is what lies above it
CHAINS = ("spacing", "chest")


@dataclass(frozen=True)
class InflatedEncoder:
    """An inflated network as a `StudyEncoder`, of volumes in Hounsfield units alone.

    A study is read on a grid of fixed spacing around its centre, cut or filled up with air. With
    the chain "chest" its network sees the box of what is not air instead, resized to the size of
    its images. The global vector is that of this box, and patches are interpolated from it.

    Attributes:
      size: voxels (z, y, x) of its images, multiples of the network's stride.
      spacing_mm: (z, y, x); z is a multiple of the other two.
      hu: Hounsfield units that become 0 and 1.
      network: the kind of network.
      chain: one of `CHAINS`.
    """

    model: Any
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    hu: tuple[float, float]
    network: Inflated = NETWORKS["i3resnet"]
    chain: str = "spacing"

    @property
    def thick(self) -> int:
        """Slices of cubic voxels in one slice of its images."""
        return round(self.spacing_mm[0] / self.spacing_mm[1])

    @cached_property
    def fingerprint(self) -> str:
        read = (self.size, self.spacing_mm, self.hu)
        digest = hashlib.sha256(repr(read).encode())
        if self.chain == "chest":
            digest.update(repr((self.chain, ASTRA_CHEST, AIR)).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        if geometry.planar.any():
            raise UserError(
                "an inflated network reads volumes alone. Leave planar studies out (`where`)."
            )
        stride = self.network.stride
        patch = (stride[0] * self.thick, *stride[1:])
        tokens = np.array(self.size) // stride
        step = self.spacing_mm[1]
        # The corner of a box of tokens around the study's centre.
        start = geometry.extent_mm / 2 - tokens * patch * step / 2
        crops = Crops(
            start_mm=start,
            spacing_mm=np.full(len(start), step),
            tokens=np.tile(tokens, (len(start), 1)),
            patch=patch,
        )
        # A token is kept if a part of it lies in the study.
        grid = np.stack(np.meshgrid(*map(np.arange, tokens), indexing="ij"), axis=-1)
        corner = start[:, None, None, None] + grid * np.array(patch) * step
        kept = (corner + np.array(patch) * step > 0) & (
            corner < geometry.extent_mm[:, None, None, None]
        )
        return crops, kept.all(axis=-1)

    def encode(self, store: Store, studies: Int[np.ndarray, " N"]) -> Iterator[Encoded]:
        geometry = Geometry.of(store.index)
        crops, kept = self.views(geometry[studies])
        for n, study in enumerate(studies.tolist()):
            if store.index["unit"].iloc[study] != "HU":
                raise UserError("an inflated network reads CT in Hounsfield units alone (`where`).")
            # The global vector is of the network's own tokens, before any is moved.
            if self.chain == "chest":
                grid, places = self._chest(store, geometry, study=study, crop=crops[n])
                vector = grid.mean(axis=(0, 1, 2))
                grid = at_places(grid, places)
            else:
                grid = self.read(self.image(*read_crop(store, geometry, study, crops[n])))
                vector = grid.mean(axis=(0, 1, 2))
            patches = grid[kept[n]]
            yield Encoded(study, vector, patches, patches[None][:0])

    def _chest(
        self, store: Store, geometry: Geometry, *, study: int, crop: Crops
    ) -> tuple[Float[np.ndarray, "tz ty tx D"], list[Float[np.ndarray, " t"]]]:
        """The features of the box of a chest, and where (in tokens of that box) the middles of the
        crop's tokens lie, axis by axis.
        """
        # Whole and at full resolution: the box is found voxel by voxel.
        voxels = store.read_study(study).voxels.astype(np.float32)
        box = foreground(voxels)
        low, high = ASTRA_CHEST
        shown = (area(voxels[box], self.size) - low) / (high - low)
        grid, places = self.read(shown.clip(0, 1).astype(np.float32)), []
        for a, own in enumerate(box):
            middles = (np.arange(crop.tokens[a]) + 0.5) * crop.patch[a] * float(crop.spacing_mm)
            voxel = (middles + crop.start_mm[a]) / geometry.spacing_mm[study, a] - own.start
            places.append(voxel / (own.stop - own.start) * grid.shape[a] - 0.5)
        return grid, places

    def image(
        self, voxels: Float[np.ndarray, "Z Y X"], inside: Bool[np.ndarray, "Z Y X"]
    ) -> Float[np.ndarray, "z Y X"]:
        """The image of a crop of cubic voxels, 0 to 1; 0 (air) outside of the study."""
        low, high = self.hu
        shown = ((voxels - low) / (high - low)).clip(0, 1) * inside
        return shown.reshape(-1, self.thick, *shown.shape[1:]).mean(axis=1).astype(np.float32)

    def read(self, image: Float[np.ndarray, "z Y X"]) -> Float[np.ndarray, "tz ty tx D"]:
        """The features of an image, on the axes of our studies."""
        import torch

        # Our studies grow to the patient's left and to the back.
        turned = image[:, ::-1, ::-1].transpose(0, 2, 1) if self.network.turned else image
        with torch.inference_mode():
            out = self.model(torch.from_numpy(np.ascontiguousarray(turned))[None, None]).numpy()[0]
        if not self.network.turned:
            return out.transpose(1, 2, 3, 0)
        return out.transpose(1, 3, 2, 0)[:, ::-1, ::-1]


def foreground(voxels: Float[np.ndarray, "Z Y X"]) -> tuple[slice, slice, slice]:
    """The box of what is denser than air; the whole study where nothing is."""
    there = voxels > AIR
    if not there.any():
        return slice(0, voxels.shape[0]), slice(0, voxels.shape[1]), slice(0, voxels.shape[2])
    found = [np.flatnonzero(there.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (slice(int(own[0]), int(own[-1]) + 1) for own in found)
    return z, y, x


def area(voxels: Float[np.ndarray, "Z Y X"], size: Sequence[int]) -> Float[np.ndarray, "z y x"]:
    """A volume resized by the mean over what each voxel covers, whole voxels alone: the mode "area"
    of PyTorch and MONAI.
    """
    out = voxels
    for axis, count in enumerate(size):
        n = out.shape[axis]
        first, last = np.arange(count) * n // count, -(-(np.arange(count) + 1) * n // count)
        # Sums up to each voxel; float64, as a difference of two long sums is taken.
        sums = np.cumsum(out, axis=axis, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        shape = [1, 1, 1]
        shape[axis] = count
        total = sums.take(last, axis) - sums.take(first, axis)
        out = (total / (last - first).reshape(shape)).astype(np.float32)
    return out


def at_places(
    grid: Float[np.ndarray, "tz ty tx D"], places: Sequence[Float[np.ndarray, " t"]]
) -> Float[np.ndarray, "sz sy sx D"]:
    """Features between tokens, linear in each axis; beyond the ends the last token's."""
    out = grid
    for axis, at in enumerate(places):
        at = np.clip(at, 0, out.shape[axis] - 1)
        # At the last token both neighbours are that token.
        low = np.minimum(at.astype(int), max(out.shape[axis] - 2, 0))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = len(at)
        share = (at - low).reshape(shape).astype(np.float32)
        out = (1 - share) * out.take(low, axis) + share * out.take(high, axis)
    return out


def load_inflated(folder: str | Path, chain: str = "spacing") -> InflatedEncoder:
    """Load the encoder of a folder of `mmv convert-encoder`.

    Args:
      chain: how studies become images, one of `CHAINS`.
    Raises:
      ImportError: torch is not installed.
      UserError: a file is missing or damaged, the folder is another encoder's, or there is no such
        chain.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if chain not in CHAINS:
        raise UserError(f"`chain` is {chain!r}, but must be one of {', '.join(CHAINS)}.")
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        said = json.loads((folder / "preprocessor_config.json").read_text())
        network = NETWORKS[config["model_type"]]
        model = network.make(config)
        weights = load_file(folder / "model.safetensors")
        # The count of batches is of training alone.
        missing, unknown = model.load_state_dict(weights, strict=False)
        (nz, ny, nx), (dz, dy, dx) = map(int, said["size"]), map(float, said["spacing_mm"])
        low, high = map(float, said["hu"])
        encoder = InflatedEncoder(
            model,
            size=(nz, ny, nx),
            spacing_mm=(dz, dy, dx),
            hu=(low, high),
            network=network,
            chain=chain,
        )
        fits = not any(n % step for n, step in zip(encoder.size, network.stride)) and high > low
        fits &= dy == dx and encoder.thick * dy == dz
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder.name}: it is no inflated network of `mmv convert-encoder`, or is damaged"
            f" ({type(error).__name__})."
        ) from None
    if unknown or any(not name.endswith("num_batches_tracked") for name in missing) or not fits:
        raise UserError(
            f"{folder.name}: weights, config.json and preprocessor_config.json do not fit each"
            f" other. A size is a multiple of {network.stride}, and the spacing of z one of the"
            " other spacings."
        )
    return encoder


INFLATED = EncoderSource(
    load=lambda group: load_inflated(group["folder"], group.get("chain", CHAINS[0])),
    install="mmv_jax[torch]",
    needs_folder=True,
)
