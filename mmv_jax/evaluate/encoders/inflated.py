"""An inflated 3D residual network for CT, from a folder of `mmv convert-encoder` (extra: torch).

Merlin is one. Its features are one vector in 16 slices of 3 mm and 32 pixels of 1.5 mm.

Axes: z y x voxels or tokens, D width.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
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
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.store.read import Store

STRIDE = (16, 32, 32)  # voxels (z, y, x) of a token
EXPANSION = 4  # of a bottleneck's last layer


@dataclass(frozen=True)
class InflatedEncoder:
    """An inflated network as a `StudyEncoder`, of volumes in Hounsfield units alone.

    Every study is read on a grid of fixed spacing around its centre, cut or filled up with air.

    Attributes:
      size: voxels (z, y, x) of its images, multiples of STRIDE.
      spacing_mm: (z, y, x); z is a multiple of the other two.
      hu: Hounsfield units that become 0 and 1.
    """

    model: Any
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    hu: tuple[float, float]

    @property
    def thick(self) -> int:
        """Slices of cubic voxels in one slice of its images."""
        return round(self.spacing_mm[0] / self.spacing_mm[1])

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.size, self.spacing_mm, self.hu)).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        if geometry.planar.any():
            raise UserError("an i3resnet reads volumes alone. Leave planar studies out (`where`).")
        patch = (STRIDE[0] * self.thick, *STRIDE[1:])
        tokens = np.array(self.size) // STRIDE
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
                raise UserError("an i3resnet reads CT in Hounsfield units alone (`where`).")
            voxels, inside = read_crop(store, geometry, study, crops[n])
            grid = self.read(self.image(voxels, inside))
            vector = grid.mean(axis=(0, 1, 2))
            patches = grid[kept[n]]
            yield Encoded(study, vector, patches, patches[None][:0])

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

        # It was trained on (z, x, y), x growing to the right and y to the front. Ours grow to the
        # left and to the back.
        turned = np.ascontiguousarray(image[:, ::-1, ::-1].transpose(0, 2, 1))
        with torch.inference_mode():
            out = self.model(torch.from_numpy(turned)[None, None]).numpy()[0]
        return out.transpose(1, 3, 2, 0)[:, ::-1, ::-1]


def make_network(config: Mapping[str, Any]) -> Any:
    """The network of a `config.json`, with random weights: [1, 1, z, x, y] to [1, D, ...].

    Source: the design of Merlin's `models/i3res.py`; strides are of ResNet v1.5.
    """
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, planes: int, stride: int, *, first: bool):
            super().__init__()
            outputs = EXPANSION * planes
            self.conv1 = nn.Conv3d(inputs, planes, 1, bias=False)
            self.bn1 = nn.BatchNorm3d(planes)
            self.conv2 = nn.Conv3d(planes, planes, 3, stride=stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm3d(planes)
            self.conv3 = nn.Conv3d(planes, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm3d(outputs)
            self.downsample = None
            if first:
                shortcut = nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False)
                self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(outputs))

        def forward(self, x):
            out = torch.relu(self.bn1(self.conv1(x)))
            out = torch.relu(self.bn2(self.conv2(out)))
            same = x if self.downsample is None else self.downsample(x)
            return torch.relu(self.bn3(self.conv3(out)) + same)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            inputs = config["width"]
            stem = {"stride": (1, 2, 2), "padding": (1, 3, 3), "bias": False}
            self.conv1 = nn.Conv3d(3, inputs, (3, 7, 7), **stem)
            self.bn1 = nn.BatchNorm3d(inputs)
            self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
            for n, (planes, depth) in enumerate(zip(config["planes"], config["depths"]), start=1):
                blocks = []
                for block in range(depth):
                    stride = 2 if n > 1 and not block else 1
                    blocks.append(Bottleneck(inputs, planes, stride, first=not block))
                    inputs = EXPANSION * planes
                setattr(self, f"layer{n}", nn.Sequential(*blocks))

        def forward(self, x):
            # One channel three times, as the network was inflated from one of colours.
            x = torch.relu(self.bn1(self.conv1(torch.cat([x, x, x], dim=1))))
            return self.layer4(self.layer3(self.layer2(self.layer1(self.maxpool(x)))))

    return Network().eval()


def load_inflated(folder: str | Path) -> InflatedEncoder:
    """Load the encoder of a folder of `mmv convert-encoder`.

    Raises:
      ImportError: torch is not installed.
      UserError: a file is missing or damaged, or the folder is another encoder's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        said = json.loads((folder / "preprocessor_config.json").read_text())
        model = make_network(config)
        weights = load_file(folder / "model.safetensors")
        # The count of batches is of training alone.
        missing, unknown = model.load_state_dict(weights, strict=False)
        (nz, ny, nx), (dz, dy, dx) = map(int, said["size"]), map(float, said["spacing_mm"])
        low, high = map(float, said["hu"])
        encoder = InflatedEncoder(model, size=(nz, ny, nx), spacing_mm=(dz, dy, dx), hu=(low, high))
        fits = not any(n % step for n, step in zip(encoder.size, STRIDE)) and high > low
        fits &= dy == dx and encoder.thick * dy == dz
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder.name}: it is no i3resnet of `mmv convert-encoder`, or is damaged"
            f" ({type(error).__name__})."
        ) from None
    if unknown or any(not name.endswith("num_batches_tracked") for name in missing) or not fits:
        raise UserError(
            f"{folder.name}: weights, config.json and preprocessor_config.json do not fit each"
            f" other. A size is a multiple of {STRIDE}, and z a multiple of the other spacings."
        )
    return encoder


I3RESNET = EncoderSource(
    load=lambda group: load_inflated(group["folder"]), install="mmv_jax[torch]", needs_folder=True
)
