"""Writes the listings and features beside this file, with the published modules themselves.

  python tests/convert/published/make.py NAME ...

It needs torch and, on the path, what publishes a NAME: the repositories facebookresearch/dinov2
and facebookresearch/dinov3. They need not be installed to run the tests.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from published_values import HERE, drawn, image

SMALL = {"embed_dim": 128, "depth": 2, "num_heads": 2}


def dinov2(**more):
    from dinov2.models.vision_transformer import DinoVisionTransformer

    # As hub/backbones.py makes the published ones.
    model = DinoVisionTransformer(
        img_size=56, patch_size=14, init_values=1.0, block_chunks=0, **SMALL, **more
    )
    return model, image(56), lambda x: model.forward_features(x)


def dinov3(**more):
    from dinov3.models.vision_transformer import DinoVisionTransformer

    # As hub/backbones.py makes the published ones.
    model = DinoVisionTransformer(
        img_size=64,
        patch_size=16,
        pos_embed_rope_base=100,
        pos_embed_rope_normalize_coords="separate",
        pos_embed_rope_rescale_coords=2,
        pos_embed_rope_dtype="fp32",
        layerscale_init=1.0e-05,
        norm_layer="layernormbf16",
        n_storage_tokens=4,
        mask_k_bias=True,
        **SMALL,
        **more,
    )
    model.init_weights()
    return model, image(64), lambda x: model.forward_features(x)


def tokens(out):
    """CLS, then patches, of either DINO."""
    import torch

    return torch.cat([out["x_norm_clstoken"][:, None], out["x_norm_patchtokens"]], 1)[0]


MODULES = {
    "dinov2": lambda: dinov2(ffn_layer="mlp"),
    "dinov2-registers": lambda: dinov2(ffn_layer="mlp", num_register_tokens=4),
    "dinov2-gated": lambda: dinov2(ffn_layer="swiglufused"),
    "dinov3": lambda: dinov3(),
    "dinov3-gated": lambda: dinov3(
        ffn_layer="swiglu", qkv_bias=False, untie_global_and_local_cls_norm=True
    ),
}
KEPT = 64  # a buffer of so few values is kept whole


def main() -> None:
    import torch

    for name in sys.argv[1:]:
        torch.manual_seed(0)
        model, picture, forward = MODULES[name]()
        model.eval()
        parameters = dict(model.named_parameters())
        listing = {
            "parameters": {key: list(x.shape) for key, x in parameters.items()},
            "buffers": {
                key: {
                    "shape": list(x.shape),
                    "dtype": str(x.numpy().dtype),
                    "values": x.flatten().tolist() if x.numel() <= KEPT else None,
                }
                for key, x in model.state_dict().items()
                if key not in parameters
            },
        }
        with torch.no_grad():
            for key, value in model.state_dict().items():
                if key in parameters or key.endswith(("running_mean", "running_var")):
                    value.copy_(torch.from_numpy(drawn(key, tuple(value.shape))))
            out = forward(torch.from_numpy(picture))
        seen = tokens(out) if isinstance(out, dict) else out
        (HERE / f"{name}.json").write_text(json.dumps(listing, indent=1) + "\n")
        np.save(HERE / f"{name}.npy", seen.float().numpy())
        print(name, tuple(seen.shape), float(seen.abs().max()))


if __name__ == "__main__":
    main()
