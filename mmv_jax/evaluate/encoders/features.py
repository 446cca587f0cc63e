"""Features of studies, encoded once and kept in the workdir, so that an evaluation that was stopped
goes on. Axes: N studies, n tokens, D width.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.evaluate.encoders.base import Encoded, StudyEncoder
from mmv_jax.files import write_whole
from mmv_jax.store.read import Store

CHUNK = 256  # studies a file: what a stopped run encodes again


@dataclass(frozen=True)
class Features:
    """Vectors of studies, and the patch tokens of those that were asked for. `studies` are
    ascending positions in the index.
    """

    studies: Int[np.ndarray, " N"]
    cls: Float[np.ndarray, "N D"]
    patch_mean: Float[np.ndarray, "N D"]
    tokens: Mapping[int, np.ndarray]  # study -> [n, D]

    def pooled(self, pooling: str, studies: Int[np.ndarray, " M"]) -> Float[np.ndarray, "M E"]:
        """The vectors of some studies: "cls", "patch_mean", or "both", one after the other."""
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
) -> Features:
    """Encodes each study once; what an earlier call with the same encoder and studies left in
    `folder` is read instead.

    Args:
      studies: positions in the index.
      with_tokens: those whose patch tokens are kept too.
      report: called with the number of studies done, and of all.
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
) -> Iterator[Features]:
    """As `encode_studies`, a few hundred studies at a time, in ascending order: all tokens of a
    large store do not fit into memory.
    """
    studies, wanted = np.unique(studies), set(np.asarray(with_tokens).tolist())
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(0, len(studies), CHUNK):
        chunk = studies[at : at + CHUNK]
        keep = np.array([study in wanted for study in chunk])
        digest = hashlib.sha256(
            "\n".join([encoder.fingerprint, store.digest(chunk), *map(str, keep)]).encode()
        ).hexdigest()[:24]
        path = folder / f"{digest}.npz"
        if not path.exists():
            _write(path, chunk, keep, {e.study: e for e in encoder.encode(store, chunk)})
        yield _read(path, chunk)
        report(min(at + CHUNK, len(studies)), len(studies))


def together(parts: Sequence[Features]) -> Features:
    """The features of several parts as one."""
    tokens = {study: own for part in parts for study, own in part.tokens.items()}
    studies = np.concatenate([part.studies for part in parts])
    return Features(
        studies,
        _stack([part.cls for part in parts]),
        _stack([part.patch_mean for part in parts]),
        tokens,
    )


def _write(path: Path, chunk: np.ndarray, keep: np.ndarray, encoded: Mapping[int, Encoded]) -> None:
    ordered = [encoded[study] for study in chunk.tolist()]
    tokens = [e.patches for e, k in zip(ordered, keep) if k]
    arrays = {
        "cls": _stack([e.cls[None] for e in ordered]),
        "patch_mean": _stack([e.patches.mean(axis=0, dtype=np.float32)[None] for e in ordered]),
        "kept": chunk[keep],
        "lengths": np.array([len(t) for t in tokens], np.int64),
        **{
            f"tokens_{width}": np.concatenate([t for t in tokens if t.shape[1] == width])
            for width in {t.shape[1] for t in tokens}
        },
        "widths": np.array([t.shape[1] for t in tokens], np.int64),
    }
    write_whole(path, lambda file: np.savez(file, **arrays))


def _read(path: Path, chunk: np.ndarray) -> Features:
    with np.load(path, allow_pickle=False) as file:
        tokens: dict[int, np.ndarray] = {}
        at: dict[int, int] = {}
        blocks = {name: file[name] for name in file.files if name.startswith("tokens_")}
        for study, length, width in zip(
            file["kept"].tolist(), file["lengths"].tolist(), file["widths"].tolist()
        ):
            start = at.get(width, 0)
            tokens[study], at[width] = (
                blocks[f"tokens_{width}"][start : start + length],
                start + length,
            )
        return Features(chunk, file["cls"], file["patch_mean"], tokens)


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    """Lines below each other; narrower ones (patches of planar studies as pixels) are filled up
    with zeros.
    """
    width = max(a.shape[1] for a in arrays)
    return np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in arrays])
