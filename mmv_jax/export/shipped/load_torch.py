"""The encoder of a file of `mmv export --format safetensors`, in PyTorch alone.

  weights, about = load("encoder.safetensors")
  tokens = encode(weights, about, patches, coords_mm, kinds, segment_ids)  # [B, L, D]

`about` says all that the tensors do not: heads, rotary waves, epsilons, the kind of GELU, and how
intensities become patches. Axes: B rows, L tokens, P voxels of a patch, D width.
"""

import json
import math

import torch
import torch.nn.functional as F
from safetensors import safe_open


def load(path):
    """The tensors by name, and the file's description of the network."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["architecture"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 it is no dict


def encode(weights, about, patches, coords_mm, kinds, segment_ids):
    """Tokens [B, L, D] after the last norm, 0 at padding; gradients pass through.

    Args:
      patches: [B, L, P] voxels, about [-1, 1]; not read where the token is no patch.
      coords_mm: [B, L, 3] (z, y, x) from the study's centre.
      kinds: [B, L] 0 padding, 1 CLS, 2 + r register r, 100 patch.
      segment_ids: [B, L] 0 padding, else a number for each study.
    """
    assert about["network"] == "vit", f"a network of the kind {about['network']!r}"
    heads, rotary, pairs = about["heads"], about["rotary"], about["rotary"]["pairs"]
    width, epsilon = about["width"], about["norm_epsilon"]

    def norm(name, x, *layer):  # the tensors of a block are stacked: [depth, ...]
        scale, bias = (weights[f"{name}.{part}"][layer] for part in ("scale", "bias"))
        return F.layer_norm(x, (width,), scale, bias, eps=epsilon)

    def dense(name, x, *layer):
        y = x @ weights[f"{name}.kernel"][layer]
        return y + weights[f"{name}.bias"][layer] if f"{name}.bias" in weights else y

    def rotate(x):  # channel pairs (i, i + pairs)
        a, b, rest = x.split((pairs, pairs, x.shape[-1] - 2 * pairs), -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def scaled(name, y, layer):
        return y * weights[name][layer] if about["layer_scale"] else y

    # In float64, as NumPy computes them: an error in a frequency grows with the position.
    powers = -torch.linspace(0, 1, pairs // 3, dtype=torch.float64, device=patches.device)
    waves = (2 * math.pi * rotary["base"] ** powers).float()
    angles = (coords_mm / rotary["scale_mm"])[..., None] * waves
    angles = angles.reshape(*coords_mm.shape[:2], 1, pairs)
    cos, sin = angles.cos(), angles.sin()
    # Kinds 1, 2, ...: CLS, then the registers, in the order of the learned vectors.
    special = torch.stack([kinds == 1 + n for n in range(1 + about["registers"])], -1)
    x = special.to(patches.dtype) @ weights["embed.learned"][:-1]  # the last one is the mask token
    x = torch.where((kinds == 100)[..., None], dense("embed.patch", patches), x)
    same_segment = segment_ids[:, None, :, None] == segment_ids[:, None, None]
    for n in range(about["depth"]):
        a, b = "blocks.stack.project", "blocks.stack.combine"
        qkv = dense(f"{a}.qkv", norm(f"{a}.norm", x, n), n).split(width, -1)
        q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in qkv)
        if about["qk_norm"]:
            scales, size = weights[f"{a}.qk_scale"][n], (width // heads,)
            q, k = (F.layer_norm(y, size, eps=epsilon) * s for y, s in zip((q, k), scales))
        q, k, v = (y.transpose(1, 2) for y in (rotate(q), rotate(k), v))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=same_segment)
        y = dense(f"{b}.attention_out", found.transpose(1, 2).reshape(x.shape), n)
        x = x + scaled(f"{b}.attention_scale", y, n)
        y = dense(f"{b}.mlp_inner", norm(f"{b}.norm", x, n), n)
        if about["mlp"] == "swiglu":
            gate, value = y.chunk(2, -1)
            y = F.silu(gate) * value
        else:  # the GELU by erf differs by up to 5e-4
            y = F.gelu(y, approximate="tanh")
        x = x + scaled(f"{b}.mlp_scale", dense(f"{b}.mlp_out", y, n), n)
    return norm("norm", x) * (segment_ids > 0)[..., None]
