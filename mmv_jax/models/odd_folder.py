"""What a published folder says that no tensor contradicts, and that no published model has."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.models.channels import IMAGENET, OF_FAMILY, PREPROCESSING, channels
from mmv_jax.models.folder_files import INDEX, WHOLE

# Widths of published transformers, and their numbers of heads. No tensor shows the number: with
# another one a model computes other features, and nothing fails.
HEADS = {192: (3,), 384: (6,), 512: (8,), 768: (12,), 1024: (16,), 1152: (16,), 1280: (16, 20)}
HEADS |= {1408: (16,), 1536: (16, 24), 1664: (16,), 4096: (32,)}


def odd_folder(folder: Path, about: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each thing that is probably another model's.

    Args:
      about: the config of the vision transformer; of other networks no heads are compared.
    """
    width, heads = about.get("hidden_size", 0), about.get("num_attention_heads")
    if "num_heads" not in about and heads not in HEADS.get(width, (heads,)):
        yield (
            f"{folder.name}: its config.json says num_attention_heads {heads}, and published"
            f" models of {width} channels have {' or '.join(map(str, HEADS[width]))}. With another"
            " number all features are wrong: compare it with the folder as it was published."
        )
    if (folder / WHOLE).is_file() and (folder / INDEX).is_file():
        yield f"{folder.name}: {WHOLE} is read, and not the files that {INDEX} names."
    # Grey images have three equal channels, so another order shifts them little, and silently.
    mean, std = channels(folder)
    for known in (IMAGENET, OF_FAMILY["clip"]):
        turned = [tuple(reversed(three)) for three in known]
        for what, other in (("from blue to red", turned), ("exchanged", known[::-1])):
            if np.allclose((mean, std), other, atol=2e-3):
                yield (
                    f"{folder.name}: the means and deviations of its {PREPROCESSING} are published"
                    f" ones, but {what}. Correct the file unless the model was trained so."
                )
