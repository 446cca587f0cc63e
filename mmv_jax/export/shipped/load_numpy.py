"""The encoder of a file of `mmv export --format safetensors`, in NumPy alone.

  weights, about = load("encoder.safetensors")
  tokens = encode(weights, about, patches, coords_mm, kinds, segment_ids)  # [B, L, D]

`about` says all that the tensors do not: heads, rotary waves, epsilons, the kind of GELU, and how
intensities become patches. Axes: B rows, L tokens, P voxels of a patch, D width.
"""

import json

import numpy as np
from safetensors import safe_open


def load(path):
    """The tensors by name, and what the file says of the network."""
    with safe_open(path, "numpy") as file:
        # float32: files of 16 bits are computed in 32.
        tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        tensors = {n: x.astype(np.float32) for n, x in tensors.items()}
        return tensors, json.loads(file.metadata()["architecture"])


def encode(weights, about, patches, coords_mm, kinds, segment_ids, xp=np):
    """Tokens [B, L, D] after the last norm, 0 at padding; tokens of a segment see no others.

    Args:
      patches: [B, L, P] voxels, about [-1, 1]; not read where the token is no patch.
      coords_mm: [B, L, 3] (z, y, x) from the study's centre.
      kinds: [B, L] 0 padding, 1 CLS, 2 + r register r, 100 patch.
      segment_ids: [B, L] 0 padding, else a number for each study.
      xp: the module of the arrays, `numpy` or `jax.numpy`.
    """
    assert about["network"] == "vit", f"a network of the kind {about['network']!r}"
    (rows, length), rotary, pairs = kinds.shape, about["rotary"], about["rotary"]["pairs"]

    def standardise(x):
        variance = x.var(-1, keepdims=True)
        return (x - x.mean(-1, keepdims=True)) / xp.sqrt(variance + about["norm_epsilon"])

    def norm(w, name, x):
        return standardise(x) * w[f"{name}.scale"] + w[f"{name}.bias"]

    def dense(w, name, x):
        return x @ w[f"{name}.kernel"] + w.get(f"{name}.bias", 0)

    def rotate(x):  # channel pairs (i, i + pairs)
        a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
        return xp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)

    # Wavelengths from 1 to `base`, in units of scale_mm; a third of the pairs for each axis.
    waves = (2 * np.pi * rotary["base"] ** -np.linspace(0, 1, pairs // 3)).astype(np.float32)
    angles = (coords_mm / rotary["scale_mm"])[..., None] * waves
    angles = angles.reshape(rows, 1, length, pairs)  # the 1 is for the heads
    cos, sin = xp.cos(angles), xp.sin(angles)
    # Kinds 1, 2, ...: CLS, then the registers. The last learned vector is the mask token.
    special = kinds[..., None] == 1 + np.arange(1 + about["registers"], dtype=np.int32)
    x = special.astype(np.float32) @ weights["embed.learned"][:-1]
    x = xp.where((kinds == 100)[..., None], dense(weights, "embed.patch", patches), x)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None]
    for n in range(about["depth"]):  # the tensors of the blocks are stacked: [depth, ...]
        w = {name[13:]: weights[name][n] for name in weights if name.startswith("blocks.stack.")}
        qkv = dense(w, "project.qkv", norm(w, "project.norm", x))
        qkv = qkv.reshape((rows, length, 3, about["heads"], about["head_channels"]))
        q, k, v = qkv.transpose((2, 0, 3, 1, 4))  # each [B, heads, L, channels]
        if about["qk_norm"]:
            q, k = (standardise(y) * s for y, s in zip((q, k), w["project.qk_scale"]))
        scores = rotate(q) @ rotate(k).transpose(0, 1, 3, 2) * about["attention_scale"]
        # Not -inf: the maximum is subtracted next, and -inf less -inf is NaN.
        scores = xp.where(same, scores, -1e30)
        shares = xp.exp(scores - scores.max(-1, keepdims=True))
        found = (shares / shares.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + dense(w, "combine.attention_out", found) * w.get("combine.attention_scale", 1)
        y = dense(w, "combine.mlp_inner", norm(w, "combine.norm", x))
        if about["mlp"] == "swiglu":
            gate, value = xp.split(y, 2, -1)
            y = gate / (1 + xp.exp(-gate)) * value
        else:  # GELU by tanh; the one by erf differs by up to 5e-4
            y = y * (1 + xp.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y * y * y))) / 2
        x = x + dense(w, "combine.mlp_out", y) * w.get("combine.mlp_scale", 1)
    return xp.where((segment_ids > 0)[..., None], norm(weights, "norm", x), 0.0)
