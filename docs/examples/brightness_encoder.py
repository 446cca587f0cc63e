"""The brightness of each patch: its mean and its spread."""

from dataclasses import dataclass

import numpy as np

from mmv_jax.data.crops import Geometry, whole_crops
from mmv_jax.data.occupancy import kept_tokens
from mmv_jax.data.resample import read_crop
from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.evaluate.encoders.table import SOURCES
from mmv_jax.evaluate.tasks.scenes import tiles


@dataclass(frozen=True)
class Brightness:
    side: int
    fingerprint: str = "brightness 1"

    def views(self, geometry):
        grids = {2: (1, self.side, self.side), 3: (self.side,) * 3}
        crops = whole_crops(geometry, grids, (4, 8, 8))
        return crops, kept_tokens(geometry, crops)

    def encode(self, store, studies):
        geometry = Geometry.of(store.index)
        crops, kept = self.views(geometry[studies])
        for n, study in enumerate(studies.tolist()):
            voxels, _ = read_crop(store, geometry, study, crops[n])
            own = tiles(voxels, kept[n][tuple(map(slice, crops.tokens[n]))]).astype(np.float32)
            patches = np.stack([own.mean(axis=1), own.std(axis=1)], axis=1)
            yield Encoded(study, patches.max(axis=0), patches, patches[None][:0])


SOURCES.register("brightness", EncoderSource(load=lambda group: Brightness(group["side"])))
