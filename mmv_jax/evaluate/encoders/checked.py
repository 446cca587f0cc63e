"""What an encoder gives, checked before it is kept. An encoder may be a plug-in: what of it is
wrong is said in one sentence.

Axes: N studies, n tokens, D width.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded, StudyEncoder
from mmv_jax.plugins import naming_plugin
from mmv_jax.store.read import Store

LARGEST = np.float32(1e15)  # its square is a float32, and so is the sum of many of them
FIELDS = ("cls", "patches", "early", "before")


def encode_checked(
    encoder: StudyEncoder,
    store: Store,
    studies: Int[np.ndarray, " N"],
    *,
    tokens: bool,
    deep: bool,
) -> dict[int, Encoded]:
    """The features of each study by its position in the index, as NumPy arrays.

    Args:
      tokens: whether patch tokens will be read at their places; only then the views are asked for.
      deep: whether CLS and patch tokens will be joined, as readouts do.
    Raises:
      UserError: a study is missing, comes twice or was not asked for; a shape is another than
        that of `Encoded`, or than that of the encoder's views; a value is no finite number; or
        the code of a plug-in failed.
    """
    part = store.index.iloc[studies]
    counts: dict[int, int | None] = dict.fromkeys(studies.tolist())
    if tokens or deep:
        kept = encoder.views(Geometry.of(part))[1].reshape(len(studies), -1).sum(axis=1)
        counts = dict(zip(studies.tolist(), kept.tolist()))
    found: dict[int, Encoded] = {}
    for each in _encoded(encoder, store, studies):
        if each.study not in counts:
            raise UserError(
                "it gives a study that was not asked for: `Encoded.study` is the position in the"
                " store's index that `encode` was given."
            )
        if each.study in found:
            raise UserError("it gives a study twice: `encode` gives each study once.")
        found[each.study] = _checked(each, counts[each.study], deep)
    if len(found) < len(studies):
        raise UserError(
            f"it gives no features of {len(studies) - len(found)} of {len(studies)} studies:"
            " `encode` gives each study once."
        )
    _refuse_widths(found, dict(zip(studies.tolist(), (part["ndim"] == 2).tolist())))
    _refuse_values(found)
    return found


def _encoded(encoder: StudyEncoder, store: Store, studies: np.ndarray) -> Iterator[Encoded]:
    """What the encoder gives, with arrays of any library as those of NumPy."""
    with naming_plugin(encoder, "its plug-in failed while it encoded"):
        for each in encoder.encode(store, studies):
            if not isinstance(each, Encoded):
                told = type(each).__name__
                raise UserError(f"it gives a {told}: `encode` gives an `Encoded` of each study.")
            own: dict[str, Any] = {name: _numbers(name, getattr(each, name)) for name in FIELDS}
            yield replace(each, **own)


def _numbers(name: str, values: Any) -> np.ndarray | None:
    if values is None and name == "before":
        return None
    found = np.asarray(values)
    if found.dtype.kind not in "fiu":
        raise UserError(f"`Encoded.{name}` has values of the type {found.dtype}: give floats.")
    return found


def _checked(each: Encoded, count: int | None, deep: bool) -> Encoded:
    """Args: count: the patches that the views of the encoder keep; None where nobody asks."""
    width, patches = each.cls.shape[-1:], each.patches.shape
    if each.cls.ndim != 1 or len(patches) != 2:
        raise UserError(
            f"`Encoded.cls` and `.patches` have the shapes {each.cls.shape} and {patches}: give"
            " [D] and [n, D]."
        )
    if not patches[0]:
        raise UserError("it gives a study without patch tokens: give at least one.")
    if count not in (None, patches[0]):
        raise UserError(
            f"it gives {patches[0]} patch tokens of a study, of which its `views` keep {count}:"
            " give one a kept patch, in their order."
        )
    if deep and width != patches[1:]:
        raise UserError(
            f"its CLS is {width[0]} wide and its patch tokens {patches[1]}: readouts join both."
            " Leave config.readout out, or give one width."
        )
    # Blocks, tokens, width; an encoder may have no earlier layers.
    early, before = each.early.shape, () if each.before is None else each.before.shape
    if len(early) != 3 or early[0] and early[1:] != patches:
        raise UserError(f"`Encoded.early` has the shape {early}: give [E, n, D] of {patches}.")
    if before and (len(before) != 3 or before[1:] != (patches[0] + 1, *width)):
        raise UserError(
            f"`Encoded.before` has the shape {before}: give [B, 1 + n, D], CLS and {patches[0]}"
            " tokens."
        )
    return each


def _refuse_widths(found: dict[int, Encoded], planar: dict[int, bool]) -> None:
    """Planar patches may be narrower than volumetric ones; within one of both, widths are one.

    Raises:
      UserError: they are not.
    """
    for is_planar in set(planar.values()):
        own = [each for study, each in found.items() if planar[study] == is_planar]
        widths = Counter((each.cls.shape[0], each.patches.shape[1]) for each in own)
        if len(widths) > 1:
            raise UserError(
                f"its features have {len(widths)} different widths: give one, whatever the study."
            )


def _refuse_values(found: dict[int, Encoded]) -> None:
    """Refuse features that are no numbers: every probe of them would be none, or fail.

    Raises:
      UserError: there are some.
    """
    bad = sum(not all(_are_finite(own) for own in (e.cls, e.patches)) for e in found.values())
    if bad:
        raise UserError(
            f"the features of {bad} of {len(found)} studies are not finite. The encoder's"
            " weights are damaged, or it computes in too few bits."
        )


def _are_finite(values: np.ndarray) -> bool:
    # Also false where NaN.
    return bool((np.abs(values) <= LARGEST).all())
