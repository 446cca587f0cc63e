"""Writes the folders beside this file: tiny public encoders, random weights, and their features.

  python tests/models/public/make.py [NAME ...]  # needs the extra torch

The features are those of transformers' own models, so that tests compare with them where neither
PyTorch nor transformers is installed.
"""

import sys
from pathlib import Path

import numpy as np

SIDE, PATCH = 24, 4
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "image_size": SIDE,
    "patch_size": PATCH,
}
MODELS = {
    "dinov2": ("Dinov2", {}),
    "dinov2_gated": ("Dinov2", {"use_swiglu_ffn": True}),
    "dinov2_registers": ("Dinov2WithRegisters", {"num_register_tokens": 2}),
    "dinov3": ("DINOv3ViT", {"num_register_tokens": 2}),
    "dinov3_gated": (
        "DINOv3ViT",
        {
            "num_register_tokens": 1,
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "intermediate_size": 40,
            "query_bias": False,
            "value_bias": False,
        },
    ),
    "vit_mae": ("ViTMAE", {"mask_ratio": 0.0}),
    "vit": ("ViT", {}),
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def image() -> np.ndarray:
    """A grey picture [side, side] with values from 0 to 1."""
    return np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)


def main() -> None:
    import torch
    import transformers

    for name in sys.argv[1:] or MODELS:
        kind, more = MODELS[name]
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**{**SMALL, **more})
        model = getattr(transformers, f"{kind}Model")(config).eval()
        # Far from the start, where biases are 0 and scales 1, so that each of them counts.
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * 0.2
            parameter.data = (parameter.data + noise).half().float()
        folder = Path(__file__).parent / name
        pixels = (torch.from_numpy(image())[None, None] - torch.tensor(MEAN)[:, None, None]) / (
            torch.tensor(STD)[:, None, None]
        )
        # The masked autoencoder would shuffle its patches, and takes a noise that orders them.
        order = torch.arange((SIDE // PATCH) ** 2)[None].float()
        options = {"noise": order} if kind == "ViTMAE" else {}
        with torch.no_grad():
            seen = model(pixel_values=pixels, **options).last_hidden_state[0]
        model.half().save_pretrained(folder)
        processor = transformers.ViTImageProcessor(image_mean=MEAN, image_std=STD)
        processor.save_pretrained(folder)
        np.save(folder / "features.npy", seen.numpy())


if __name__ == "__main__":
    main()
