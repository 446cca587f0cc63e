"""nnU-Net's U-Net beside a PyTorch module built here by hand, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.models.nnunet import PlannedUNet, coarser, stage_weights
from mmv_jax.models.unet_plan import UNetPlan

VOLUME = UNetPlan(
    spacing_mm=(3.0, 1.0, 1.0),
    patch=(4, 16, 24),
    features=(4, 8, 16),
    # As planned for thick slices: the first stage neither convolves nor halves along z.
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    batch=2,
)
PLANAR = UNetPlan(
    spacing_mm=(1.0, 1.0, 1.0),
    patch=(1, 16, 24),
    features=(4, 8, 16),
    kernels=((1, 3, 3),) * 3,
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)),
    batch=2,
)


def params_of(plan, seed=0):
    """Drawn weights, biases and scales, so that none of them is 0 or 1."""
    shape = (1, *plan.patch, 1)
    params = jax.eval_shape(PlannedUNet(plan).init, jax.random.key(0), jnp.zeros(shape))["params"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, drawn)


def in_torch(plan, params, image):
    """The same network in PyTorch: its outputs, and how many parameters it has."""
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    nn, modules = torch.nn, []

    def tensor(x, *order):
        return nn.Parameter(torch.from_numpy(np.ascontiguousarray(np.transpose(x, order or None))))

    def convolution(own, stride):
        kernel = own["Conv_0"]["kernel"]
        *sides, inner, outer = kernel.shape
        sides = (1,) * (3 - len(sides)) + tuple(sides)
        conv = nn.Conv3d(inner, outer, sides, stride, padding=[side // 2 for side in sides])
        conv.weight = tensor(kernel.reshape(*sides, inner, outer), 4, 3, 0, 1, 2)
        conv.bias = tensor(own["Conv_0"]["bias"])
        norm = nn.InstanceNorm3d(outer, eps=1e-5, affine=True)
        norm.weight, norm.bias = (tensor(own["InstanceNorm_0"][k]) for k in ("scale", "bias"))
        modules.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.01)))
        return modules[-1]

    def doubled(own, factors):
        kernel, outer = own["Dense_0"]["kernel"], len(own["bias"])
        conv = nn.ConvTranspose3d(len(kernel), outer, factors, factors)
        conv.weight = tensor(kernel.reshape(len(kernel), *factors, outer), 0, 4, 1, 2, 3)
        conv.bias = tensor(own["bias"])
        modules.append(conv)
        return conv

    def logits(own):
        conv = nn.Conv3d(*own["kernel"].shape, 1)
        conv.weight = tensor(own["kernel"][None, None, None], 4, 3, 0, 1, 2)
        conv.bias = tensor(own["bias"])
        modules.append(conv)
        return conv

    x, skips, found = torch.from_numpy(image)[:, None], [], []
    with torch.no_grad():
        for n, stride in enumerate(plan.strides):
            x = convolution(params[f"down_{n}_0"], stride)(x)
            x = convolution(params[f"down_{n}_1"], 1)(x)
            skips.append(x)
        for n in reversed(range(len(plan.strides) - 1)):
            x = doubled(params[f"double_{n}"], plan.strides[n + 1])(x)
            x = torch.cat([x, skips[n]], dim=1)
            x = convolution(params[f"up_{n}_0"], 1)(x)
            x = convolution(params[f"up_{n}_1"], 1)(x)
            found.append(logits(params[f"logits_{n}"])(x)[:, 0].numpy())
    return found[::-1], sum(p.numel() for m in modules for p in m.parameters())


@pytest.mark.parametrize("plan", [VOLUME, PLANAR], ids=["volume", "planar"])
def test_it_is_the_same_network_in_pytorch(plan):
    params = params_of(plan)
    image = np.random.default_rng(1).normal(size=(2, *plan.patch)).astype(np.float32)
    theirs, count = in_torch(plan, params, image)
    ours = PlannedUNet(plan).apply({"params": params}, jnp.asarray(image)[..., None])
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
    for own, other in zip(ours, theirs, strict=True):
        assert own.shape == (*other.shape, 1)
        assert np.abs(np.asarray(own[..., 0]) - other).max() < 1e-4 * np.abs(other).max()


def test_at_full_width_it_has_as_many_parameters_as_nnunet():
    """Two classes and one channel, as counted by dynamic-network-architectures 0.4.4, of which
    nnU-Net v2 makes its networks: `PlainConvUNet` with deep supervision.
    """
    plan = UNetPlan(
        spacing_mm=(1.0, 1.0, 1.0),
        patch=(128, 128, 128),
        features=(32, 64, 128, 256, 320, 320),
        kernels=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        batch=2,
    )
    image = jax.ShapeDtypeStruct((1, *plan.patch, 1), jnp.float32)
    params = jax.eval_shape(PlannedUNet(plan, classes=2).init, jax.random.key(0), image)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 31_195_594


def test_truth_of_a_coarser_grid_is_the_nearest_voxel():
    x = jnp.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    assert coarser(x, (2, 2, 3)).tolist() == [
        [[[7, 9, 11], [19, 21, 23]], [[31, 33, 35], [43, 45, 47]]]
    ]
    assert (coarser(x, (2, 4, 6)) == x).all()


def test_the_coarsest_grid_has_no_weight_unless_it_is_the_only_one():
    assert stage_weights(1) == [1.0]
    assert stage_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
