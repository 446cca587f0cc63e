"""The encoder as a model of `transformers`; the forward pass is that of `load_torch`.

Axes: B studies, L tokens, P voxels of a patch, D width.
"""

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmv_jax.export.shipped.load_torch import encode


class MmvConfig(PretrainedConfig):
    """The network's numbers that its tensors do not show, and the shapes of the tensors."""

    model_type = "mmv"

    def __init__(self, network=None, shapes=None, **options):
        self.network, self.shapes = network or {}, shapes or {}
        super().__init__(**options)


class MmvModel(PreTrainedModel):
    """Features of whole studies, from the inputs that `MmvImageProcessor` makes."""

    config_class = MmvConfig
    main_input_name = "patches"

    def __init__(self, config):
        super().__init__(config)
        for name, shape in config.shapes.items():
            # Nested modules give the state dict the dotted names of the exported tensors.
            *groups, leaf = name.split(".")
            module = self
            for group in groups:
                if group not in module._modules:
                    module.add_module(group, torch.nn.Module())
                module = module._modules[group]
            module.register_parameter(leaf, torch.nn.Parameter(torch.zeros(shape)))
        self.post_init()

    def _init_weights(self, module):
        """Does nothing: all weights come from the folder."""

    def forward(self, patches, coords_mm, kinds, segment_ids, return_dict=True):
        """`last_hidden_state` [B, L, D] and `pooler_output` [B, D], the CLS token of each row.

        Args: as of `load_torch.encode`; each row begins with its CLS token.
        """
        weights = dict(self.named_parameters())
        tokens = encode(
            weights,
            self.config.network,
            patches=patches,
            coords_mm=coords_mm,
            kinds=kinds,
            segment_ids=segment_ids,
        )
        if not return_dict:
            return tokens, tokens[:, 0]
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens[:, 0])
