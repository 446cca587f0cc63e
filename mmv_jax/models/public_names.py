"""Names of the tensors of public encoders, by the `model_type` of their folder.

A new kind of folder is one entry in `KINDS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorNames:
    """Names of the tensors of a kind of folder.

    Attributes:
      prefixes: that the names of the whole model may begin with.
      layer: of a block, before its number.
      block: names within a block: "norm1", "norm2", "query", "key", "value", "attention_out",
        "mlp_inner", "mlp_out"; "scale1", "scale2" where there are layer scales; "mlp_gate" where
        the gate of the MLP is a tensor of its own.
      patch: the kernel of the patches.
      norm: the last layer norm.
      positions: "table" or "axial", see `Encoder`.
    """

    prefixes: tuple[str, ...]
    layer: str
    block: Mapping[str, str]
    patch: str = "embeddings.patch_embeddings.projection"
    norm: str = "layernorm"
    positions: str = "table"


ATTENTION = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "attention_out": "attention.output.dense",
}
VIT = ATTENTION | {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp_inner": "intermediate.dense",
    "mlp_out": "output.dense",
}
SCALED = {
    "norm1": "norm1",
    "norm2": "norm2",
    "scale1": "layer_scale1.lambda1",
    "scale2": "layer_scale2.lambda1",
}
DINOV2 = ATTENTION | SCALED | {"mlp_inner": "mlp.fc1", "mlp_out": "mlp.fc2"}
GATED = {"mlp_inner": "mlp.weights_in", "mlp_out": "mlp.weights_out"}
GATED_DINOV3 = {"mlp_gate": "mlp.gate_proj"}  # beside "mlp_inner"
DINOV3 = SCALED | {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "attention_out": "attention.o_proj",
    "mlp_inner": "mlp.up_proj",
    "mlp_out": "mlp.down_proj",
}
KINDS = {  # by `model_type` of config.json
    "dinov2": TensorNames(("dinov2.",), "encoder.layer.", DINOV2),  # RAD-DINO is one
    "dinov2_with_registers": TensorNames(("dinov2_with_registers.",), "encoder.layer.", DINOV2),
    "dinov3_vit": TensorNames(
        ("dinov3_vit.", "model."),
        "layer.",
        DINOV3,
        patch="embeddings.patch_embeddings",
        norm="norm",
        positions="axial",
    ),
    "vit": TensorNames(("vit.",), "encoder.layer.", VIT),
    "vit_mae": TensorNames(("vit.",), "encoder.layer.", VIT),
}
