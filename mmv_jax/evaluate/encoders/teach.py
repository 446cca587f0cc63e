"""Features of a teacher for `objective.distil`: encoded once, normalised, with places in mm and a
card.

Axes: T tokens, D width of the teacher, W features that are kept.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from mmv_jax.data.crops import Geometry
from mmv_jax.data.mixture import groups_of
from mmv_jax.data.teachers import CARD, CLS, FORMAT, PLACES, SAID, TOKENS
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import CHUNK, Features, encode_parts
from mmv_jax.files import write_whole
from mmv_jax.provenance import versions
from mmv_jax.report.progress import progress
from mmv_jax.store.read import Store

FITTED_ON = 256  # train studies, evenly spaced, whose tokens give the principal axes


def teach(
    encoder: StudyEncoder,
    store: str | Path,
    out: Path,
    *,
    card: dict[str, Any],
    width: int = 256,
    only: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Encode each study whole and write `OUT/{card.json, tokens.npy, cls.npy, places.npz}`.

    A stopped call is resumed. Studies of the test split are left out. Tokens are centred, projected
    on their `width` principal axes, and scaled to a mean square of 1, with axes and scale from
    train. `cls` likewise, with axes of its own.

    Args:
      card: `name`, `preprocessing`, `licence`, `trained_on` and `patients` of the teacher (see
        `data/teachers.py`).
      only: values of index columns that a study must have, to teach a part of the store; a study
        without a value is "unknown", as in `data.mixture`.
    Returns:
      What was written, in words.
    Raises:
      UserError: the card is incomplete, the store has no study of train, or a value of `only` is
        not in the store.
    """
    opened = Store.open(store)
    split = opened.index["split"].to_numpy(str)
    studies = np.flatnonzero((split != "test") & _fits(opened.index, only or {}))
    train = studies[split[studies] == "train"]
    own = {"width", "key_fingerprint"}
    if missing := [name for name in SAID if name not in own and not card.get(name)]:
        raise UserError(f"The teacher's card does not say {', '.join(missing)}.")
    if not len(train):
        asked = " that fits --where" if only else ""
        raise UserError(f"--store {store} has no study of the split train{asked}, which axes need.")
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD).unlink(missing_ok=True)  # written last: a folder with a card is whole

    # Two passes need two generators: one for the axes, one to write the tokens.
    def parts():
        return encode_parts(
            encoder,
            opened,
            studies=studies,
            with_tokens=studies,
            folder=out / "parts",
            report=progress("encoded"),
        )

    axes, cls_axes = _fit(parts(), train, width)
    table = _places(encoder, opened, studies)
    count = _write(parts(), out, axes=axes, cls_axes=cls_axes)
    # The encoder gives the tokens, its views their places: the numbers must match.
    if count != int(table["count"].sum()):
        raise UserError("The encoder's tokens do not match its views, so their places are unknown.")
    write_whole(out / PLACES, lambda file: np.savez(file, allow_pickle=False, **table))
    kept = {
        "format": FORMAT,
        "width": axes.width,
        "key_fingerprint": opened.key_fingerprint,
        "encoder": encoder.fingerprint,
        "versions": versions(),
    }
    write_whole(out / CARD, json.dumps(card | kept, indent=1) + "\n")
    return f"{len(studies)} studies, {count} tokens, {axes.width} features each: {out}"


def _fits(index: pd.DataFrame, only: Mapping[str, Sequence[str]]) -> Bool[np.ndarray, "N"]:
    fits = np.ones(len(index), bool)
    for name, wanted in only.items():
        groups = groups_of(index, name)
        if absent := sorted(set(wanted) - set(groups)):
            raise UserError(
                f"--where {name}: no study has the value {absent[0]!r}. There is"
                f" {', '.join(sorted(set(groups))[:10])}."
            )
        fits &= groups.isin(list(wanted)).to_numpy()
    return fits


class _Axes:
    """Centre, principal axes and one scale, from running sums."""

    def __init__(self, width: int):
        self.wanted, self.count, self.sum, self.gram = width, 0, 0.0, 0.0

    def add(self, x: np.ndarray) -> None:
        x = x.astype(np.float64)
        self.count += len(x)
        self.sum = self.sum + x.sum(axis=0)
        self.gram = self.gram + x.T @ x

    def solve(self) -> "_Axes":
        self.mean = self.sum / self.count
        # E[xxᵀ] - E[x] E[x]ᵀ cancels leading digits, hence float64 in `add`.
        covariance = self.gram / self.count - np.outer(self.mean, self.mean)
        values, vectors = np.linalg.eigh(covariance)
        # With fewer samples than axes, the remaining axes have no variance.
        there = np.flatnonzero(values > 1e-9 * max(values[-1], 1e-30))[::-1][: self.wanted]
        # One scale for all axes. One for each (whitening) would make noise as large as signal.
        self.turn = vectors[:, there] / np.sqrt(max(values[there].mean(), 1e-30))
        self.width = len(there)
        return self

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return ((x - self.mean) @ self.turn).astype(np.float16)


def _fit(parts, train: np.ndarray, width: int) -> tuple[_Axes, _Axes]:
    """Axes of tokens and of study vectors; the latter are padded with 0 to the former's width."""
    chosen = set(train[np.linspace(0, len(train) - 1, min(FITTED_ON, len(train))).astype(int)])
    # A study has one vector but many tokens: only tokens are sampled for their axes.
    of_train = set(train.tolist())
    axes, cls_axes = _Axes(width), _Axes(width)
    for part in parts:
        for study, vector in zip(part.studies.tolist(), part.cls):
            if study in of_train:
                cls_axes.add(vector[None])
            if study in chosen:
                axes.add(part.tokens[study])
    return axes.solve(), cls_axes.solve()


def _places(encoder: StudyEncoder, store: Store, studies: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, list] = {name: [] for name in ("count", "grid", "start_mm", "step_mm")}
    places = []
    geometry = Geometry.of(store.index)
    for at in range(0, len(studies), CHUNK):
        crops, kept = encoder.views(geometry[studies[at : at + CHUNK]])
        for n, tokens in enumerate(crops.tokens):
            own = kept[n][tuple(map(slice, tokens))]
            # Flat position in the study's own token grid, x fastest.
            places.append(np.flatnonzero(own).astype(np.int32))
            found["count"].append(len(places[-1]))
            found["grid"].append(tokens)
            found["start_mm"].append(crops.start_mm[n])
            # mm from a token to the next along z, y, x.
            found["step_mm"].append(np.array(crops.patch) * crops.spacing_mm[n])
    table = {name: np.asarray(values) for name, values in found.items()}
    # Sum of the counts before a study: the row of its first token.
    table["first"] = np.cumsum(table["count"]) - table["count"]
    hashes = store.index["study"].to_numpy(str)[studies]
    return {**table, "study": hashes, "place": np.concatenate(places)}


def _write(parts, out: Path, *, axes: _Axes, cls_axes: _Axes) -> int:
    """Write tokens and vectors part by part; return the number of tokens."""
    vectors, count = [], 0
    # A .npy header holds the shape, which is known only at the end: raw bytes first.
    with open(out / f"{TOKENS}.raw", "wb") as file:
        for part in parts:
            assert isinstance(part, Features)
            for study in part.studies.tolist():
                tokens = axes(part.tokens[study])
                file.write(tokens.tobytes())
                count += len(tokens)
            # Vectors may have fewer axes than tokens; zeros fill them up to one width.
            low = cls_axes(part.cls)[:, : axes.width]
            vectors.append(np.pad(low, ((0, 0), (0, axes.width - low.shape[1]))))
    _with_header(out, (count, axes.width))
    write_whole(out / CLS, lambda file: np.save(file, np.concatenate(vectors)))
    return count


def _with_header(out: Path, shape: tuple[int, int]) -> None:
    """Turn the raw tokens into a .npy file, copied piece by piece: they may not fit into memory."""
    whole = np.lib.format.open_memmap(out / f"{TOKENS}.part", "w+", np.float16, shape)
    raw = np.memmap(out / f"{TOKENS}.raw", np.float16, "r", shape=shape)
    for at in range(0, shape[0], 1 << 16):
        whole[at : at + (1 << 16)] = raw[at : at + (1 << 16)]
    whole.flush()
    # The final name appears only when the file is complete.
    os.replace(out / f"{TOKENS}.part", out / TOKENS)
    (out / f"{TOKENS}.raw").unlink()
