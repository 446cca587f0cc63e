"""The table of layouts of published checkpoints."""

from mmv_jax.convert.dino import DINOV2, DINOV3
from mmv_jax.convert.layout import PublishedLayout
from mmv_jax.registry import Registry

LAYOUTS: Registry[PublishedLayout] = Registry("layout")
LAYOUTS.register("dinov3", DINOV3)
LAYOUTS.register("dinov2", DINOV2)
