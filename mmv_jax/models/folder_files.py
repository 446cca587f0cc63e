"""Files of a published folder that are not what they seem: pointers and adapters."""

from pathlib import Path

from mmv_jax.errors import UserError

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
