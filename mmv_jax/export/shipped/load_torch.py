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
    """The tensors by name, and what the file says of the network."""
    with safe_open(path, "pt") as file:
        # float: files of 16 bits are computed in 32.
        tensors = {n: file.get_tensor(n).float() for n in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["architecture"])


def encode(weights, about, patches, coords_mm, kinds, segment_ids):
    """Tokens [B, L, D] after the last norm, 0 at padding; gradients pass.

    Args:
      patches: [B, L, P] voxels, about [-1, 1]; not read where the token is no patch.
      coords_mm: [B, L, 3] (z, y, x) from the study's centre.
      kinds: [B, L] 0 padding, 1 CLS, 2 + r register r, 100 patch.
      segment_ids: [B, L] 0 padding, else a number for each study.
    """
    assert about["network"] == "vit", f"a network of the kind {about['network']!r}"
    (rows, length), rotary, pairs = kinds.shape, about["rotary"], about["rotary"]["pairs"]

    def standardise(x, scale=None, bias=None):
        return F.layer_norm(x, x.shape[-1:], scale, bias, eps=about["norm_epsilon"])

    def norm(w, name, x):
        return standardise(x, w[f"{name}.scale"], w[f"{name}.bias"])

    def dense(w, name, x):
        return x @ w[f"{name}.kernel"] + w.get(f"{name}.bias", 0)

    def rotate(x):  # channel pairs (i, i + pairs)
        a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    # In float64, as NumPy computes them: an error in a frequency grows with the position.
    powers = torch.linspace(0, -1, pairs // 3, dtype=torch.float64, device=patches.device)
    waves = (2 * math.pi * rotary["base"] ** powers).float()
    angles = (coords_mm / rotary["scale_mm"])[..., None] * waves
    angles = angles.reshape(rows, 1, length, pairs)  # the 1 is for the heads
    cos, sin = angles.cos(), angles.sin()
    # Kinds 1, 2, ...: CLS, then the registers. The last learned vector is the mask token.
    special = kinds[..., None] == 1 + torch.arange(1 + about["registers"], device=kinds.device)
    x = special.to(patches.dtype) @ weights["embed.learned"][:-1]
    x = torch.where((kinds == 100)[..., None], dense(weights, "embed.patch", patches), x)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None]
    for n in range(about["depth"]):  # the tensors of the blocks are stacked: [depth, ...]
        w = {name[13:]: weights[name][n] for name in weights if name.startswith("blocks.stack.")}
        qkv = dense(w, "project.qkv", norm(w, "project.norm", x))
        qkv = qkv.reshape((rows, length, 3, about["heads"], about["head_channels"]))
        q, k, v = qkv.permute((2, 0, 3, 1, 4))  # each [B, heads, L, channels]
        if about["qk_norm"]:
            q, k = (standardise(y) * s for y, s in zip((q, k), w["project.qk_scale"]))
        found = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=same)
        y = dense(w, "combine.attention_out", found.transpose(1, 2).reshape(x.shape))
        x = x + y * w.get("combine.attention_scale", 1)
        y = dense(w, "combine.mlp_inner", norm(w, "combine.norm", x))
        if about["mlp"] == "swiglu":
            gate, value = y.chunk(2, -1)
            y = F.silu(gate) * value
        else:  # the GELU by erf differs by up to 5e-4
            y = F.gelu(y, approximate="tanh")
        x = x + dense(w, "combine.mlp_out", y) * w.get("combine.mlp_scale", 1)
    return norm(weights, "norm", x) * (segment_ids > 0)[..., None]
