"""Export to a folder for `AutoModel.from_pretrained(folder, trust_remote_code=True)`."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

SHIPPED = "mmv_jax.export.shipped"
CODE = ("load_torch.py", "modeling_mmv.py", "image_processing_mmv.py")


def write_folder(
    folder: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any], metadata: Mapping
) -> None:
    """Write weights, configs and the code that reads them.

    Args:
      folder: an empty one.
      about: `architecture` and `preparation`, as in `describe`.
      metadata: of the safetensors file.
    """
    from safetensors.numpy import save_file

    # Some versions of transformers refuse a file whose metadata names no format.
    save_file(dict(tensors), folder / "model.safetensors", metadata={**metadata, "format": "pt"})
    model = {
        "model_type": "mmv",
        "architectures": ["MmvModel"],
        "auto_map": {
            "AutoConfig": "modeling_mmv.MmvConfig",
            "AutoModel": "modeling_mmv.MmvModel",
        },
        "dtype": "float32",
        "network": about["architecture"],
        # The model makes parameters of these shapes before it reads the weights.
        "shapes": {name: list(x.shape) for name, x in tensors.items()},
    }
    processor = {
        "image_processor_type": "MmvImageProcessor",
        "auto_map": {"AutoImageProcessor": "image_processing_mmv.MmvImageProcessor"},
        "patch": about["architecture"]["patch"],
        "registers": about["architecture"]["registers"],
        "preparation": about["preparation"],
    }
    for name, content in (("config.json", model), ("preprocessor_config.json", processor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    for name in CODE:
        # transformers copies the files elsewhere, so they must import each other relatively.
        text = shipped(name).replace(f"from {SHIPPED}.", "from .")
        (folder / name).write_text(text)


def shipped(name: str) -> str:
    """The text of a file that is copied beside an export."""
    return files(SHIPPED).joinpath(name).read_text()
