"""`load_encoder`: trained weights from a folder, file or bucket, applied to a file, an array or a
Study.

Axes: n patch tokens, D width; z, y, x of a study.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mmv_jax.buckets import place
from mmv_jax.checkpoint import restore_encoder
from mmv_jax.data.crops import NOMINAL_EXTENT_MM
from mmv_jax.data.study_batches import study_batches
from mmv_jax.data.tokens import study_options
from mmv_jax.errors import UserError
from mmv_jax.face.bucket import copy_from_bucket
from mmv_jax.face.one_study import OneStudy
from mmv_jax.models.encoder import Encoder as Network
from mmv_jax.models.kinds import PATCH
from mmv_jax.models.sizes import make_encoder
from mmv_jax.readers.image import MAX_SPACING_MM, MIN_SPACING_MM, check_values, settled_unit
from mmv_jax.readers.read import read_study
from mmv_jax.released import read_weights, released_weights, weights_file
from mmv_jax.study import UNITS, Study

# Released weights that come with the package: NAME.safetensors is loaded as NAME.
ROW = 4096  # tokens of a row, as in `mmv embed`
Spacing = float | int | Sequence[float | int] | np.ndarray | None
INPUTS = ("patches", "coords_mm", "kinds", "segment_ids")


@dataclass(frozen=True)
class EncodedStudy:
    """The features of one study.

    Attributes:
      cls: the vector of the whole study.
      patches: a vector for each patch with content.
      coords_mm: the centres (z, y, x) of the patches, in mm from the centre of the study.
    """

    cls: Float[np.ndarray, " D"]
    patches: Float[np.ndarray, "n D"]
    coords_mm: Float[np.ndarray, "n 3"]


@dataclass(frozen=True)
class StudyFileEncoder:
    """A trained encoder; `load_encoder` makes one.

    Attributes:
      config: the groups encoder, crops and rows of its training.
    """

    network: Network
    params: Any
    config: Mapping[str, Any]

    def encode(
        self,
        study: Any,
        spacing_mm: Spacing = None,
        unit: str | None = None,
    ) -> Any:
        """Encode a whole study as `mmv embed` does, or each study of a list.

        Args:
          study: the path of a file or of a folder with one DICOM series; an array `[y, x]` or `[z,
            y, x]`, a volume in LPS+ order (z to the head, y to the back, x to the left); a `Study`;
            or a list or tuple of these.
          spacing_mm: one number, or for an array one for each axis. An array needs it; for a file
            the header has precedence.
          unit: "HU" (Hounsfield units), "raw" (other numbers) or "shape" (0 and 1). An array needs
            it.
        Returns:
          An `EncodedStudy`, or a list of them.
        Raises:
          UserError: the study cannot be read, or its spacing or unit is not known.
        """
        if isinstance(study, list | tuple):
            return [self.encode(each, spacing_mm, unit) for each in study]
        return self._encode(as_study(study, spacing_mm, unit))

    def _encode(self, study: Study) -> EncodedStudy:
        if study.ndim == 2 and any(map(math.isnan, study.spacing_mm[1:])):
            warnings.warn(
                f"The picture has no spacing: it is encoded as {NOMINAL_EXTENT_MM:g} mm wide, the"
                " nominal width. Give spacing_mm, the mm of a pixel, if you know it.",
                stacklevel=4,
            )
        crops = self.config["crops"]
        # One study fills one row of one batch; any other number fails here.
        (batch,) = study_batches(
            OneStudy(study),
            [0],
            grids={2: _whole(crops["planar"]), 3: _whole(crops["volume"])},
            patch=self.network.patch,
            registers=self.network.registers,
            length=ROW,
            rows=1,
            **study_options(self.config.get("data", {})),
        )
        tokens = np.asarray(_tokens(self.network, self.params, *(batch[name] for name in INPUTS)))
        patches = batch["kinds"][0] == PATCH
        # The batch has one row, and the row one segment.
        return EncodedStudy(
            tokens[0, batch["cls_index"][0, 0]],
            tokens[0, patches],
            batch["coords_mm"][0, patches].astype(np.float32),
        )


def load_encoder(where: str | os.PathLike) -> StudyFileEncoder:
    """Load the encoder of a training, ready for studies.

    Args:
      where: the workdir of `mmv pretrain`, one of its steps (`WORKDIR/checkpoints/1000`), a file of
        `mmv export --format safetensors`, the `gs://` or `s3://` address of one of these, or the
        name of released weights.
    Raises:
      UserError: there is no encoder, or it is not complete.
      WorkFailed: a bucket cannot be read.

    Example:
      encoder = mmv_jax.load_encoder("runs/chest")
      seen = encoder.encode("scan.nii.gz")
      seen.cls, seen.patches, seen.coords_mm
    """
    with tempfile.TemporaryDirectory(prefix="mmv-") as folder:
        path: Path | None = Path(where)
        if "://" in str(where):
            path = copy_from_bucket(str(where), Path(folder))
        if path is None or not (path.exists() or weights_file(path)):
            raise UserError(_nothing_at(where))
        # Read inside the block: copies from a bucket are deleted at its end.
        file = weights_file(path)
        params, config = read_weights(file)[:2] if file else restore_encoder(path)
    # Only pretraining has crops; a fit of breast arteries has tiles.
    if "crops" not in config:
        raise UserError(
            f"load_encoder: the encoder at {where} was fitted to tiles of mammograms and cannot"
            " encode a whole study. Use `mmv bac` to apply it."
        )
    group = config["encoder"]
    network = make_encoder(**{**group, "patch": tuple(group["patch"])})  # JSON has no tuples
    return StudyFileEncoder(network, params, config)


def _nothing_at(where: str | os.PathLike) -> str:
    known = ", ".join(released_weights())
    named = f"Released weights are: {known}." if known else "This version has no released weights."
    return (
        f"load_encoder: there is nothing at {where}. Give the workdir of a run, one of its steps"
        f" (WORKDIR/checkpoints/1000), or a safetensors file of `mmv export`. {named}"
    )


def as_study(study: Any, spacing_mm: Spacing, unit: str | None) -> Study:
    """A Study from a path, an array or a Study.

    Raises:
      UserError: an array without a unit or a spacing; numbers that do not fit their unit; a file
        that is refused.
    """
    if isinstance(study, Study):
        return study
    if isinstance(study, str | os.PathLike):
        if spacing_mm is not None and np.ndim(spacing_mm):
            raise UserError("spacing_mm of a file must be one number, the mm of a pixel in plane.")
        pixel_mm = None if spacing_mm is None else float(np.asarray(spacing_mm))
        return read_study(place(study), spacing_mm=pixel_mm, unit=unit)
    return _study_of_array(np.asarray(study), spacing_mm, unit)


def _study_of_array(voxels: np.ndarray, spacing_mm: Spacing, unit: str | None) -> Study:
    # Kinds of numbers: booleans, signed and unsigned integers, floats.
    if voxels.ndim not in (2, 3) or voxels.dtype.kind not in "biuf" or not voxels.size:
        raise UserError(
            f"encode: an array of the shape {voxels.shape} and type {voxels.dtype} is no study."
            " Give numbers [y, x] of a picture or [z, y, x] of a volume."
        )
    if unit not in UNITS:
        raise UserError(
            f"encode: the unit of the array is {unit!r}. Give unit='HU' for Hounsfield units,"
            " unit='shape' for 0 and 1, or unit='raw' for any other numbers."
        )
    if spacing_mm is None:
        raise UserError(
            "encode: the spacing of the array is not known. Give spacing_mm, the mm from voxel to"
            " voxel: one number, or one for each axis."
        )
    given = np.asarray(spacing_mm, float)
    if given.shape not in ((), (voxels.ndim,)):
        raise UserError(
            f"encode: spacing_mm has {given.size} numbers, the array {voxels.ndim} axes. Give one"
            " number, or one for each axis, in the order of the axes."
        )
    # z of a planar study is not known: it is a projection.
    known = np.broadcast_to(given, (voxels.ndim,)).tolist()
    z, y, x = known if voxels.ndim == 3 else [math.nan, *known]
    for mm in known:
        if not MIN_SPACING_MM <= mm <= MAX_SPACING_MM:
            raise UserError(f"encode: a spacing of {mm:g} mm is not plausible. Give it in mm.")
    # Integers are not converted: a store keeps them exactly if their range fits 16 bits.
    whole = voxels if voxels.dtype.kind in "biu" else voxels.astype(np.float32)
    whole = whole.reshape(-1, *voxels.shape[-2:])
    check_values(whole)
    return Study(whole, (z, y, x), voxels.ndim, settled_unit(whole, "raw", unit))


def _whole(crops: Mapping[str, Any]) -> tuple[int, int, int]:
    """The largest grid of a whole study: that of training's global crops."""
    z, y, x = crops["global_grid"]
    return z, y, x


@partial(jax.jit, static_argnums=0)
def _tokens(network, params, *inputs):
    return network.apply({"params": params}, *inputs)["tokens"]
