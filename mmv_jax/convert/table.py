"""The table of layouts of published checkpoints."""

from mmv_jax.convert.blip2 import BLIP2
from mmv_jax.convert.clip import OPEN_CLIP_VIT, SAVED_TOWER
from mmv_jax.convert.dino import DINOV2, DINOV3
from mmv_jax.convert.inflated import I3D, I3RESNET
from mmv_jax.convert.layout import PublishedLayout
from mmv_jax.convert.saved import SAVED_DINOV3, SAVED_MODEL
from mmv_jax.convert.swin import SWIN
from mmv_jax.convert.vit import TIMM_SIGLIP, TIMM_VIT
from mmv_jax.registry import Registry

LAYOUTS: Registry[PublishedLayout] = Registry("layout")
LAYOUTS.register("dinov3", DINOV3)
LAYOUTS.register("dinov2", DINOV2)
LAYOUTS.register("timm-siglip", TIMM_SIGLIP)
LAYOUTS.register("timm-vit", TIMM_VIT)
LAYOUTS.register("swin", SWIN)
LAYOUTS.register("blip2", BLIP2)
LAYOUTS.register("open-clip", OPEN_CLIP_VIT)
LAYOUTS.register("transformers-tower", SAVED_TOWER)
LAYOUTS.register("transformers", SAVED_MODEL)
LAYOUTS.register("transformers-dinov3", SAVED_DINOV3)
LAYOUTS.register("i3resnet", I3RESNET)
LAYOUTS.register("i3d", I3D)
