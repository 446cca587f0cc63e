"""Networks for volumes that were inflated from networks for images, in PyTorch (extra: torch).

They have the names of the published ones, so that their weights are loaded as they are. All of
them take [1, 1, z, ., .] and give [1, D, ...].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EXPANSION = 4  # of a bottleneck's last layer
# Inception-I3D: what is applied in turn. Numbers are kernel and stride (z, y, x) of a maximum.
POOLS = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
UNITS = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
MIXED = tuple(f"Mixed_{p}" for p in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"))
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")


@dataclass(frozen=True)
class Inflated:
    """A kind of network.

    Attributes:
      make: the network of a `config.json`, with random weights.
      stride: voxels (z, y, x) of a token.
      turned: whether it was trained on (z, x, y), x growing to the right and y to the front. Else
        on slices as they are shown: y grows to the back, x to the patient's left.
    """

    make: Callable[[Mapping[str, Any]], Any]
    stride: tuple[int, int, int]
    turned: bool


def make_i3resnet(config: Mapping[str, Any]) -> Any:
    """Merlin's network: a ResNet whose strides are those of v1.5.

    Source: the design of Merlin's `models/i3res.py`.
    """
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, planes: int, stride: int, *, first: bool):
            super().__init__()
            outputs = EXPANSION * planes
            self.conv1 = nn.Conv3d(inputs, planes, 1, bias=False)
            self.bn1 = nn.BatchNorm3d(planes)
            self.conv2 = nn.Conv3d(planes, planes, 3, stride=stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm3d(planes)
            self.conv3 = nn.Conv3d(planes, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm3d(outputs)
            self.downsample = None
            if first:
                shortcut = nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False)
                self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(outputs))

        def forward(self, x):
            out = torch.relu(self.bn1(self.conv1(x)))
            out = torch.relu(self.bn2(self.conv2(out)))
            same = x if self.downsample is None else self.downsample(x)
            return torch.relu(self.bn3(self.conv3(out)) + same)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            inputs = config["width"]
            stem = {"stride": (1, 2, 2), "padding": (1, 3, 3), "bias": False}
            self.conv1 = nn.Conv3d(3, inputs, (3, 7, 7), **stem)
            self.bn1 = nn.BatchNorm3d(inputs)
            self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
            for n, (planes, depth) in enumerate(zip(config["planes"], config["depths"]), start=1):
                blocks = []
                for block in range(depth):
                    stride = 2 if n > 1 and not block else 1
                    blocks.append(Bottleneck(inputs, planes, stride, first=not block))
                    inputs = EXPANSION * planes
                setattr(self, f"layer{n}", nn.Sequential(*blocks))

        def forward(self, x):
            # One channel three times, as the network was inflated from one of colours.
            x = torch.relu(self.bn1(self.conv1(torch.cat([x, x, x], dim=1))))
            return self.layer4(self.layer3(self.layer2(self.layer1(self.maxpool(x)))))

    return Network().eval()


def padded(x: Any, kernel: Sequence[int], stride: Sequence[int]) -> Any:
    """With zeros around [B, C, z, y, x], more of them behind than before: "SAME" of TensorFlow."""
    from torch.nn.functional import pad

    margins: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride):
        # An axis that the stride does not divide lacks less.
        lacking = max(k - (size % s or s), 0)
        # `pad` begins with the last axis.
        margins = [lacking // 2, lacking - lacking // 2, *margins]
    return pad(x, margins)


def make_inception(config: Mapping[str, Any]) -> Any:
    """Inception-I3D, whose `config.json` has the widths of its units and of their branches.

    Source: Carreira and Zisserman (arXiv 1705.07750); names and padding of piergiaj/pytorch-i3d.
    """
    import torch
    from torch import nn

    class Unit(nn.Module):
        def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
            super().__init__()
            self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
            self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

        def forward(self, x):
            x = padded(x, self.conv3d.kernel_size, self.conv3d.stride)
            return torch.relu(self.bn(self.conv3d(x)))

    class Mixed(nn.Module):
        def __init__(self, inputs: int, widths: Mapping[str, int]):
            super().__init__()
            self.b0 = Unit(inputs, widths["b0"], 1)
            for branch in ("b1", "b2"):
                inner = widths[f"{branch}a"]
                setattr(self, f"{branch}a", Unit(inputs, inner, 1))
                setattr(self, f"{branch}b", Unit(inner, widths[f"{branch}b"], 3))
            self.b3b = Unit(inputs, widths["b3b"], 1)

        def forward(self, x):
            # Zeros in the margin do no harm: what comes in is never negative.
            highest = nn.functional.max_pool3d(padded(x, (3, 3, 3), (1, 1, 1)), 3, stride=1)
            one, two = self.b1b(self.b1a(x)), self.b2b(self.b2a(x))
            return torch.cat([self.b0(x), one, two, self.b3b(highest)], dim=1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            first, second, third = config["units"]
            self.add_module(UNITS[0], Unit(3, first, 7, 2))
            self.add_module(UNITS[1], Unit(first, second, 1))
            self.add_module(UNITS[2], Unit(second, third, 3))
            inputs = third
            for name, widths in zip(MIXED, config["mixed"]):
                own = dict(zip(BRANCHES, widths))
                self.add_module(name, Mixed(inputs, own))
                inputs = sum(own[branch] for branch in ("b0", "b1b", "b2b", "b3b"))

        def forward(self, x):
            # It was trained on colours from -1 to 1, and a slice has one channel from 0 to 1.
            x = 2 * torch.cat([x, x, x], dim=1) - 1
            for name in (*UNITS, *MIXED):
                if name in POOLS:
                    kernel, stride = POOLS[name]
                    x = nn.functional.max_pool3d(padded(x, kernel, stride), kernel, stride)
                x = self.get_submodule(name)(x)
            return x

    return Network().eval()


NETWORKS = {
    "i3resnet": Inflated(make_i3resnet, stride=(16, 32, 32), turned=True),
    "i3d": Inflated(make_inception, stride=(8, 32, 32), turned=False),
}
