"""Named sizes against published counts, closed forms against the module and against the
compiler.
"""

import jax
import jax.numpy as jnp
import pytest

from mmv_jax.errors import UserError
from mmv_jax.models.encoder import SIZES
from mmv_jax.models.sizes import (
    encoder_flops,
    flops_per_token,
    make_encoder,
    parameter_count,
)

# Parameters without a classifier: ViT of arXiv 2010.11929 and DeiT's Ti and S (as timm counts
# them), DINOv2's ViT-g/14 (arXiv 2304.07193). Patch and learned positions of each: ours has rotary
# ones, and a mask token that the supervised models lack.
PUBLISHED = {
    "Ti": (5_524_416, 16, 197),
    "S": (21_665_664, 16, 197),
    "B": (85_798_656, 16, 197),
    "L": (303_301_632, 16, 197),
    "H": (630_764_800, 14, 257),
}
VARIANTS = {
    "plain": {},
    "gated": {"mlp": "swiglu"},
    "no scale": {"layer_scale": None, "registers": 0},
    "no bias": {"attention_bias": False, "qk_norm": True},
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_have_the_published_number_of_parameters(size):
    published, patch, positions = PUBLISHED[size]
    encoder = make_encoder(size, (3, patch, patch), registers=0, layer_scale=None)
    assert parameter_count(encoder) - encoder.width + positions * encoder.width == published


def test_g_is_the_gated_giant_of_dinov2():
    encoder = make_encoder("g", (3, 14, 14), registers=0)
    assert parameter_count(encoder) + 1370 * encoder.width == 1_136_480_768


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_parameters_are_counted_as_they_are_made(packed, options):
    encoder = make_encoder("nano", (2, 4, 4), **options)
    made = jax.eval_shape(encoder.init, jax.random.key(0), *packed([64]))
    assert parameter_count(encoder) == sum(leaf.size for leaf in jax.tree.leaves(made))


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_flops_agree_with_the_compiler(packed, mlp):
    # One block, since the compiler counts a scanned body once; one segment a row, since dense
    # attention computes the whole square.
    rows = packed([128], rows=2)
    encoder = make_encoder("B", (2, 4, 4), depth=1, mlp=mlp, attention="dense")
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), *rows)
    compiled = (
        jax.jit(lambda params: encoder.apply(params, *rows)["tokens"]).lower(shapes).compile()
    )
    assert encoder_flops(encoder, 256, [128, 128]) == pytest.approx(
        compiled.cost_analysis()["flops"], rel=0.02
    )


def test_depth_and_segments_scale_the_flops():
    one, two = (make_encoder("S", (2, 4, 4), depth=depth) for depth in (1, 2))
    embedding = 2 * (32 + 6) * 384
    assert flops_per_token(two) - embedding == 2 * (flops_per_token(one) - embedding)
    whole, halves = encoder_flops(one, 256, [256]), encoder_flops(one, 256, [128, 128])
    assert whole - halves == 4 * 384 * (256**2 - 2 * 128**2)


def test_every_head_has_room_for_rotary_positions_and_a_kernel():
    assert {size: width // heads for size, (width, _, heads) in SIZES.items()} == {
        "nano": 32, "mini": 32, "Ti": 64, "S": 64, "B": 64, "L": 64, "H": 80, "g": 64,
    }  # fmt: skip


def test_options_override_what_a_size_brings():
    assert make_encoder("L", (2, 4, 4)).layer_scale == 1e-5
    encoder = make_encoder("L", [2, 4, 4], layer_scale=0.1, depth=3)
    assert (encoder.layer_scale, encoder.depth, encoder.patch) == (0.1, 3, (2, 4, 4))


def test_an_unknown_size_is_the_users_to_mend():
    with pytest.raises(UserError, match="'XL'.*nano, mini, Ti"):
        make_encoder("XL", (2, 4, 4))


def test_an_option_that_nobody_reads_is_refused():
    with pytest.raises(UserError, match="windows"):
        make_encoder("S", (2, 4, 4), windows=7)


@pytest.mark.parametrize("options", [{"heads": 6}, {"heads": 5}, {"heads": 0}, {"width": 11}])
def test_heads_without_room_for_positions_are_refused_with_the_key(options):
    with pytest.raises(UserError, match=r"config\.encoder\.heads.*at least 12 channels"):
        make_encoder("nano", (2, 4, 4), **options)


def test_an_unknown_backbone_is_the_users_to_mend():
    with pytest.raises(UserError, match="no backbone named 'vitt'.*Did you mean vit"):
        make_encoder("S", (2, 4, 4), backbone="vitt")


def test_the_encoder_of_a_size_can_be_made_and_run(packed):
    rows = packed([30])
    encoder = make_encoder("mini", (2, 4, 4))
    shapes = jax.eval_shape(
        lambda key: encoder.apply(encoder.init(key, *rows), *rows)["tokens"], jax.random.key(0)
    )
    assert (shapes.shape, shapes.dtype) == ((1, 128, 192), jnp.float32)
