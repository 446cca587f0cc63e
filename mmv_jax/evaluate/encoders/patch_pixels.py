"""The pixel floor of segmentation: the features of a patch are its own voxels. Axes: N studies."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.evaluate.encoders.base import Encoded, WholeStudyView, segments
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class PatchPixels:
    """The pixel floor of segmentation: a token is its patch's voxels; the study's vector is their
    mean.
    """

    whole: WholeStudyView

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([repr(self.whole), "pixels"]).encode()).hexdigest()[:16]

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        return self.whole.views(geometry)

    def encode(self, store: Store, studies: Int[np.ndarray, " N"]) -> Iterator[Encoded]:
        plane = self.whole.patch[1] * self.whole.patch[2]
        planar = (store.index["ndim"] == 2).to_numpy()
        for batch in self.whole.batches(store, studies):
            for study, row, _, where in segments(batch):
                patches = batch["patches"][row, where]
                # A planar patch is one slice, repeated: keep one copy.
                patches = patches[:, :plane] if planar[study] else patches
                # [:0] is empty along the first axis: pixels have no earlier layers.
                yield Encoded(study, patches.mean(axis=0), patches, patches[None][:0])
