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
    """The tensors by name, and the file's description of the network."""
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["architecture"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 it is no dict


def encode(weights, about, patches, coords_mm, kinds, segment_ids, xp=np):
    """Tokens [B, L, D] after the last norm, 0 at padding; a token sees only its own segment.

    Args:
      patches: [B, L, P] voxels, about [-1, 1]; not read where the token is no patch.
      coords_mm: [B, L, 3] (z, y, x) from the study's centre.
      kinds: [B, L] 0 padding, 1 CLS, 2 + r register r, 100 patch.
      segment_ids: [B, L] 0 padding, else a number for each study.
      xp: the module of the arrays, `numpy` or `jax.numpy`.
    """
    assert about["network"] == "vit", f"a network of the kind {about['network']!r}"
    heads, rotary, pairs = about["heads"], about["rotary"], about["rotary"]["pairs"]
    width, hidden = about["width"], about["hidden"]

    def standardise(x, epsilon):
        x = x - x.mean(-1, keepdims=True)
        return x / xp.sqrt((x * x).mean(-1, keepdims=True) + epsilon)

    def norm(name, x, *layer):  # the tensors of a block are stacked: [depth, ...]
        scale, bias = (weights[f"{name}.{part}"][layer] for part in ("scale", "bias"))
        return standardise(x, about["norm_epsilon"]) * scale + bias

    def dense(name, x, *layer):
        bias = weights[f"{name}.bias"][layer] if f"{name}.bias" in weights else np.float32(0)
        return x @ weights[f"{name}.kernel"][layer] + bias

    def rotate(x):  # channel pairs (i, i + pairs)
        a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
        return xp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def scaled(name, y, layer):
        return y * weights[name][layer] if about["layer_scale"] else y

    # Wavelengths from 1 to `base`, in units of scale_mm; a third of the pairs for each axis.
    waves = 2 * np.pi * rotary["base"] ** -np.linspace(0, 1, pairs // 3)
    angles = (coords_mm / np.float32(rotary["scale_mm"]))[..., None] * waves.astype(np.float32)
    angles = angles.reshape(*coords_mm.shape[:2], 1, pairs)
    cos, sin = xp.cos(angles), xp.sin(angles)
    # Kinds 1, 2, ...: CLS, then the registers, in the order of the learned vectors.
    special = xp.stack([kinds == 1 + n for n in range(1 + about["registers"])], -1)
    x = special.astype("float32") @ weights["embed.learned"][:-1]  # the last one is the mask token
    x = xp.where((kinds == 100)[..., None], dense("embed.patch", patches), x)
    same_segment = segment_ids[:, None, :, None] == segment_ids[:, None, None]
    for n in range(about["depth"]):
        a, b = "blocks.stack.project", "blocks.stack.combine"
        qkv = dense(f"{a}.qkv", norm(f"{a}.norm", x, n), n)
        parts = [qkv[..., i * width : (i + 1) * width] for i in range(3)]
        q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in parts)
        if about["qk_norm"]:
            scales = weights[f"{a}.qk_scale"][n]
            q, k = (standardise(y, about["norm_epsilon"]) * s for y, s in zip((q, k), scales))
        q, k, v = (y.transpose(0, 2, 1, 3) for y in (rotate(q), rotate(k), v))
        scores = q @ k.transpose(0, 1, 3, 2) * np.float32((width // heads) ** -0.5)
        # Not -inf: the maximum is subtracted next, and -inf less -inf is NaN.
        scores = xp.where(same_segment, scores, np.float32(-1e30))
        shares = xp.exp(scores - scores.max(-1, keepdims=True))
        found = (shares / shares.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + scaled(f"{b}.attention_scale", dense(f"{b}.attention_out", found, n), n)
        y = dense(f"{b}.mlp_inner", norm(f"{b}.norm", x, n), n)
        if about["mlp"] == "swiglu":
            y = y[..., :hidden] / (1 + xp.exp(-y[..., :hidden])) * y[..., hidden:]
        else:  # GELU by tanh; the one by erf differs by up to 5e-4
            inner = np.float32((2 / np.pi) ** 0.5) * (y + np.float32(0.044715) * y * y * y)
            y = np.float32(0.5) * y * (1 + xp.tanh(inner))
        x = x + scaled(f"{b}.mlp_scale", dense(f"{b}.mlp_out", y, n), n)
    return xp.where((segment_ids > 0)[..., None], norm("norm", x), np.float32(0))
