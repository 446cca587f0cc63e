"""The same training step in PyTorch: the worker process of `bench.step`.

Arguments: a mode, and the work as JSON (see `bench.step.TimedRows`). In the mode "lengths", crops
of equal length go through together and nothing is padded. In the mode "padded", global crops are
padded to the longest of them, and local ones likewise, as in usual self-distillation code. Each
line of the input asks for one step; each line of the output is its seconds.

Axes: N crops, L tokens, D width, K channels of a head, R rotated pairs.
"""

import copy
import json
import math
import sys
import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, linear, log_softmax, normalize, scaled_dot_product_attention


class TorchBlock(nn.Module):
    """A block like that of models/blocks.py: pre-norm, rotary queries and keys, layer scale."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        # 1e-6 as in our blocks; PyTorch's own default is 1e-5.
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale_1, self.scale_2 = (nn.Parameter(torch.full((width,), 0.1)) for _ in range(2))

    def forward(self, x, cos, sin, mask):
        n, length, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view((n, length, 3, self.heads, -1))
        q, k, v = qkv.permute((2, 0, 3, 1, 4))
        found = scaled_dot_product_attention(
            rotated(q, cos, sin), rotated(k, cos, sin), v, attn_mask=mask
        )
        x = x + self.scale_1 * self.out(found.transpose(1, 2).reshape(n, length, width))
        # The tanh form, which is the default of Flax's gelu but not of PyTorch's.
        return x + self.scale_2 * self.outer(gelu(self.inner(self.norm_2(x)), approximate="tanh"))


def rotated(x, cos, sin):
    """Channel pairs (i, i + R) of each head, rotated by cos and sin [N, 1, L, R]."""
    first, second, rest = x.split(
        (cos.shape[-1], cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]), -1
    )
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1)


class TorchEncoder(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, voxels: int, special: int):
        super().__init__()
        # Three axes of position, two channels a pair: a sixth of the head for each axis.
        self.special, self.pairs = special, width // heads // 6
        self.patch = nn.Linear(voxels, width)
        self.learned = nn.Parameter(torch.randn(special + 1, width) * 0.02)  # CLS, registers, mask
        self.blocks = nn.ModuleList(TorchBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, patches, coords, masked, real):
        """Tokens of crops.

        Args:
          patches: [N, L - special, P].
          coords: [N, L, 3].
          masked: [N, L - special], or None.
          real: [N, L], or None for no padding.
        """
        x = self.patch(patches)
        if masked is not None:
            x = torch.where(masked[..., None], self.learned[-1], x)
        x = torch.cat((self.learned[:-1].expand(len(x), -1, -1), x), 1)
        # Wavelengths from 1 to 100, in units of 16 mm, as `ops/rotary.py` has them.
        frequencies = 2 * math.pi * 100.0 ** (-torch.arange(self.pairs) / (self.pairs - 1))
        angles = (coords[..., None] / 16 * frequencies).flatten(2)[:, None]
        # Padding is masked only among keys: the output of a padded query is not read.
        mask = None if real is None else real[:, None, None]
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin(), mask)
        return self.norm(x)


class Head(nn.Module):
    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.layers = nn.ModuleList(
            (nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck))
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = gelu(layer(x), approximate="tanh")
        # Both sides have length 1, so the logits are cosines.
        return linear(normalize(self.layers[-1](x), dim=-1), normalize(self.prototypes, dim=-1))


@torch.no_grad()
def sinkhorn(logits, temperature: float = 0.04, iterations: int = 3):
    # The largest logit is subtracted so that exp stays finite; the normalisation cancels it.
    q = torch.exp((logits - logits.max()) / temperature)
    for _ in range(iterations):
        # Prototypes share the N samples evenly, N / K each; then each sample sums to 1.
        q = q / q.sum(0, keepdim=True) * (q.shape[0] / q.shape[1])
        q = q / q.sum(1, keepdim=True)
    return q


def make_model(work: dict[str, Any]) -> nn.ModuleDict:
    head = (work["width"], work["hidden"], work["bottleneck"], work["prototypes"])
    encoder = TorchEncoder(
        width=work["width"],
        depth=work["depth"],
        heads=work["heads"],
        voxels=math.prod(work["patch"]),
        special=1 + work["registers"],
    )
    return nn.ModuleDict({"encoder": encoder, "dino_head": Head(*head), "ibot_head": Head(*head)})


def make_groups(work: dict[str, Any], padded: bool) -> list[dict[str, Any]]:
    """Groups of crops that go through the encoder together, with the crops' numbers.

    A group has crops of one length, or of one kind with padding.
    """
    voxels, special = math.prod(work["patch"]), 1 + work["registers"]
    crops = [crop for row in work["rows"] for crop in row]
    numbered = defaultdict(list)
    for number, crop in enumerate(crops):
        numbered[(crop["is_global"],) if padded else (crop["is_global"], crop["tokens"])].append(
            (number, crop)
        )
    groups = []
    for (is_global, *_), members in numbered.items():
        tokens = torch.tensor([crop["tokens"] for _, crop in members])
        n, longest = len(members), int(tokens.max())
        masked = torch.zeros(n, longest - special, dtype=torch.bool)
        for line, (_, crop) in zip(masked, members):
            # The first patches, as in `step.make_batch`.
            line[: crop["masked"]] = True
        # Crops of one length get no mask, so that PyTorch does not pay for one.
        ragged = padded and int(tokens.min()) < longest
        groups.append(
            {
                "numbers": [number for number, _ in members],
                "is_global": is_global,
                "masked": masked,
                "patches": torch.randn(n, longest - special, voxels),
                "coords": torch.rand(n, longest, 3) * 300,
                "real": (torch.arange(longest) < tokens[:, None]) if ragged else None,
            }
        )
    return groups


def encode(encoder: Any, groups: list[dict], teacher: bool):
    """CLS tokens with their crops' numbers, and the student's masked tokens, in the order of the
    groups.
    """
    cls, numbers, hidden = [], [], []
    for group in groups:
        # The teacher reads the global crops unmasked; the student reads all crops.
        if group["is_global"] or not teacher:
            tokens = encoder(
                group["patches"],
                group["coords"],
                None if teacher else group["masked"],
                group["real"],
            )
            cls.append(tokens[:, 0])
            numbers += group["numbers"]
            hidden.append(tokens[:, encoder.special :][group["masked"]])
    return torch.cat(cls), numbers, torch.cat(hidden)


def main(mode: str, described: str) -> None:
    torch.manual_seed(0)
    work = json.loads(described)
    groups, study = (
        make_groups(work, mode == "padded"),
        torch.tensor([crop["study"] for row in work["rows"] for crop in row]),
    )
    student = make_model(work)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.04, fused=True
    )
    counts = [
        crop["masked"] for group in groups for crop in _members(work, group) if crop["masked"]
    ]
    # iBOT averages over the masked tokens of a crop, then over crops, in the order of `encode`.
    weights = torch.cat([torch.full((n,), 1 / n / len(counts)) for n in counts])

    def step() -> None:
        with torch.no_grad():
            cls, taught_numbers, hidden = encode(teacher["encoder"], groups, teacher=True)
            dino_targets, ibot_targets = (
                sinkhorn(teacher["dino_head"](cls)),
                sinkhorn(teacher["ibot_head"](hidden)),
            )
        cls, numbers, hidden = encode(student["encoder"], groups, teacher=False)
        # [student crops, teacher crops]: two views of one study, and not the same view.
        pairs = (study[numbers][:, None] == study[taught_numbers]) & (
            torch.tensor(numbers)[:, None] != torch.tensor(taught_numbers)
        )
        dino = (
            -(
                (pairs.float() @ dino_targets) * log_softmax(student["dino_head"](cls) / 0.1, -1)
            ).sum()
            / pairs.sum()
        )
        ibot = -(
            (ibot_targets * log_softmax(student["ibot_head"](hidden) / 0.1, -1)).sum(-1) * weights
        ).sum()
        optimizer.zero_grad()
        (dino + ibot).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimizer.step()
        # EMA with momentum 0.994, where `step.config_of` starts.
        torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 0.006)

    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def _members(work: dict[str, Any], group: dict[str, Any]) -> list[dict]:
    crops = [crop for row in work["rows"] for crop in row]
    return [crops[number] for number in group["numbers"]]


if __name__ == "__main__":
    main(*sys.argv[1:])
