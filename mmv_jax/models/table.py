"""The table of pretraining backbones: `config.encoder.backbone` names one of them."""

from mmv_jax.models.backbone import Backbone
from mmv_jax.models.encoder import Encoder
from mmv_jax.registry import Registry

BACKBONES: Registry[type[Backbone]] = Registry("backbone")
BACKBONES.register("vit", Encoder)
