"""Rows of tokens from crops: the arrays that the encoder reads.

Axes: B rows, L tokens, P voxels of a patch, S segments, M masked, V visible.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.data.crops import Crops, Triple
from mmv_jax.data.masked import SHARES

COORDINATES = ("mm", "grid", "unit")
TOKENS = ("occupied", "all")


@dataclass(frozen=True)
class RowShape:
    """Shape of a row, with which a step can be compiled before there are any data.

    Attributes:
      length: tokens of a row.
      prefix: tokens at the front that hold every global crop; the teacher reads them.
      segments: largest number of crops in a row.
      patch: voxels (z, y, x) of a patch.
      registers: extra tokens of a crop after its CLS token, without content of the image.
      visible_share: share of a global crop's patch tokens that masked reconstruction sees; None
        switches it off.
      mask_tokens: whether patch tokens of global crops are masked (iBOT).
      visible_tokens: largest number of visible tokens in a row. None: an upper bound, which is more
        than most rows have.
      target_widths: features per token of each teacher, see `teachers.py`.
      clean: whether rows also hold the patches before distortion.
    """

    length: int
    prefix: int
    segments: int
    patch: Triple
    registers: int
    visible_share: float | None = None
    mask_tokens: bool = False
    visible_tokens: int | None = None
    target_widths: tuple[int, ...] = ()
    clean: bool = False

    @property
    def special(self) -> int:
        """Number of tokens of a crop that are not patches: CLS and registers."""
        return 1 + self.registers

    @property
    def visible(self) -> int:
        """Maximum number V of visible tokens in a row.

        It is a share of the prefix, plus for each crop its special tokens and the rounding up.
        """
        assert self.visible_share is not None
        if self.visible_tokens is not None:
            return self.visible_tokens
        return int(
            np.ceil(
                self.visible_share * self.prefix
                + self.segments * ((1 - self.visible_share) * self.special + 1)
            )
        )

    def visible_of(self, patches: Int[np.ndarray, "*C"]) -> Int[np.ndarray, "*C"]:
        """Number of visible tokens among `patches` patch tokens of a global crop, rounded up."""
        # The small number keeps rounding errors from raising a whole product to the next number.
        return np.asarray(np.ceil(patches * (self.visible_share or 0.0) - 1e-9)).astype(np.int64)

    @property
    def masked(self) -> int:
        """Maximum number M of masked tokens in a row: a quarter of the prefix; the rest is cut off.

        Half of the crops are masked, and at most half of each.
        """
        return int(np.ceil(SHARES[1] / 2 * self.prefix))

    def spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch of `rows` rows, by name."""
        f32, i32 = np.float32, np.int32
        shapes = {
            "patches": ((self.length, int(np.prod(self.patch))), f32),
            "coords_mm": ((self.length, 3), f32),
            "kinds": ((self.length,), i32),
            "segment_ids": ((self.length,), i32),
            "study": ((self.segments,), i32),
            "is_global": ((self.segments,), np.bool_),
            "planar": ((self.segments,), np.bool_),
            "cls_index": ((self.segments,), i32),
        }
        if self.mask_tokens:
            shapes |= {"masked": ((self.prefix,), np.bool_), "masked_index": ((self.masked,), i32)}
        if self.visible_share is not None:
            shapes |= {"visible_index": ((self.visible,), i32)}
        if self.clean:
            shapes |= {"clean_patches": ((self.prefix, int(np.prod(self.patch))), f32)}
        if self.target_widths:
            width, teachers = sum(self.target_widths), len(self.target_widths)
            shapes |= {
                "targets": ((self.length, width), np.float16),
                "targets_there": ((self.length, teachers), np.bool_),
                "target_cls": ((self.segments, width), np.float16),
            }
        return {
            name: jax.ShapeDtypeStruct((rows, *shape), dtype)
            for name, (shape, dtype) in shapes.items()
        }

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Empty batch: zeros, and -1 for indices that may be absent."""
        absent = ("study", "masked_index", "visible_index")
        return {
            name: np.full(s.shape, -1 if name in absent else 0, s.dtype)
            for name, s in self.spec(rows).items()
        }


def study_options(data: Mapping[str, Any]) -> dict[str, str]:
    """Values of a config's group `data` by which an encoder's whole studies become tokens.

    They have the names of `study_batches`'s arguments. Checkpoints without them have the defaults.
    """
    return {
        "coordinates": data.get("coordinates", "mm"),
        "tokens": data.get("tokens", "occupied"),
    }


def to_patches(
    voxels: Float[np.ndarray, "gz gy gx"], kept: Bool[np.ndarray, "tz ty tx"], patch: Triple
) -> Float[np.ndarray, "n P"]:
    """Kept patches of a crop, in the order z, y, x.

    A planar crop (gz = 1) is repeated through the patch's depth, so that one kernel embeds both.
    """
    pz, py, px = patch
    tz, ty, tx = kept.shape
    # Depth of a patch in a volume, 1 in a planar study.
    depth = voxels.shape[0] // tz
    # Transposed to [tz, ty, tx, depth, py, px], so that one mask picks whole patches.
    tiles = voxels.reshape((tz, depth, ty, py, tx, px)).transpose((0, 2, 4, 1, 3, 5))[kept]
    return np.broadcast_to(tiles, (len(tiles), pz, py, px)).reshape(len(tiles), pz * py * px)


def token_coordinates(
    crop: Crops,
    extent_mm: Float[np.ndarray, "3"],
    kept: Bool[np.ndarray, "tz ty tx"],
    coordinates: str,
) -> Float[np.ndarray, "n 3"]:
    """Coordinates of the crop's centre (for CLS and registers), then of the kept patches' centres.

    Args:
      coordinates: "mm": from the study's centre, so that views of a study share a space and numbers
        stay small. "grid": in voxels of the crop, from its centre, as for a model without geometry.
        "unit": from -1 to 1 over the crop's sides, as public encoders see them.
    """
    sides = np.array(crop.patch, np.float64)
    # In voxels of the crop, from its lower corner.
    centres = (np.argwhere(kept) + 0.5) * sides
    middle = crop.tokens * sides / 2
    points = np.concatenate([middle[None], centres])
    if coordinates == "grid":
        return points - middle
    if coordinates == "unit":
        return points / middle - 1
    return crop.start_mm + points * crop.spacing_mm - extent_mm / 2


def choose_visible(rng: np.random.Generator, at: int, patches: int, shape: RowShape) -> np.ndarray:
    """Ascending positions of a global crop's visible tokens in the row.

    These are its special tokens, the first at `at`, and a random share of its patches.
    """
    chosen = rng.permutation(patches)[: int(shape.visible_of(np.array(patches)))]
    return at + np.concatenate([np.arange(shape.special), shape.special + np.sort(chosen)])
