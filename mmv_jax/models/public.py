"""Weights of public encoders, from a local Hugging Face folder, as parameters of `Encoder`.

No PyTorch is needed: the tensors are read from `model.safetensors`.

Axes: D width, p side of a patch in pixels.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmv_jax.errors import UserError
from mmv_jax.models.encoder import SIZES
from mmv_jax.models.public_names import GATED, KINDS, TensorNames

CONFIG, TENSORS, PREPROCESSING = "config.json", "model.safetensors", "preprocessor_config.json"
INDEX = "model.safetensors.index.json"  # of weights in several files
# Means and deviations of the three channels, where the folder does not say them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GELU = {"gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
# The shortest wavelength of z, in halves of a crop: a little more than two of a dozen layers.
SCALE = 0.25


@dataclass(frozen=True)
class PublicEncoder:
    """The weights of a folder.

    Attributes:
      name: of the folder.
      options: keys of `config.encoder` that the weights need, `size` and `patch` (None, p, p)
        among them.
      tensors: by name, without the prefix.
      mean, std: of the three channels in its training.
      kind: names of its tensors.
      biased: which of query, key and value have a bias.
    """

    name: str
    options: dict[str, Any]
    tensors: dict[str, np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: TensorNames
    biased: frozenset[str]

    @classmethod
    def open(cls, folder: str | Path) -> "PublicEncoder":
        """Read a folder.

        Raises:
          UserError: a file is missing or damaged, or the model is of another kind.
        """
        folder = Path(folder)
        about = _json(folder, CONFIG)
        model = str(about.get("model_type"))
        if model not in KINDS:
            raise UserError(
                f"config.init.folder {folder}: its {CONFIG} has the model_type {model}. These"
                f" can be gone on from: {', '.join(KINDS)}."
            )
        kind = KINDS[model]
        if about.get("use_swiglu_ffn"):
            kind = replace(kind, block={**kind.block, **GATED})
        tensors = _tensors(folder, kind.prefixes)
        mean, std = channels(folder)
        try:
            options = _options(folder, about, kind=kind, tensors=tensors)
        except KeyError as error:
            raise UserError(
                f"config.init.folder {folder}: its {CONFIG} does not say {error.args[0]}. Take the"
                " folder as it was published."
            ) from None
        _refuse_values(folder, tensors, options, kind=kind)
        # DINOv3 says it of each, the others of all three together.
        biased = {
            role
            for role in ("query", "key", "value")
            if about.get(f"{role}_bias", about.get("qkv_bias", True))
        }
        return cls(
            name=folder.resolve().name,
            options=options,
            tensors=tensors,
            mean=mean,
            std=std,
            kind=kind,
            biased=frozenset(biased),
        )

    def parameters(self, patch: Sequence[int], learned: np.ndarray) -> tuple[dict, list[str]]:
        """Parameters of the encoder, and a table of what was mapped, line by line.

        Args:
          patch: voxels (z, y, x); a planar study repeats one slice through z.
          learned: [R + 2, D] of a fresh encoder; its rows stay where the folder has none.
        Raises:
          UserError: a tensor is missing or has another shape.
        """
        taken: dict[str, str] = {}
        reader = _Reader(self.tensors, taken, self.name)
        blocks = [self._block(reader, n) for n in range(self.options["depth"])]
        params = {
            "embed": self._embed(reader, patch, learned),
            "blocks": {"stack": _stacked(blocks)},
            "norm": reader.norm(self.kind.norm, "norm"),
        }
        left = dict.fromkeys(self.tensors.keys() - taken.keys(), "not used")
        # All blocks have the same names, so one line stands for all.
        block = re.compile(rf"^({re.escape(self.kind.layer)})\d+")
        lines = {block.sub(r"\1*", name): where for name, where in (taken | left).items()}
        return params, [f"{name} -> {where}" for name, where in sorted(lines.items())]

    def _embed(self, reader: "_Reader", patch: Sequence[int], learned: np.ndarray) -> dict:
        width, side = self.options["width"], self.options["patch"][1]
        kernel = reader(f"{self.kind.patch}.weight", "embed.patch.kernel", (width, 3, side, side))
        bias = reader(f"{self.kind.patch}.bias", "embed.patch.bias", (width,))
        # One grey channel u in [-1, 1] is the pixel (u + 1) / 2 in all three, which the model
        # wants less its mean and over its deviation.
        mean, std = (np.reshape(x, (1, 3, 1, 1)) for x in (self.mean, self.std))
        offset = (kernel * ((0.5 - mean) / std)).sum((1, 2, 3))
        planar = (kernel / (2 * std)).sum(1).reshape(width, -1)
        # Divided over the depth: the sum over equal slices is the planar model's.
        deep = np.tile(planar / patch[0], (1, patch[0])).T
        learned = np.array(learned)
        learned[0] = reader("embeddings.cls_token", "embed.learned 0", (1, 1, width)).reshape(-1)
        registers = self.options["registers"]
        if registers:
            where = f"embed.learned 1 to {registers}"
            shape = (1, registers, width)
            learned[1:-1] = reader("embeddings.register_tokens", where, shape)[0]
        masked = self.tensors.get("embeddings.mask_token")
        if masked is not None:
            reader("embeddings.mask_token", f"embed.learned {registers + 1}", masked.shape)
            learned[-1] = masked.reshape(-1)
        out = {"patch": {"kernel": deep, "bias": bias + offset}, "learned": learned}
        if self.kind.positions == "table":
            name, cells = "embeddings.position_embeddings", math.prod(self.options["table"])
            table = reader(name, "embed.positions, embed.learned 0", (1, cells + 1, width))[0]
            learned[0] += table[0]  # CLS has a position of its own
            out["positions"] = table[1:]
        return out

    def _block(self, reader: "_Reader", number: int) -> dict:
        width, names = self.options["width"], self.kind.block
        at = {role: f"{self.kind.layer}{number}.{name}" for role, name in names.items()}
        hidden = _shape_of(self.tensors, f"{at['mlp_inner']}.weight")[0]
        project = {"norm": reader.norm(at["norm1"], "block project.norm")}
        parts = [
            reader.dense(at[role], "block project.qkv", (width, width), biased=role in self.biased)
            for role in ("query", "key", "value")
        ]
        project["qkv"] = {
            name: np.concatenate([part[name] for part in parts], -1) for name in ("kernel", "bias")
        }
        inside = _shape_of(self.tensors, f"{at['mlp_out']}.weight")[1]
        combine: dict[str, Any] = {"norm": reader.norm(at["norm2"], "block combine.norm")}
        for role, shape in (
            ("attention_out", (width, width)),
            ("mlp_inner", (width, hidden)),
            ("mlp_out", (inside, width)),
        ):
            combine[role] = reader.dense(at[role], f"block combine.{role}", shape)
        for role, name in (("scale1", "attention_scale"), ("scale2", "mlp_scale")):
            if role in at:
                combine[name] = reader(at[role], f"block combine.{name}", (width,))
        return {"project": project, "combine": combine}


class _Reader:
    """Tensors by name, with a note of where each goes."""

    def __init__(self, tensors: Mapping[str, np.ndarray], taken: dict[str, str], folder: str):
        self.tensors, self.taken, self.folder = tensors, taken, folder

    def __call__(self, name: str, where: str, shape: tuple[int, ...]) -> np.ndarray:
        if _shape_of(self.tensors, name) != shape:
            raise UserError(
                f"config.init.folder {self.folder}: its tensor {name} has the shape"
                f" {_shape_of(self.tensors, name)} instead of {shape}. Its {CONFIG} is another"
                " model's."
            )
        self.taken[name] = where
        return self.tensors[name].astype(np.float32)

    def norm(self, name: str, where: str) -> dict[str, Float[np.ndarray, "D"]]:
        shape = _shape_of(self.tensors, f"{name}.weight")
        return {
            "scale": self(f"{name}.weight", where, shape),
            "bias": self(f"{name}.bias", where, shape),
        }

    def dense(
        self, name: str, where: str, shape: tuple[int, int], *, biased: bool = True
    ) -> dict[str, np.ndarray]:
        kernel = self(f"{name}.weight", where, shape[::-1]).T  # PyTorch keeps [out, in]
        # DINOv3's keys have no bias, which is a bias of zeros.
        bias = self(f"{name}.bias", where, shape[1:]) if biased else np.zeros(shape[1], np.float32)
        return {"kernel": kernel, "bias": bias}


def _shape_of(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise UserError(f"config.init.folder: its {TENSORS} has no tensor {name}.")
    return tensors[name].shape


def _stacked(blocks: Sequence[Any]) -> Any:
    """One tree with the leaves of all blocks, [depth, ...]."""
    if isinstance(blocks[0], dict):
        return {name: _stacked([block[name] for block in blocks]) for name in blocks[0]}
    return np.stack(blocks)


def _options(
    folder: Path, about: Mapping[str, Any], *, kind: TensorNames, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    width, depth = about["hidden_size"], about["num_hidden_layers"]
    heads, side = about["num_attention_heads"], about["patch_size"]
    if not isinstance(side, int) or not isinstance(about["layer_norm_eps"], float | int):
        raise UserError(
            f"config.init.folder {folder}: its {CONFIG} says a patch_size of {side!r} and a"
            f" layer_norm_eps of {about['layer_norm_eps']!r}. Both are single numbers."
        )
    shape = (width, depth, heads)
    named = [size for size, own in SIZES.items() if own == shape]
    gated = bool(about.get("use_swiglu_ffn"))
    if about.get("use_gated_mlp") or (not gated and about.get("hidden_act") not in GELU):
        raise UserError(
            f"config.init.folder {folder}: its MLP (hidden_act {about.get('hidden_act')!r}) is"
            " none of this encoder's: GELU, or the gated one of DINOv2."
        )
    registers = tensors.get("embeddings.register_tokens")
    options: dict[str, Any] = {
        "size": named[0] if named else "nano",
        "width": width,
        "depth": depth,
        "heads": heads,
        "patch": (None, side, side),
        "registers": 0 if registers is None else registers.shape[1],
        "mlp": "swiglu" if gated else GELU[about["hidden_act"]],
        "layer_scale": 1.0 if "scale1" in kind.block else None,
        "epsilon": about["layer_norm_eps"],
        "positions": kind.positions,
        "scale_mm": SCALE,
    }
    if kind.positions == "table":
        name = "embeddings.position_embeddings"
        cells = math.isqrt(_shape_of(tensors, name)[1] - 1)
        options["table"] = (cells, cells)
    else:
        options["rope_base"] = about.get("rope_theta", 100.0)
    return options


def channels(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and deviations of the three channels, for pixels from 0 to 1.

    A folder may rescale bytes by another factor than 1/255, or not normalise: both are told by
    means and deviations too.

    Raises:
      UserError: the file is damaged, or a value is none.
    """
    said = _json(folder, PREPROCESSING) if (folder / PREPROCESSING).is_file() else {}
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    found = []
    for name, default, without in (
        ("image_mean", IMAGENET[0], 0.0),
        ("image_std", IMAGENET[1], 1.0),
    ):
        value = said.get(name)
        value = default if value is None else value
        if not said.get("do_normalize", True):
            value = without
        try:
            # (255 p f - mean) / std is (p - mean / 255 f) / (std / 255 f) for a pixel p.
            three = np.broadcast_to(np.asarray(value, np.float64), 3) / float(
                255 * factor or np.nan
            )
        except (TypeError, ValueError):
            three = np.full(3, np.nan)
        if not np.isfinite(three).all() or (name == "image_std" and not (three > 0).all()):
            raise UserError(
                f"{folder.name}: {PREPROCESSING} has {name} {said.get(name)!r} and rescale_factor"
                f" {said.get('rescale_factor')!r}. Means and deviations are numbers of three"
                " channels, and deviations are above 0."
            )
        found.append(tuple(three.tolist()))
    return found[0], found[1]


def _refuse_values(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    *,
    kind: TensorNames,
) -> None:
    for name in ("width", "depth", "heads"):
        if not isinstance(options[name], int) or options[name] < 1:
            raise UserError(
                f"config.init.folder {folder}: its {CONFIG} says a {name} of {options[name]!r}."
            )
    block = re.compile(rf"^{re.escape(kind.layer)}(\d+)\.")
    blocks = {int(found[1]) for name in tensors if (found := block.match(name))}
    # A model that is cut short would give features of an inner layer without a word.
    if blocks != set(range(options["depth"])):
        raise UserError(
            f"config.init.folder {folder}: its weights have {len(blocks)} blocks, and its {CONFIG}"
            f" says {options['depth']}."
        )
    for name, value in tensors.items():
        # Types of 8 bits hold quantised weights, which need factors that are not read here.
        if value.dtype.itemsize < 2 or not np.isfinite(value.astype(np.float32)).all():
            raise UserError(
                f"config.init.folder {folder}: its tensor {name} ({value.dtype}) is quantised, or"
                " has values that are not finite."
            )


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        about = json.loads((folder / name).read_text())
        if not isinstance(about, dict):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"config.init.folder {folder}: it has no {name}. Give the folder of a Hugging Face"
            " model, such as a clone of facebook/dinov2-small."
        ) from None
    except ValueError:
        raise UserError(f"config.init.folder {folder}: its {name} is damaged.") from None
    return about


def _tensors(folder: Path, prefixes: Sequence[str]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    # Large models lie in several files, which the index names.
    several = (folder / INDEX).is_file()
    files = sorted({*_json(folder, INDEX)["weight_map"].values()}) if several else [TENSORS]
    found = {}
    for name in files:
        # The index is another's file: it must not lead out of the folder.
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError(
                f"config.init.folder {folder}: it has no {path.name}. Pickled weights (.bin, .pth)"
                " are never read: save the model again with safe_serialization=True."
            )
        try:
            with safe_open(path, "numpy") as file:
                for key in file.keys():  # noqa: SIM118 (the file is no dict)
                    found[key] = file.get_tensor(key)
        except (SafetensorError, TypeError) as error:
            raise UserError(
                f"config.init.folder {folder}: {path.name} cannot be read ({error})."
            ) from None
    for prefix in prefixes:
        if any(key.startswith(prefix) for key in found):
            # The rest belongs to a head or a decoder, and keeps its own name.
            return {key.removeprefix(prefix): value for key, value in found.items()}
    return found
