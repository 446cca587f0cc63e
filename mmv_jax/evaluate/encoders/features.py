"""Features of studies, encoded once and cached in the workdir, so that a stopped evaluation
resumes.

Axes: N studies, n tokens, D width.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.data.crops import Geometry
from mmv_jax.evaluate.encoders.base import Encoded, StudyEncoder
from mmv_jax.evaluate.encoders.checked import encode_checked
from mmv_jax.evaluate.encoders.readout import levels_of, summarise
from mmv_jax.files import read_kept, write_whole
from mmv_jax.store.read import Store

ALIKE = 1e-6  # of the largest value: variation below it is rounding
CHUNK = 256  # studies a file; a stopped run encodes at most so many again


@dataclass(frozen=True)
class Features:
    """Vectors of studies, and the patch tokens of some of them.

    Attributes:
      studies: ascending positions in the index.
      tokens: by study, after the last block.
      summaries: the parts that readouts are made of (`readout.summarise`); None if not asked for.
      joined: by study, the tokens of the last blocks side by side, the last block last; empty if
        not asked for.
    """

    studies: Int[np.ndarray, " N"]
    cls: Float[np.ndarray, "N D"]
    patch_mean: Float[np.ndarray, "N D"]
    tokens: Mapping[int, np.ndarray]  # study -> [n, D]
    summaries: Float[np.ndarray, "N E P D"] | None = None
    joined: Mapping[int, np.ndarray] = field(default_factory=dict)  # study -> [n, E D]

    @property
    def are_alike(self) -> bool:
        """Whether all studies have the same vectors: an encoder of such features sees nothing."""
        both = np.concatenate([self.cls, self.patch_mean], axis=1)
        return len(both) > 1 and bool(both.std(axis=0).max() <= ALIKE * np.abs(both).max())

    def pooled(self, pooling: str, studies: Int[np.ndarray, " M"]) -> Float[np.ndarray, "M E"]:
        """The vectors of some studies: "cls", "patch_mean", or "both" joined."""
        # Studies ascend, so that a binary search finds their rows.
        at = np.searchsorted(self.studies, studies)
        if pooling == "both":
            return np.concatenate([self.cls[at], self.patch_mean[at]], axis=1)
        return {"cls": self.cls, "patch_mean": self.patch_mean}[pooling][at]


def encode_studies(
    encoder: StudyEncoder,
    store: Store,
    studies: Int[np.ndarray, " N"],
    with_tokens: Int[np.ndarray, " M"],
    folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
    deep: bool = False,
) -> Features:
    """Encode each study once, or read what an earlier call left in `folder`.

    The earlier call must have had the same encoder and studies.

    Args:
      studies: positions in the index.
      with_tokens: the studies whose patch tokens are kept too.
      report: called with the number of studies done, and of all.
      deep: whether `summaries` and `joined`, the inputs of readouts, are kept too.
    Raises:
      UserError: features are not those of `Encoded` (`encode_checked`), or the store was changed
        while it was read.
    """
    return together(
        list(
            encode_parts(
                encoder,
                store,
                studies=studies,
                with_tokens=with_tokens,
                folder=folder,
                report=report,
                deep=deep,
            )
        )
    )


def encode_parts(
    encoder: StudyEncoder,
    store: Store,
    studies: Int[np.ndarray, " N"],
    with_tokens: Int[np.ndarray, " M"],
    folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
    deep: bool = False,
) -> Iterator[Features]:
    """Features as `encode_studies`, a few hundred studies at a time, in ascending order.

    All tokens of a large store would not fit into memory.
    """
    studies, wanted = np.unique(studies), set(np.asarray(with_tokens).tolist())
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(0, len(studies), CHUNK):
        chunk = studies[at : at + CHUNK]
        keep = np.array([study in wanted for study in chunk])
        # The name of a file is a digest of everything that it depends on: another encoder or image
        # gives another file.
        said = [encoder.fingerprint, store.digest(chunk), *map(str, keep)]
        said += (
            ["readouts 1"] if deep else []
        )  # without them a file has the name that it always had
        digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:24]
        path = folder / f"{digest}.npz"
        kept = read_kept(path, partial(_read, chunk=chunk))
        if kept is None:
            encoded = encode_checked(encoder, store, chunk, tokens=bool(keep.any()), deep=deep)
            more = _deep(encoder, store, chunk, encoded) if deep else {}
            # Where blocks were taken out meanwhile, zeros were encoded.
            store.check_unchanged()
            _write(path, chunk, keep=keep, encoded=encoded, more=more)
            # New features are read back too, so that a resumed run has exactly the same arrays.
            kept = _read(path, chunk)
        yield kept
        report(min(at + CHUNK, len(studies)), len(studies))


def together(parts: Sequence[Features]) -> Features:
    """The features of several parts as one."""
    tokens = {study: own for part in parts for study, own in part.tokens.items()}
    joined = {study: own for part in parts for study, own in part.joined.items()}
    found = [part.summaries for part in parts if part.summaries is not None]
    studies = np.concatenate([part.studies for part in parts])
    return Features(
        studies,
        _stack([part.cls for part in parts]),
        _stack([part.patch_mean for part in parts]),
        tokens,
        summaries=_stack(found) if found else None,
        joined=joined,
    )


def _deep(
    encoder: StudyEncoder, store: Store, chunk: np.ndarray, encoded: Mapping[int, Encoded]
) -> dict[str, np.ndarray]:
    """The further content of a file with readouts: `summaries`, and how many blocks are joined."""
    crops, kept = encoder.views(Geometry.of(store.index)[chunk])
    # `kept` is padded to the largest study of the chunk.
    grids = [k[tuple(map(slice, tokens))] for k, tokens in zip(kept, crops.tokens)]
    found = [
        summarise(levels_of(encoded[study]), grid)[None]
        for study, grid in zip(chunk.tolist(), grids)
    ]
    return {"summaries": _stack(found), "levels": np.array(found[0].shape[1])}


def _write(
    path: Path,
    chunk: np.ndarray,
    keep: np.ndarray,
    encoded: Mapping[int, Encoded],
    more: Mapping[str, np.ndarray],
) -> None:
    ordered = [encoded[study] for study in chunk.tolist()]
    # With readouts, the tokens of the last blocks stand side by side.
    tokens = [
        np.concatenate([*levels_of(e)[:, 1:]], axis=1) if more else e.patches
        for e, k in zip(ordered, keep)
        if k
    ]
    arrays = {
        "cls": _stack([e.cls[None] for e in ordered]),
        "patch_mean": _stack([e.patches.mean(axis=0, dtype=np.float32)[None] for e in ordered]),
        "kept": chunk[keep],
        "lengths": np.array([len(t) for t in tokens], np.int64),
        # npz has no ragged arrays: all tokens of one width are one array,
        # and `lengths` has the number of each study.
        **{
            f"tokens_{width}": np.concatenate([t for t in tokens if t.shape[1] == width])
            for width in {t.shape[1] for t in tokens}
        },
        "widths": np.array([t.shape[1] for t in tokens], np.int64),
        **more,
    }
    write_whole(path, lambda file: np.savez(file, **arrays))


def _read(path: Path, chunk: np.ndarray) -> Features:
    with path.open("rb") as stored, np.load(stored, allow_pickle=False) as file:
        tokens: dict[int, np.ndarray] = {}
        at: dict[int, int] = {}
        blocks = {name: file[name] for name in file.files if name.startswith("tokens_")}
        for study, length, width in zip(
            file["kept"].tolist(), file["lengths"].tolist(), file["widths"].tolist()
        ):
            # `at` is the next free row of each width.
            start = at.get(width, 0)
            tokens[study], at[width] = (
                blocks[f"tokens_{width}"][start : start + length],
                start + length,
            )
        if "levels" not in file.files:
            return Features(chunk, file["cls"], file["patch_mean"], tokens)
        levels = int(file["levels"])
        # Joined tokens are [n, levels · D], and the last block is in the last D columns.
        last = {study: own[:, -(own.shape[1] // levels) :] for study, own in tokens.items()}
        return Features(
            chunk, file["cls"], file["patch_mean"], last, summaries=file["summaries"], joined=tokens
        )


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays joined along the first axis; narrower ones are padded with zeros.

    Pixels of planar patches are narrower than those of volumetric ones.
    """
    width = max(a.shape[-1] for a in arrays)
    return np.concatenate(
        [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, width - a.shape[-1])]) for a in arrays]
    )
