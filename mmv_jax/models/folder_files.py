"""Files of a published folder that are not what they seem: pointers, adapters, two copies of the
weights, numbers of another model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmv_jax.errors import UserError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
MOST_EPSILON = 1e-3  # published ones are 1e-12 to 1e-5

POINTER = b"version https://git-lfs"  # begins a file that git clone leaves in place of a large one
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def refuse_pointer(path: Path) -> None:
    """Refuse a file of Git LFS that was never fetched.

    Raises:
      UserError: it is one.
    """
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{path.parent.name}: {path.name} is a pointer of Git LFS, a text in place of the"
                " weights. Fetch them there: git lfs pull."
            )


def refuse_adapters(folder: Path) -> None:
    """Refuse a folder with adapters (LoRA), whose weights alone are another model's.

    Raises:
      UserError: there are some.
    """
    if there := [name for name in ADAPTERS if (folder / name).is_file()]:
        raise UserError(
            f"{folder.name}: {there[0]} says that adapters (LoRA) lie here, which are not summed"
            " in. Merge them into the weights (PEFT: merge_and_unload), save the model in a new"
            " folder, and give that one."
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder's weights, as transformers chooses them: the whole file, or
    those that an index names.

    Raises:
      UserError: there are none, the index is damaged, or it names a file that is missing.
    """
    whole, index = folder / WHOLE, folder / INDEX
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise UserError(
            f"{folder.name}: it has no {WHOLE}. Pickled weights (.bin, .pth) are never read: save"
            " the model again with safe_serialization=True."
        )
    paths = shards(index)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UserError(f"{folder.name}: {missing[0]} is missing, which its {INDEX} names.")
    return paths


def shards(index: Path) -> list[Path]:
    """The files of weights that an index names, in its own folder, whether they are there or not.

    Raises:
      UserError: the index is damaged.
    """
    try:
        names = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{index.parent.name}: its {index.name} is damaged.") from None
    # The index is another's file: it must not lead out of the folder.
    return [index.parent / Path(name).name for name in sorted(names)]


def check_numbers(name: str, about: Mapping[str, Any]) -> None:
    """Refuse numbers of a config that no tensor shows and no model can have.

    Args:
      name: of the folder.
      about: the config of a vision transformer; of other networks nothing is checked.
    Raises:
      UserError: the heads do not divide the width, or a norm's epsilon is too large.
    """
    width, heads = about.get("hidden_size"), about.get("num_attention_heads")
    epsilon = about.get("layer_norm_eps", 0.0)
    if not isinstance(width, int) or "num_heads" in about:  # of Swin, a number for each stage
        return
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{name}: its config.json says num_attention_heads {heads!r}, which is none of a model"
            f" of {width} channels. Take the folder as it was published."
        )
    if not isinstance(epsilon, int | float) or not 0 <= epsilon <= MOST_EPSILON:
        raise UserError(
            f"{name}: its config.json says layer_norm_eps {epsilon!r}. Published models have 1e-12"
            " to 1e-5."
        )
