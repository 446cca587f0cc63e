"""Row writer: reads crops of studies and writes their tokens.

Axes: B rows, L tokens, V crops of a study.
"""

from collections.abc import Sequence

import numpy as np

from mmv_jax.data.augment import (
    BACKGROUND,
    DEFAULT,
    Augmentation,
    distort,
    mirrored_axes,
    normalise,
)
from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.data.occupancy import kept_tokens
from mmv_jax.data.resample import Boxes, read_crop
from mmv_jax.data.teachers import Teacher
from mmv_jax.data.tokens import COORDINATES, TOKENS, RowShape, to_patches, token_coordinates
from mmv_jax.errors import UserError
from mmv_jax.models.kinds import CLS, PATCH, REGISTER


class RowWriter:
    """Writer of crops of a store's studies into rows of one shape.

    Args:
      coordinates: a word of `tokens.COORDINATES`.
      tokens: a word of `tokens.TOKENS`, see `occupancy.kept_tokens`.
      strength: of the changes to crops that `add` gets seeds for.
      teachers: the rows hold their features beside the patches.
    Raises:
      UserError: unknown `coordinates` or `tokens`.
    """

    def __init__(
        self,
        store: Boxes,
        shape: RowShape,
        coordinates: str,
        *,
        tokens: str = "occupied",
        strength: Augmentation = DEFAULT,
        teachers: Sequence[Teacher] = (),
    ):
        if coordinates not in COORDINATES:
            raise UserError(
                f"coordinates is {coordinates!r}; choose one of {', '.join(COORDINATES)}."
            )
        if tokens not in TOKENS:
            raise UserError(f"config.data.tokens is {tokens!r}, but must be {' or '.join(TOKENS)}.")
        index = store.index
        self.geometry, self.shape = Geometry.of(index), shape
        self._store, self._coordinates, self._strength = store, coordinates, strength
        self._teachers, self._kept = teachers, tokens
        self._modality, self._unit, self._hash = (
            index[name].to_numpy(str) for name in ("modality", "unit", "study")
        )
        self._range = index[["low", "high"]].to_numpy(np.float64)

    def kept(self, studies: np.ndarray, crops: Crops) -> list[list[np.ndarray]]:
        """Masks [tz, ty, tx] of the patches that become tokens, per crop [N, V] of N studies."""
        views = [
            kept_tokens(self.geometry[studies], crops[:, v], self._kept)
            for v in range(crops.tokens.shape[1])
        ]
        return [
            [kept[i][tuple(map(slice, crops.tokens[i, v]))] for v, kept in enumerate(views)]
            for i in range(len(studies))
        ]

    def add(
        self,
        batch: dict[str, np.ndarray],
        b: int,
        *,
        at: int,
        segment: int,
        study: int,
        crop: Crops,
        kept: np.ndarray,
        is_global: bool,
        seeds: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> int:
        """Write a crop's tokens into row `b` of a batch, from position `at` on, as one segment.

        Args:
          segment: number of the segment, from 1.
          seeds: seeds of the crop (intensities) and of its study (mirroring, which is the same in
            all views); None for no augmentation.
        Returns:
          The position after the crop.
        """
        try:
            patches, clean, points = self._tokens(study, crop, kept, seeds)
        except Exception as error:
            # The keyed hash: a message must not hold a path or a patient's identifier.
            error.add_note(f"while reading study {self._hash[study]}")
            raise
        first = at + self.shape.special
        end = first + len(patches)
        batch["patches"][b, first:end] = patches
        if self.shape.clean and is_global:
            batch["clean_patches"][b, first:end] = clean
        if self._teachers:
            self._teach(batch, b, study=study, crop=crop, kept=kept, span=(first, end, segment))
        batch["coords_mm"][b, at:first], batch["coords_mm"][b, first:end] = points[0], points[1:]
        batch["kinds"][b, at:first] = [CLS, *range(REGISTER, REGISTER + self.shape.registers)]
        batch["kinds"][b, first:end] = PATCH
        batch["segment_ids"][b, at:end] = segment
        table = {
            "study": study,
            "is_global": is_global,
            "planar": self.geometry.planar[study],
            "cls_index": at,
        }
        for name, value in table.items():
            # Segment ids start at 1, since 0 is padding; the table's columns start at 0.
            batch[name][b, segment - 1] = value
        return end

    def _teach(
        self,
        batch: dict[str, np.ndarray],
        b: int,
        *,
        study: int,
        crop: Crops,
        kept: np.ndarray,
        span: tuple[int, int, int],
    ) -> None:
        """Write the features of every teacher for a crop; `span`: first token, end, segment."""
        (first, end, segment), at = span, 0
        for k, teacher in enumerate(self._teachers):
            found, there, vector = teacher.targets(self._hash[study], crop, kept)
            own = slice(at, at + teacher.width)
            batch["targets"][b, first:end, own] = found
            batch["targets_there"][b, first:end, k] = there
            batch["target_cls"][b, segment - 1, own] = vector
            at += teacher.width

    def _tokens(
        self,
        study: int,
        crop: Crops,
        kept: np.ndarray,
        seeds: tuple[Sequence[int], Sequence[int]] | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patches [n, P], the same before distortion, and coordinates [1 + n, 3].

        The first coordinates are the crop's.
        """
        unit, extent, (low, high) = (
            self._unit[study],
            self.geometry.extent_mm[study],
            self._range[study],
        )
        voxels, inside = read_crop(self._store, self.geometry, study, crop)
        rng = np.random.default_rng(seeds[0]) if seeds else None
        voxels = normalise(voxels, unit, low=low, high=high, rng=rng, strength=self._strength)
        clean = voxels
        # A shape is binary, and must stay so.
        if rng is not None and unit != "shape":
            voxels = distort(voxels, rng, self._strength)
        both = [voxels, clean] if self.shape.clean else [voxels]
        # Background is set after the distortion, which would add noise to it.
        tokens = [
            to_patches(np.where(inside, x, np.float32(BACKGROUND)), kept, crop.patch) for x in both
        ]
        points = token_coordinates(crop, extent, kept, self._coordinates)
        if seeds:
            # In a mirrored study each patch is mirrored and moves to the mirrored place. The order
            # of tokens means nothing.
            draw, modality = np.random.default_rng(seeds[1]), self._modality[study]
            mirrored = mirrored_axes(draw, modality, extent, self._strength)
            # Axis 0 counts patches, so z, y and x are axes 1 to 3.
            flipped = tuple((1 + np.flatnonzero(mirrored)).tolist())
            tokens = [np.flip(x.reshape(-1, *crop.patch), flipped).reshape(x.shape) for x in tokens]
            points[:, mirrored] *= -1
        return tokens[0], tokens[-1], points
