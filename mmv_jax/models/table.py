"""The table of pretraining backbones: `config.encoder.backbone` names one of them."""

from mmv_jax.models.backbone import Backbone
from mmv_jax.models.encoder import Encoder
from mmv_jax.registry import Table

BACKBONES: Table[type[Backbone]] = Table("backbone")
BACKBONES.register("vit", Encoder)
