"""Networks inflated from images: Merlin's image encoder for CT, Astra's, which began from it, and
Inception-I3D, which was trained on films.

Sources: piergiaj/pytorch-i3d for Inception-I3D; for the others StanfordMIMI/Merlin,
`models/i3res.py` (after hassony2/inflated_convnets_pytorch), and its `data/monai_transforms.py` for
the images.
"""

from collections.abc import Mapping
from typing import Any

from mmv_jax.convert.layout import PublishedLayout, Rule, Tower, keep, refuse_side, unused
from mmv_jax.errors import UserError

NORM = "(weight|bias|running_mean|running_var)"
UNITS = "Conv3d_1a_7x7|Conv3d_2b_1x1|Conv3d_2c_3x3"
MIXED = "3b|3c|4b|4c|4d|4e|4f|5b|5c"
BRANCHES = "b0|b1a|b1b|b2a|b2b|b3b"
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


def _inception_rules(_tower: Tower) -> tuple[Rule, ...]:
    branch = rf"Mixed_({MIXED})\.({BRANCHES})\."
    return (
        keep(rf"({UNITS})\.conv3d\.weight", r"\1.conv3d.weight"),
        keep(rf"({UNITS})\.bn\.{NORM}", r"\1.bn.\2"),
        keep(rf"{branch}conv3d\.weight", r"Mixed_\1.\2.conv3d.weight"),
        keep(rf"{branch}bn\.{NORM}", r"Mixed_\1.\2.bn.\3"),
        *unused(r".*num_batches_tracked", r"logits\..*"),
    )


def _inception_config(tower: Tower) -> dict[str, Any]:
    refuse_side(tower)

    def width(name: str) -> int:
        return tower.shape(f"{name}.conv3d.weight")[0]

    stem = tower.shape("Conv3d_1a_7x7.conv3d.weight")
    if len(stem) != 5 or stem[1:] != (3, 7, 7, 7):
        raise UserError(
            f"Conv3d_1a_7x7.conv3d.weight has the shape {stem}. Inception-I3D of colours has"
            " kernels of 7 x 7 x 7 for three channels; that of optical flow has two, and reads no"
            " images."
        )
    return {
        "model_type": "i3d",
        "units": [width(name) for name in UNITS.split("|")],
        "mixed": [
            [width(f"Mixed_{part}.{branch}") for branch in BRANCHES.split("|")]
            for part in MIXED.split("|")
        ],
    }


I3D = PublishedLayout(
    about="Inception-I3D, trained on films (Kinetics)",
    marks=("Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b0.conv3d.weight", "Mixed_5c.b3b.bn.bias"),
    rules=_inception_rules,
    config=_inception_config,
    preprocessing=_preprocessing,
)
