"""The encoder of a file of `mmv export --format safetensors`, in PyTorch alone.

  weights, about = load("encoder.safetensors")
  tokens = encode(weights, about, patches, coords_mm, kinds, segment_ids)  # [B, L, D]

`about` says all that the tensors do not: heads, rotary waves, epsilons, the kind of GELU, and how
intensities become patches. Axes: B rows, L tokens, P voxels of a patch, D width.
"""

import json

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
    rotary, pairs, gated = about["rotary"], about["rotary"]["pairs"], about["mlp"] == "swiglu"

    def norm(x, scale, bias=0):
        return F.layer_norm(x, x.shape[-1:], eps=about["norm_epsilon"]) * scale + bias

    def dense(w, name, x):
        return x @ w[f"{name}.kernel"] + w.get(f"{name}.bias", 0)

    # In float64, as NumPy computes them: an error in a frequency grows with the position.
    powers = torch.linspace(0, -1, pairs // 3, dtype=torch.float64)
    waves = (2 * torch.pi * rotary["base"] ** powers).to(coords_mm)
    angles = ((coords_mm / rotary["scale_mm"])[..., None] * waves).reshape((*kinds.shape, pairs))
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # the new axis is for the heads
    # Kinds 1, 2, ...: CLS, then the registers. The last learned vector is the mask token.
    x = sum((kinds == 1 + n)[..., None] * v for n, v in enumerate(weights["embed.learned"][:-1]))
    x = torch.where((kinds == 100)[..., None], dense(weights, "embed.patch", patches), x)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None]
    for n in range(about["depth"]):  # the tensors of the blocks are stacked: [depth, ...]
        w = {name[13:]: weights[name][n] for name in weights if name.startswith("blocks.stack.")}
        y = dense(w, "project.qkv", norm(x, w["project.norm.scale"], w["project.norm.bias"]))
        y = y.reshape((*kinds.shape, 3, about["heads"], -1)).permute((2, 0, 3, 1, 4))
        # Queries and keys together: [2, B, heads, L, channels]
        qk = norm(y[:2], w["project.qk_scale"][:, None, None, None]) if about["qk_norm"] else y[:2]
        a, b, rest = qk.tensor_split((pairs, 2 * pairs), -1)  # channel i turns with i + pairs
        q, k = torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)
        y = F.scaled_dot_product_attention(q, k, y[2], same).transpose(1, 2).reshape(x.shape)
        x = x + dense(w, "combine.attention_out", y) * w.get("combine.attention_scale", 1)
        y = dense(w, "combine.mlp_inner", norm(x, w["combine.norm.scale"], w["combine.norm.bias"]))
        gate, value = y.chunk(2, -1) if gated else (y, 1)
        # The GELU by erf differs by up to 5e-4.
        y = F.silu(gate) * value if gated else F.gelu(gate, approximate="tanh")
        x = x + dense(w, "combine.mlp_out", y) * w.get("combine.mlp_scale", 1)
    return norm(x, weights["norm.scale"], weights["norm.bias"]) * (segment_ids > 0)[..., None]
