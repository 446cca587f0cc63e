"""The same encoder without the image: what it makes of positions alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from mmv_jax.evaluate.encoders.base import WholeStudyView
from mmv_jax.evaluate.encoders.trained import TrainedEncoder
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class BlankView(WholeStudyView):
    """Studies whose kept patches all have the same grey; their positions stay."""

    def batches(
        self, store: Store, studies: Int[np.ndarray, " N"]
    ) -> Iterator[dict[str, np.ndarray]]:
        for batch in super().batches(store, studies):
            # 0 is the grey in the middle; coordinates and segments stay as they are.
            yield batch | {"patches": np.zeros_like(batch["patches"])}


def position_alone(encoder: TrainedEncoder) -> TrainedEncoder:
    """The encoder on blank studies: where a patch lies is all that it can tell."""
    return replace(encoder, whole=BlankView(**encoder.whole.__dict__))
