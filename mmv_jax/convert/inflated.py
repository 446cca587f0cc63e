"""Inflated 3D residual networks for CT: Merlin's image encoder, and Astra's, which began from it.

Sources: StanfordMIMI/Merlin, `models/i3res.py` (after hassony2/inflated_convnets_pytorch), and its
`data/monai_transforms.py` for the images.
"""

from collections.abc import Mapping
from typing import Any

from mmv_jax.convert.layout import PublishedLayout, Rule, Tower, keep, refuse_side, unused
from mmv_jax.errors import UserError

NORM = "(weight|bias|running_mean|running_var)"
BLOCK = r"layer(\d+)\.(\d+)\."
STAGES = 4
# Merlin's images: voxels (z, y, x) of 3 x 1.5 x 1.5 mm, and Hounsfield units that become 0 to 1.
IMAGES = {"size": [160, 224, 224], "spacing_mm": [3.0, 1.5, 1.5], "hu": [-1000.0, 1000.0]}


def _rules(_tower: Tower) -> tuple[Rule, ...]:
    return (
        keep(r"conv1\.weight", "conv1.weight"),
        keep(rf"bn1\.{NORM}", r"bn1.\1"),
        keep(rf"{BLOCK}conv([123])\.weight", r"layer\1.\2.conv\3.weight"),
        keep(rf"{BLOCK}bn([123])\.{NORM}", r"layer\1.\2.bn\3.\4"),
        keep(r"layer(\d+)\.0\.downsample\.0\.weight", r"layer\1.0.downsample.0.weight"),
        keep(rf"layer(\d+)\.0\.downsample\.1\.{NORM}", r"layer\1.0.downsample.1.\2"),
        *unused(r".*num_batches_tracked", r"(classifier|contrastive_head|fc)\..*"),
    )


def _config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)
    stem = tower.shape("conv1.weight")
    if len(stem) != 5 or stem[1:] != (3, 3, 7, 7):
        raise UserError(
            f"conv1.weight has the shape {stem}. A network inflated from images has"
            " kernels of 3 x 7 x 7 for three channels."
        )
    return {
        "model_type": "i3resnet",
        "width": stem[0],
        "planes": [tower.shape(f"layer{n}.0.conv1.weight")[0] for n in range(1, STAGES + 1)],
        "depths": [tower.count(f"layer{n}.") for n in range(1, STAGES + 1)],
    }


def _preprocessing(_tower: Tower, _config: Mapping[str, Any]) -> dict[str, Any]:
    return dict(IMAGES)


I3RESNET = PublishedLayout(
    about="an inflated 3D ResNet for CT: Merlin, Astra",
    marks=("layer1.0.conv2.weight", "layer4.0.bn3.running_var", "bn1.running_mean"),
    rules=_rules,
    config=_config,
    preprocessing=_preprocessing,
)
