"""The kNN probe of a run: nearest neighbours in feature space predict a label of each modality.

Axes: N studies, D width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from mmv_jax.data.crops import Triple
from mmv_jax.data.study_batches import study_batches
from mmv_jax.metrics.features import knn_score
from mmv_jax.models.backbone import Backbone
from mmv_jax.models.kinds import PATCH
from mmv_jax.parallel import row_sharding
from mmv_jax.store.read import Store

# The most studies of train and of val: enough for a trend, and seconds of work on small studies.
BANK, QUERIES = 256, 128
INPUTS = ("patches", "coords_mm", "kinds", "segment_ids")
ROWS = 4  # the fewest rows of a batch


@dataclass(frozen=True)
class Probe:
    """The kNN probe of a run. It never reads test studies.

    Attributes:
      labels: for each modality the label column to predict.
      length: tokens of a row.
      grids: for each dimensionality the most voxels (z, y, x) of a whole study.
      options: see `tokens.study_options`.
    """

    store: Store
    encoder: Backbone
    labels: Mapping[str, str]
    length: int
    grids: Mapping[int, Triple]
    options: Mapping[str, str]

    def untold(self) -> dict[str, str]:
        """The labels that this store cannot give, and why, by modality. `figures` omits them."""
        return {
            modality: why
            for modality, label in self.labels.items()
            if (why := self._fault(modality, label))
        }

    def figures(self, params: Any, mesh: Mesh) -> dict[str, float]:
        """`knn_<modality>`: AUROC of a label with two values, accuracy of one with more.

        The feature is the mean patch token.
        """
        found = {}
        untold = self.untold()
        for modality, label in ((m, label) for m, label in self.labels.items() if m not in untold):
            bank, queries = (self._studies(modality, label, split) for split in ("train", "val"))
            features = self._encode(params, np.concatenate([bank, queries]), mesh)
            # Both splits are coded in one call, so that a class has the same number in both.
            _, values = np.unique(
                self.store.index[f"label_{label}"].iloc[np.concatenate([bank, queries])],
                return_inverse=True,
            )
            # The bank comes first in features and values; the queries follow.
            n = len(bank)
            found[f"knn_{modality}"] = knn_score(features[:n], values[:n], features[n:], values[n:])
        return found

    def _fault(self, modality: str, label: str) -> str | None:
        if f"label_{label}" not in self.store.index:
            return f"the store has no label {label!r}"
        for split in ("train", "val"):
            values = self.store.index[f"label_{label}"].iloc[self._studies(modality, label, split)]
            if values.nunique() < 2:
                return (
                    f"{label!r} has fewer than two values among the {modality} studies of {split}"
                )
        return None

    def _studies(self, modality: str, label: str, split: str) -> Int[np.ndarray, " N"]:
        """Studies of known label, spread over the index, the same at every step."""
        index = self.store.index
        known = np.flatnonzero(
            (index["modality"] == modality)
            & (index["split"] == split)
            & index[f"label_{label}"].notna()
        )
        # Evenly spread, not drawn: every probe takes the same studies, so figures are comparable.
        most = BANK if split == "train" else QUERIES
        return (
            known[
                np.unique(np.linspace(0, len(known) - 1, min(most, len(known))).round().astype(int))
            ]
            if len(known)
            else known
        )

    def _encode(
        self, params: Any, studies: Int[np.ndarray, " N"], mesh: Mesh
    ) -> Float[np.ndarray, "N D"]:
        at = {study: i for i, study in enumerate(studies.tolist())}
        features = np.zeros((len(studies), self.encoder.width), np.float32)
        sharding = row_sharding(mesh)
        # Rounded up to a multiple of the devices, so that each takes as many rows.
        for batch in self._batches(studies, rows=-(-ROWS // mesh.size) * mesh.size):
            # Every process reads every batch and encodes its own rows of it. All processes get all
            # tokens, and so the same figures.
            inputs = (
                jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
                for x in map(batch.__getitem__, INPUTS)
            )
            tokens = np.asarray(
                _tokens(self.encoder, NamedSharding(mesh, PartitionSpec()), params, *inputs)
            )
            for row, s in zip(*np.nonzero(batch["study"] >= 0)):
                # Column s of `study` describes segment s + 1, since id 0 is padding.
                own = (batch["segment_ids"][row] == s + 1) & (batch["kinds"][row] == PATCH)
                features[at[int(batch["study"][row, s])]] = tokens[row, own].mean(axis=0)
        return features

    def _batches(
        self, studies: Int[np.ndarray, " N"], rows: int
    ) -> Iterator[dict[str, np.ndarray]]:
        encoder = self.encoder
        return study_batches(
            self.store,
            studies.tolist(),
            grids=self.grids,
            patch=encoder.patch,
            registers=encoder.registers,
            length=self.length,
            rows=rows,
            **self.options,
        )


@jax.jit(static_argnums=(0, 1))
def _tokens(encoder, everywhere, params, *inputs):
    tokens = encoder.apply({"params": params}, *inputs)["tokens"]
    # Replicated, since a process can read only what its own devices hold.
    return jax.lax.with_sharding_constraint(tokens, everywhere)
