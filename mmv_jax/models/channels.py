"""How the images of a public encoder are made, by its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.models.public_files import CONFIG, read_json

PREPROCESSING = "preprocessor_config.json"
# Means and deviations of the three channels, where the folder does not say them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# By the first word of the model_type; all others are trained with those of ImageNet.
OF_FAMILY = {
    "siglip": ((0.5,) * 3, (0.5,) * 3),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
# Of white from black after normalising, and of the mean of pixels from 0 to 1.
OFFSETS = ("offset", "rescale_offset")  # 1 is taken off after rescaling, as of EfficientNet
LEAST_APART, MOST_APART, MOST_MEAN = 0.4, 20.0, 2.0


def preprocessing_of(folder: Path) -> dict[str, Any]:
    """What the folder says of its images; empty where it has no such file.

    Raises:
      UserError: the file is damaged.
    """
    return read_json(folder, PREPROCESSING) if (folder / PREPROCESSING).is_file() else {}


def channels(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and deviations of the three channels, for pixels from 0 to 1.

    A folder may rescale bytes by another factor than 1/255, or not normalise: both are told by
    means and deviations too.

    Raises:
      UserError: the file is damaged, or a value is none.
    """
    said = preprocessing_of(folder)
    for name in ("do_rescale", "do_normalize", *OFFSETS):
        if not isinstance(said.get(name, True), bool | None):
            raise UserError(
                f"{folder.name}: {PREPROCESSING} has {name} {said[name]!r}, no yes or no."
            )
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    usual, found = usual_channels(folder), []
    # Of pixels from -1 to 1 the usual means are those after 1 is taken off.
    less = 1.0 if said.get("do_rescale", True) and any(map(said.get, OFFSETS)) else 0.0
    for name, default, without in (("image_mean", usual[0], 0.0), ("image_std", usual[1], 1.0)):
        value = said.get(name)
        value = default if value is None else value
        if not said.get("do_normalize", True):
            value = without
        try:
            # (255 p f - mean) / std is (p - mean / 255 f) / (std / 255 f) for a pixel p.
            value = np.broadcast_to(np.asarray(value, np.float64), 3)
            three = (value + less * (name == "image_mean")) / float(255 * factor or np.nan)
        except (TypeError, ValueError):
            three = np.full(3, np.nan)
        if not np.isfinite(three).all() or (name == "image_std" and not (three > 0).all()):
            raise UserError(
                f"{folder.name}: {PREPROCESSING} has {name} {said.get(name)!r} and rescale_factor"
                f" {said.get('rescale_factor')!r}. Means and deviations are numbers of three"
                " channels, and deviations are above 0."
            )
        found.append(tuple(three.tolist()))
    _refuse_scale(folder, said, mean=found[0], std=found[1])
    return found[0], found[1]


def _refuse_scale(
    folder: Path, said: Mapping[str, Any], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Refuse means and deviations of another range of pixels than the factor gives.

    Published models see black and white 1 to 5 apart, around 0. With a factor for 16 bits, or means
    of bytes for pixels up to 1, all images would be alike.
    """
    apart = [1 / s for s in std]
    wrong = min(apart) < LEAST_APART or max(apart) > MOST_APART or max(map(abs, mean)) > MOST_MEAN
    if wrong and said.get("do_normalize", True):
        raise UserError(
            f"{folder.name}: by its {PREPROCESSING} a white pixel and a black one are"
            f" {apart[0]:.3g} apart after normalising (rescale_factor"
            f" {said.get('rescale_factor', '1/255')}, do_rescale {said.get('do_rescale', True)},"
            f" image_mean {said.get('image_mean')}, image_std {said.get('image_std')}). Published"
            " models have 1 to 5. Write the factor for bytes, 1/255, and means of pixels from 0 to"
            " 1."
        )


def usual_channels(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and deviations of the folder's family, for where it does not say its own."""
    model = str(read_json(folder, CONFIG).get("model_type")) if (folder / CONFIG).is_file() else ""
    return OF_FAMILY.get(model.split("_")[0], IMAGENET)


def side_of(folder: Path) -> int | None:
    """Side of a model's square images in pixels; None where the folder does not say it.

    Raises:
      UserError: the file is damaged, or says another form than a square.
    """
    said = preprocessing_of(folder)
    # The side of the model's input: of the crop if one is made, else of the resized image.
    name = "crop_size" if said.get("do_center_crop") else "size"
    size = said.get(name)
    if isinstance(size, dict):
        size = [size[k] for k in ("height", "width", "shortest_edge") if size.get(k)]
    sides = {*(size if isinstance(size, list) else [size])} - {None}
    if len(sides) > 1 or not all(str(n).isdigit() and int(n) > 0 for n in sides):
        raise UserError(
            f"{folder.name}: its {PREPROCESSING} says {name} {said.get(name)}. Images here are"
            " square: one whole number of pixels."
        )
    return int(next(iter(sides))) if sides else None
