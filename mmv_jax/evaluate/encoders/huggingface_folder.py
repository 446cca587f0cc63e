"""What a Hugging Face folder must hold, and how its images are made."""

from collections.abc import Sequence
from pathlib import Path

from mmv_jax.errors import UserError
from mmv_jax.models.channels import PREPROCESSING, channels, preprocessing_of, side_of
from mmv_jax.models.folder_files import refuse_adapters, refuse_pointer, weight_files
from mmv_jax.models.public_files import UNREAD
from mmv_jax.report.progress import say

EIGHT_BITS = {"I8", "U8", "F8_E4M3", "F8_E5M2"}
WHOLE_NUMBERS = {"I16", "I32", "I64", "U16", "U32", "U64"}


def check_files(folder: Path) -> None:
    """Refuse a folder without config or weights, or whose weights transformers would load without a
    word.

    Raises:
      UserError: it is such a one.
    """
    refuse_adapters(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder.name}: config.json is missing. Give the folder of a model that was saved with"
            " save_pretrained."
        )
    if not any(folder.glob("*.safetensors")):
        pickled = [
            p.name
            for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
            for p in folder.glob(pattern)
        ]
        found = (
            f"{pickled[0]} is a pickle, which can run code when it is opened, so it is not"
            if pickled
            else "model.safetensors is missing"
        )
        raise UserError(
            f"{folder.name}: {found}. Save the model with save_pretrained(...,"
            " safe_serialization=True)."
        )
    _check_weights(folder)


def _check_weights(folder: Path) -> None:
    """Refuse what transformers would load without a word, or with words of its own."""
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        refuse_pointer(path)
        try:
            with safe_open(path, "numpy") as file:
                kinds = {
                    kind
                    for key in file.keys()  # noqa: SIM118 (the file is no dict)
                    if (kind := file.get_slice(key).get_dtype()) in EIGHT_BITS
                    or (kind in WHOLE_NUMBERS and not key.endswith(UNREAD))
                }
        except SafetensorError as error:
            raise UserError(f"{folder.name}: {path.name} is damaged: {error}") from None
        if narrow := sorted(kinds):
            # Quantised weights need factors, which are not read.
            raise UserError(
                f"{folder.name}: {path.name} has values of the type {narrow[0]}. Take the model in"
                " floats of 16 or 32 bits."
            )


def preprocessing(
    folder: Path, image_size: int | Sequence[int] | None
) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Side of the image in pixels, and mean and std of its channels.

    Args:
      image_size: of the model's config, for a folder that says no side.
    Raises:
      UserError: `side_of` or `channels` refuses.
    """
    said = preprocessing_of(folder)
    mean, std = channels(folder)
    if not {"image_mean", "image_std"} <= {*said}:
        say(
            f"{folder.name}: no {PREPROCESSING} says its means and deviations; those usual for its"
            f" family are taken, {mean} and {std}."
        )
    sides = {*(image_size if isinstance(image_size, list | tuple) else [image_size])}
    if len(sides) > 1:
        raise UserError(
            f"{folder.name}: its config.json says image_size {image_size}. Images here are square."
        )
    return int(side_of(folder) or sides.pop() or 224), mean, std
