"""Weights of public encoders, from a local Hugging Face folder, as parameters of `Encoder`.

No PyTorch is needed: the tensors are read from `model.safetensors`.

Axes: D width, p side of a patch in pixels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.models.channels import channels
from mmv_jax.models.dense import hidden_width
from mmv_jax.models.encoder import SIZES
from mmv_jax.models.folder_files import check_numbers, refuse_adapters
from mmv_jax.models.public_files import CONFIG, TensorPlan, Tensors, read_json
from mmv_jax.models.public_names import GATED, GATED_DINOV3, KINDS, TensorNames

ATTENTION_PARTS = ("query", "key", "value")
SCALES = {"scale1": "attention_scale", "scale2": "mlp_scale"}
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
      tensors: by name, without the prefix; read one at a time.
      mean, std: of the three channels in its training.
      kind: names of its tensors.
      biased: roles of the layers of a block that have a bias.
    """

    name: str
    options: dict[str, Any]
    tensors: Tensors
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
        refuse_adapters(folder)
        about = read_json(folder, CONFIG)
        model = str(about.get("model_type"))
        if model not in KINDS:
            raise UserError(
                f"config.init.folder {folder}: its {CONFIG} has the model_type {model}. These"
                f" can be gone on from: {', '.join(KINDS)}."
            )
        kind = KINDS[model]
        if about.get("use_swiglu_ffn"):
            kind = replace(kind, block={**kind.block, **GATED})
        elif about.get("use_gated_mlp"):
            kind = replace(kind, block={**kind.block, **GATED_DINOV3})
        tensors = Tensors(folder, kind.prefixes)
        mean, std = channels(folder)
        try:
            options = _options(folder, about, kind=kind, tensors=tensors)
        except KeyError as error:
            raise UserError(
                f"config.init.folder {folder}: its {CONFIG} does not say {error.args[0]}. Take the"
                " folder as it was published."
            ) from None
        _refuse_values(folder, tensors, options, kind=kind)
        check_numbers(folder.resolve().name, about)
        # DINOv3 says it of each, the others of queries, keys and values together.
        flags = {role: f"{role}_bias" for role in ATTENTION_PARTS} | {"attention_out": "proj_bias"}
        flags |= dict.fromkeys(("mlp_gate", "mlp_inner", "mlp_out"), "mlp_bias")
        together = about.get("qkv_bias", True)
        biased = {
            role
            for role, flag in flags.items()
            if about.get(flag, together if role in ATTENTION_PARTS else True)
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

    def parameters(
        self, patch: Sequence[int], learned: np.ndarray
    ) -> tuple[dict[str, Any], list[str], str]:
        """Parameters of the encoder, a table of what was mapped, line by line, and the digest of
        the folder's tensors.

        Every tensor is read once, and none is kept beside its parameter.

        Args:
          patch: voxels (z, y, x); a planar study repeats one slice through z.
          learned: [R + 2, D] of a fresh encoder; its rows stay where the folder has none.
        Raises:
          UserError: a tensor is missing or has another shape, or values that are not finite.
        """
        plan = TensorPlan(self.tensors, self.name)
        params = {
            "embed": self._embed(plan, patch, learned),
            "blocks": {"stack": self._blocks(plan)},
            "norm": plan.norm(self.kind.norm, "norm", like=(self.options["width"],)),
        }
        left = dict.fromkeys(sorted(self.tensors.keys() - plan.taken.keys()), "not used")
        if more := [name for name in left if name.startswith(self.kind.layer)]:
            raise UserError(
                f"config.init.folder {self.name}: its {CONFIG} has no place for {len(more)} tensors"
                f" of its blocks, the first is {more[0]}. One of the two is another model's."
            )
        digest = plan.carry_out()
        # All blocks have the same names, so one line stands for all.
        block = re.compile(rf"^({re.escape(self.kind.layer)})\d+")
        lines = {block.sub(r"\1*", name): where for name, where in (plan.taken | left).items()}
        return params, [f"{name} -> {where}" for name, where in sorted(lines.items())], digest

    def _embed(self, plan: "TensorPlan", patch: Sequence[int], learned: np.ndarray) -> dict:
        width, side = self.options["width"], self.options["patch"][1]
        # One grey channel u in [-1, 1] is the pixel (u + 1) / 2 in all three, which the model
        # wants less its mean and over its deviation.
        mean, std = (np.reshape(x, (1, 3, 1, 1)) for x in (self.mean, self.std))
        made = {"kernel": np.zeros((math.prod(patch), width)), "bias": np.zeros(width)}

        def put_kernel(kernel: np.ndarray) -> None:
            made["bias"] += (kernel * ((0.5 - mean) / std)).sum((1, 2, 3))
            planar = (kernel / (2 * std)).sum(1).reshape(width, -1)
            # Divided over the depth: the sum over equal slices is the planar model's.
            made["kernel"][:] = np.tile(planar / patch[0], (1, patch[0])).T

        def put_bias(bias: np.ndarray) -> None:
            made["bias"] += bias

        plan(f"{self.kind.patch}.weight", "embed.patch.kernel", (width, 3, side, side), put_kernel)
        plan(f"{self.kind.patch}.bias", "embed.patch.bias", (width,), put_bias)
        learned = np.array(learned)
        learned[0] = 0.0  # CLS: the token, and its own position where there is a table
        out: dict[str, Any] = {"patch": made, "learned": learned}

        def put_cls(token: np.ndarray) -> None:
            learned[0] += token.reshape(-1)

        plan("embeddings.cls_token", "embed.learned 0", (1, 1, width), put_cls)
        registers = self.options["registers"]
        if registers:
            where, shape = f"embed.learned 1 to {registers}", (1, registers, width)
            plan("embeddings.register_tokens", where, shape, learned[None, 1:-1])
        if "embeddings.mask_token" in self.tensors:
            own = self.tensors.shape_of("embeddings.mask_token")
            into = learned[-1].reshape(own)  # a view: one token, whatever axes it has
            plan("embeddings.mask_token", f"embed.learned {registers + 1}", own, into)
        if self.kind.positions == "table":
            name, cells = "embeddings.position_embeddings", math.prod(self.options["table"])
            out["positions"] = np.zeros((cells, width), np.float32)

            def put_table(table: np.ndarray) -> None:
                learned[0] += table[0, 0]
                out["positions"][:] = table[0, 1:]

            where = "embed.positions, embed.learned 0"
            plan(name, where, (1, cells + 1, width), put_table)
        return out

    def _blocks(self, plan: "TensorPlan") -> dict[str, Any]:
        """Parameters of all blocks, [depth, ...], of which each tensor fills a part."""
        width, depth = self.options["width"], self.options["depth"]
        names = self.kind.block
        first = {role: f"{self.kind.layer}0.{name}" for role, name in names.items()}
        inside = self.tensors.shape_of(f"{first['mlp_out']}.weight")[1]
        hidden = self.tensors.shape_of(f"{first['mlp_inner']}.weight")[0]
        gated = "mlp_gate" in names  # two tensors; else both are one, or there is no gate
        layers = {
            "qkv": (width, 3 * width),
            "attention_out": (width, width),
            "mlp_inner": (width, 2 * hidden if gated else hidden),
            "mlp_out": (inside, width),
        }
        made: dict[str, Any] = {
            name: {
                "kernel": np.zeros((depth, *shape), np.float32),
                "bias": np.zeros((depth, shape[1]), np.float32),
            }
            for name, shape in layers.items()
        }
        norms = [plan.empty_norm((depth, width)) for _ in range(2)]
        scales = {
            name: np.zeros((depth, width), np.float32)
            for role, name in SCALES.items()
            if role in names
        }
        parts = {"query": ("qkv", 0), "key": ("qkv", width), "value": ("qkv", 2 * width)}
        parts |= {"attention_out": ("attention_out", 0), "mlp_out": ("mlp_out", 0)}
        # The gate comes first, as the halves of `mlp_inner` do.
        parts |= {"mlp_gate": ("mlp_inner", 0)} if gated else {}
        parts |= {"mlp_inner": ("mlp_inner", hidden if gated else 0)}
        for n in range(depth):
            at = {role: f"{self.kind.layer}{n}.{name}" for role, name in names.items()}
            for role, norm, where in zip(("norm1", "norm2"), norms, ("project", "combine")):
                own = {name: value[n] for name, value in norm.items()}
                plan.into_norm(at[role], f"block {where}.norm", own)
            for role, (layer, start) in parts.items():
                self._dense(plan, at[role], role=role, into=made[layer], place=(layer, n, start))
            for role, name in SCALES.items():
                if role in at:
                    plan(at[role], f"block combine.{name}", (width,), scales[name][n])
        project = {"norm": norms[0], "qkv": made.pop("qkv")}
        return {"project": project, "combine": {"norm": norms[1], **made, **scales}}

    def _dense(
        self,
        plan: "TensorPlan",
        name: str,
        *,
        role: str,
        into: Mapping[str, np.ndarray],
        place: tuple[str, int, int],
    ) -> None:
        """Plans the kernel and the bias of one layer, at (layer, block, first of its outputs)."""
        layer, block, start = place
        where = f"block {'project' if layer == 'qkv' else 'combine'}.{layer}"
        inputs = into["kernel"].shape[1]
        count = self.options["width"] if layer == "qkv" else into["kernel"].shape[2]
        if "mlp_gate" in self.kind.block and layer == "mlp_inner":
            count //= 2
        outputs = slice(start, start + count)
        # PyTorch keeps [out, in].
        plan(f"{name}.weight", where, (count, inputs), into["kernel"][block, :, outputs].T)
        # DINOv3's keys have no bias, which is a bias of zeros.
        if role in self.biased:
            plan(f"{name}.bias", where, (count,), into["bias"][block, outputs])


def _options(
    folder: Path, about: Mapping[str, Any], *, kind: TensorNames, tensors: Tensors
) -> dict[str, Any]:
    width, depth = about["hidden_size"], about["num_hidden_layers"]
    heads, side = about["num_attention_heads"], about["patch_size"]
    if about.get("num_channels", 3) != 3:
        raise UserError(
            f"config.init.folder {folder}: its {CONFIG} says num_channels {about['num_channels']}."
            " Encoders of three channels are read."
        )
    if not isinstance(side, int) or not isinstance(about["layer_norm_eps"], float | int):
        raise UserError(
            f"config.init.folder {folder}: its {CONFIG} says a patch_size of {side!r} and a"
            f" layer_norm_eps of {about['layer_norm_eps']!r}. Both are single numbers."
        )
    shape = (width, depth, heads)
    named = [size for size, own in SIZES.items() if own == shape]
    act, gated = about.get("hidden_act"), bool(about.get("use_swiglu_ffn"))
    if about.get("use_gated_mlp"):  # DINOv2's gate is SiLU, whatever its config says
        gated = act == "silu"
    if not gated and (about.get("use_gated_mlp") or act not in GELU):
        raise UserError(
            f"config.init.folder {folder}: its MLP (hidden_act {act!r}) is none of this encoder's:"
            " GELU, or one gated by SiLU, as of DINOv2 and DINOv3."
        )
    inside = tensors.shape_of(f"{kind.layer}0.{kind.block['mlp_out']}.weight")[1]
    registers = tensors.shapes.get("embeddings.register_tokens")
    options: dict[str, Any] = {
        "size": named[0] if named else "nano",
        "width": width,
        "depth": depth,
        "heads": heads,
        "patch": (None, side, side),
        "registers": 0 if registers is None else registers[1],
        "mlp": "swiglu" if gated else GELU[about["hidden_act"]],
        "mlp_hidden": inside
        if inside != hidden_width(width, "swiglu" if gated else "gelu")
        else None,
        "layer_scale": 1.0 if "scale1" in kind.block else None,
        "epsilon": about["layer_norm_eps"],
        "positions": kind.positions,
        "scale_mm": SCALE,
    }
    if kind.positions == "table":
        name = "embeddings.position_embeddings"
        cells = math.isqrt(tensors.shape_of(name)[1] - 1)
        options["table"] = (cells, cells)
    else:
        options["rope_base"] = about.get("rope_theta", 100.0)
    return options


def _refuse_values(
    folder: Path,
    tensors: Tensors,
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
