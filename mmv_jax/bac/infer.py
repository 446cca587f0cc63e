"""Inference on a mammogram: probabilities of calcified artery from overlapping tiles.

Axes: Y X pixels of the file, y x of the working grid.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped
from ml_collections import ConfigDict

from mmv_jax.bac.border import left_out
from mmv_jax.bac.evidence import Groups
from mmv_jax.bac.measure import Measure
from mmv_jax.bac.model import INPUTS, TileSegmenter, make_model
from mmv_jax.bac.tiles import Blend, Tile, TileShape, pack, tiles_of
from mmv_jax.bac.view import ViewFrame, averaged, enlarged, nominal
from mmv_jax.checkpoint import restore
from mmv_jax.config import set_by_word
from mmv_jax.errors import UserError

ROWS = 2  # rows of a batch: few, so that a small view wastes little


@dataclass(frozen=True)
class Finder:
    """Fitted model with all that is needed to apply it."""

    model: TileSegmenter
    params: Any
    shape: TileShape
    measure: Measure
    origin: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def restore(cls, checkpoint: str | Path, overrides: Sequence[str] = ()) -> "Finder":
        """Restore the model of a checkpoint of `fit`.

        Args:
          overrides: words such as `--config.measure.of_views=max`.
        Raises:
          UserError: no checkpoint, one without a head, or an override outside the group `measure`.
        """
        restored = restore(checkpoint, ("encoder", "head"))
        params, config = restored.trees, restored.config
        if "measure" not in config:
            raise UserError(
                f"--checkpoint {checkpoint}: it is not a model of `mmv fit-bac`, so it cannot"
                " detect calcium. Fit one: mmv fit-bac --help"
            )
        # Older checkpoints lack these rules.
        older = ("least_group_mm2", "border_mm", "artery", "least_artery")
        rules = {name: getattr(Measure, name) for name in older} | config["measure"]
        # JSON made lists of the tuples.
        rules |= {name: tuple(rules[name]) for name in ("severity_mm2", "artery")}
        group = ConfigDict({"measure": rules}).lock()
        for word in overrides:
            set_by_word(group, word)
        model, shape = make_model(config)
        measure = Measure(**group.measure.to_dict())
        return cls(model, params, shape, measure, origin=restored.origin())

    def with_measure(self, **changes: Any) -> "Finder":
        """The same model with changed measuring rules."""
        return replace(self, measure=replace(self.measure, **changes))

    def probabilities(
        self,
        voxels: Shaped[np.ndarray, "Y X"],
        spacing_mm: tuple[float, float],
        *,
        mirrored: bool = False,
    ) -> tuple[Float[np.ndarray, "y x"], ViewFrame]:
        """Probability of calcified artery on the working grid, and the view's frame.

        It is 0 outside the breast and where nothing counts (`border.left_out`).

        Args:
          spacing_mm: (y, x) in the plane of the breast; NaN if unknown.
          mirrored: average with the result of each tile's mirror image, for twice the time
            (docs/results.md).
        """
        frame = ViewFrame.of(voxels, spacing_mm)
        values = averaged(voxels, frame.factor)
        blend = Blend(frame.shape, self.shape)
        # An unknown spacing is guessed, since positions need mm. Reported areas do not use it.
        known = nominal(spacing_mm, voxels.shape)
        coarse = (known[0] * frame.factor, known[1] * frame.factor)
        tiles = tiles_of(values, frame, coarse, self.shape)
        # `pack` fills the last group with empty rows: one shape, compiled once.
        for some in _groups(tiles, ROWS * self.shape.per_row):
            found = self._of_tiles(some)
            if mirrored:
                # Mirrored in, mirrored back out: both results lie on the same pixels.
                turned = [
                    replace(tile, image=tile.image[:, ::-1], breast=tile.breast[:, ::-1])
                    for tile in some
                ]
                found = [
                    (one + other[:, ::-1]) / 2 for one, other in zip(found, self._of_tiles(turned))
                ]
            for tile, own in zip(some, found):
                blend.add(tile.start, own)
        counts = frame.breast_pixels((0, 0), frame.shape) & ~left_out(
            values, coarse, self.measure.border_mm
        )
        return np.where(counts, blend.mean(), np.float32(0)), frame

    def seen(
        self,
        found: Float[np.ndarray, "y x"],
        frame: ViewFrame,
        shape: tuple[int, ...],
        spacing_mm: tuple[float, float],
    ) -> tuple[Bool[np.ndarray, "Y X"], float]:
        """Mask of the file's pixels that look like calcified artery, and how many mm² of it are
        sure (`Groups.sure_mm2`).

        Args:
          found, frame: from `probabilities`.
          shape, spacing_mm: of the file. An unknown spacing is replaced by a common one here.
        """
        pixel = nominal(spacing_mm, shape)
        coarse = (pixel[0] * frame.factor, pixel[1] * frame.factor)
        # Groups are judged in mm² of the working grid, where they were found.
        groups = Groups.of(found, coarse, self.measure)
        mask = enlarged(groups.counted(self.measure), frame.factor, (shape[0], shape[1]))
        return mask, groups.sure_mm2(coarse[0] * coarse[1], self.measure)

    def _of_tiles(self, tiles: Sequence[Tile]) -> list[Float[np.ndarray, "T T"]]:
        batch = pack(tiles, self.shape, ROWS)
        found = np.asarray(_predict(self.model, self.params, *(batch[name] for name in INPUTS)))
        # divmod gives (row, place in the row), as `pack` filled them.
        return [found[divmod(n, self.shape.per_row)] for n in range(len(tiles))]


# A Flax module is hashable: static, it is part of the compilation's key.
@jax.jit(static_argnums=0)
def _predict(model, params, *inputs):
    return jax.nn.sigmoid(model.apply({"params": params}, *inputs))


def _groups(tiles: Iterator[Tile], size: int) -> Iterator[list[Tile]]:
    while some := list(islice(tiles, size)):
        yield some
