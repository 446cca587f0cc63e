"""The ResNets beside PyTorch modules built here by hand, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.models.resnet import RESNETS, ResNet, ResNetLayout
from mmv_jax.models.resnet_plan import outputs, plan_resnet

SMALL = {
    "basic": ResNetLayout((1, 1, 1, 1), bottleneck=False),
    "bottleneck": ResNetLayout((1, 1, 1, 1), bottleneck=True),
}


def shapes_of(model, image):
    x = jax.ShapeDtypeStruct((*image, 1), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x)["params"]


def in_torch(params, layout, image):
    """The same network in PyTorch: its outputs, and how many parameters it has."""
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    nn, count = torch.nn, 0

    def tensor(x, *order):
        nonlocal count
        count += x.size
        return nn.Parameter(torch.from_numpy(np.ascontiguousarray(np.transpose(x, order or None))))

    def normed(own, x, stride=1):
        kernel = own["Conv_0"]["kernel"]
        *sides, inner, outer = kernel.shape
        sides = (1,) * (3 - len(sides)) + tuple(sides)
        # Planar studies are halved in the plane, and these volumes along every axis.
        stride = (stride if x.shape[2] > 1 else 1, stride, stride)
        conv = nn.Conv3d(inner, outer, sides, stride, [side // 2 for side in sides], bias=False)
        conv.weight = tensor(kernel.reshape(*sides, inner, outer), 4, 3, 0, 1, 2)
        norm = nn.GroupNorm(min(32, outer), outer, eps=1e-5)
        norm.weight, norm.bias = (tensor(own["GroupNorm_0"][k]) for k in ("scale", "bias"))
        return norm(conv(x))

    def block(own, x, stride):
        y = torch.relu(normed(own["first"], x, 1 if layout.bottleneck else stride))
        if layout.bottleneck:
            y = torch.relu(normed(own["second"], y, stride))
        y = normed(own["third" if layout.bottleneck else "second"], y)
        return torch.relu(y + (normed(own["shortcut"], x, stride) if "shortcut" in own else x))

    with torch.no_grad():
        x = torch.relu(normed(params["stem"], torch.from_numpy(image)[:, None], 2))
        planar = x.shape[2] == 1
        pool = nn.MaxPool3d(
            *(((1, k, k) if planar else k) for k in (3, 2)), (0 if planar else 1, 1, 1)
        )
        x = pool(x)
        for n, blocks in enumerate(layout.blocks):
            for k in range(blocks):
                x = block(params[f"stage_{n}_{k}"], x, 2 if n and not k else 1)
        last = nn.Linear(*params["logits"]["kernel"].shape)
        last.weight = tensor(params["logits"]["kernel"], 1, 0)
        last.bias = tensor(params["logits"]["bias"])
        return last(x.mean(dim=(2, 3, 4))).numpy(), count


# Sides from which every halving takes place: the last one is of 8 voxels.
@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize("shape", [(1, 128, 144), (128, 128, 128)], ids=["planar", "volume"])
def test_it_is_the_same_network_in_pytorch(layout, shape):
    model = ResNet(3, SMALL[layout], width=4)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32),
        shapes_of(model, (1, *shape)),
    )
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    theirs, count = in_torch(params, SMALL[layout], image)
    ours = np.asarray(model.apply({"params": params}, jnp.asarray(image)[..., None]))
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("name, parameters", [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_at_full_width_it_has_as_many_parameters_as_torchvision(name, parameters):
    """torchvision counts three channels and 1,000 classes; these have one and the same classes."""
    found = shapes_of(ResNet(1000, RESNETS[name]), (1, 1, 224, 224))
    fewer = 2 * 7 * 7 * 64
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == parameters - fewer


def test_a_few_thick_slices_are_kept():
    model = ResNet(1, SMALL["basic"], width=4)
    found = shapes_of(model, (1, 5, 64, 64))
    assert found["stem"]["Conv_0"]["kernel"].shape == (7, 7, 7, 1, 4)
    out = model.apply({"params": jax.tree.map(jnp.ones_like, found)}, jnp.ones((1, 5, 64, 64, 1)))
    assert np.isfinite(out).all()


@pytest.mark.parametrize("layout", RESNETS)
@pytest.mark.parametrize("shape", [(1, 256, 192), (40, 64, 64)], ids=["planar", "volume"])
def test_the_plan_counts_what_convolutions_put_out(layout, shape):
    model, counted = ResNet(1, RESNETS[layout]), 0

    def count(path, out):
        nonlocal counted
        counted += int(np.prod(out.shape))

    def outputs_of(params, x):
        _, kept = model.apply(
            {"params": params}, x, capture_intermediates=lambda m, _: type(m).__name__ == "Conv"
        )
        return kept["intermediates"]

    x = jax.ShapeDtypeStruct((1, *shape, 1), jnp.float32)
    kept = jax.eval_shape(outputs_of, shapes_of(model, (1, *shape)), x)
    jax.tree_util.tree_map_with_path(count, kept)
    assert counted == outputs(np.array(shape), RESNETS[layout], 64)


def test_voxels_become_larger_until_two_studies_fit():
    spacing, extent = np.array([[1.0, 0.7, 0.7]]), np.array([[300.0, 350.0, 350.0]])
    plan = plan_resnet(spacing, extent, RESNETS["resnet18"])
    assert plan.batch == 2
    assert plan.spacing_mm[1] == pytest.approx(0.7 * plan.spacing_mm[0])
    assert plan.spacing_mm[0] > 1
    more = plan_resnet(spacing, extent, RESNETS["resnet18"], memory_gib=64.0)
    assert more.spacing_mm == (1.0, 0.7, 0.7)
    assert more.grid == (300, 500, 500)
