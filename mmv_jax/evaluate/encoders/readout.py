"""Readouts: the last block of an encoder, or several joined, pooled to one vector a study.

Axes: N studies, E blocks, n patch tokens, D width, P places of a summary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded

LAST = 4  # the most blocks that an encoder gives: DINOv2's linear protocol reads 1 or 4
# Places of a summary, by part. The pyramid is 2 x 2 x 2 cells of the study (z, y, x).
PLACES = {"cls": (0,), "mean": (1,), "max": (2,), "deviation": (3,), "pyramid": tuple(range(4, 12))}
LOCAL, ATTENTIVE = "local", "attentive"  # poolings of a task's own
PARTS = (*PLACES, LOCAL, ATTENTIVE)


@dataclass(frozen=True)
class Readout:
    """The readouts to try for each encoder, floors included; val chooses one a task.

    Attributes:
      blocks: how many of the last blocks are joined, such as (1, 3); at most 4. An encoder with
        fewer blocks gives all it has.
      poolings: any of "cls", "mean", "max", "deviation" (standard deviation), "pyramid" (means of
        the halves along each axis), "local" (the mean over the region that a task names) and
        "attentive" (a learnt query). A "+" joins several: "cls+mean".
    """

    blocks: tuple[int, ...] = (1,)
    poolings: tuple[str, ...] = ("cls+mean",)

    @classmethod
    def of(cls, config: ConfigDict) -> "Readout | None":
        """Read `config.readout`; None where the config has none, or an empty one.

        Raises:
          UserError: a name is unknown, or no encoder gives that number of blocks.
        """
        group = config.get("readout")
        if not group:
            return None
        # A single string would be read as a sequence of letters, so it is refused below.
        asked = {
            name: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
            for name, value in group.items()
        }
        known = [field.name for field in fields(cls)]
        for name, value in asked.items():
            if name not in known or not value:
                raise UserError(
                    f"config.readout.{name} is {group[name]!r}. Use lists:"
                    " blocks=(1, 3), poolings=('cls+mean', 'max')."
                )
        found = cls(**asked)
        for blocks in found.blocks:
            # True is an int in Python, so it is refused by itself.
            if isinstance(blocks, bool) or not isinstance(blocks, int) or not 1 <= blocks <= LAST:
                raise UserError(f"config.readout.blocks has {blocks!r}. Use whole numbers, 1 to 4.")
        for pooling in found.poolings:
            if unknown := set(str(pooling).split("+")) - set(PARTS):
                raise UserError(
                    f"config.readout.poolings has {min(unknown)!r}. There are: {', '.join(PARTS)}."
                )
        return found

    @property
    def needs_tokens(self) -> bool:
        """Whether the tokens of all studies are read again, for a pooling that learns."""
        return any(ATTENTIVE in pooling.split("+") for pooling in self.poolings)

    def candidates(self, levels: int, local: bool) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Blocks and parts of each distinct readout.

        Args:
          levels: how many of its last blocks the encoder gives.
          local: whether the task names a region.
        """
        seen = set()
        for blocks in self.blocks:
            for pooling in self.poolings:
                # In an encoder with few blocks two depths can be the same.
                found = min(blocks, levels), tuple(pooling.split("+"))
                if found not in seen and (local or LOCAL not in found[1]):
                    seen.add(found)
                    yield found


def words_of(blocks: int, parts: Sequence[str]) -> str:
    """The name of a readout in the report.

    Example:
      >>> words_of(3, ("cls", "mean"))
      'last 3 blocks, cls+mean'
    """
    return f"last {'block' if blocks == 1 else f'{blocks} blocks'}, {'+'.join(parts)}"


def levels_of(encoded: Encoded) -> Float[np.ndarray, "E T D"]:
    """CLS and patch tokens after the last blocks, the last block last."""
    last = np.concatenate([encoded.cls[None], encoded.patches])[None]
    return last if encoded.before is None else np.concatenate([encoded.before, last])


def standardise_tokens(tokens: Float[np.ndarray, "*T D"]) -> Float[np.ndarray, "*T D"]:
    """Each token scaled to mean 0 and variance 1.

    This is the encoder's last norm without its scale and shift, which a linear probe does not need.
    """
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6)


def summarise(
    levels: Float[np.ndarray, "E T D"], kept: Bool[np.ndarray, "tz ty tx"]
) -> Float[np.ndarray, "E P D"]:
    """The parts of a study by `PLACES`; a pyramid cell without tokens is the mean of all tokens.

    Args:
      levels: CLS first, then the patches of `kept` in its order.
    """
    patches = levels[:, 1:]
    mean = patches.mean(axis=1)
    cells = []
    sides = np.array(kept.shape)
    # The half in which a token lies along each axis; on an axis of one token it lies in both.
    upper = 2 * np.argwhere(kept) + 1 > sides
    for cell in np.ndindex(2, 2, 2):
        inside = ((upper == np.array(cell)) | (sides == 1)).all(axis=1)
        cells.append(patches[:, inside].mean(axis=1) if inside.any() else mean)
    parts = [levels[:, 0], mean, patches.max(axis=1), patches.std(axis=1), *cells]
    return np.stack(parts, axis=1).astype(np.float32)


def pool(
    summaries: Float[np.ndarray, "N E P D"], blocks: int, parts: Sequence[str]
) -> Float[np.ndarray, "N F"]:
    """The vectors of studies: the chosen parts of the last blocks, joined."""
    chosen = summaries[:, -blocks:]
    found = []
    for part in parts:
        places = PLACES[part]
        # ndindex runs z slowest: cells 4 to 7 are the lower half along z, 8 to 11 the upper one.
        if part == "pyramid" and np.array_equal(chosen[:, :, 4:8], chosen[:, :, 8:12]):
            places = places[:4]  # planar studies have no halves along z
        # [N, E, D] to [N, E D]: the blocks side by side.
        found += [chosen[:, :, place].reshape(len(chosen), -1) for place in places]
    return np.concatenate(found, axis=1)
