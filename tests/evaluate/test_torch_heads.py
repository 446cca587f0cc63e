"""The heads in PyTorch are those of our own models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.evaluate.finetune import segmentation_heads as heads
from mmv_jax.models.segmentation import GlobalLocalDecoder

torch = pytest.importorskip("torch", reason="extra torch")
pytest.importorskip("transformers", reason="extra torch")
from noise_slices import batch_of  # noqa: E402

from mmv_jax.evaluate.finetune.torch_heads import MaskHead  # noqa: E402


def test_the_mask_head_is_that_of_our_own_models():
    """The same parameters give the same logits in either library."""
    rng = np.random.default_rng(0)
    levels, cls = (
        rng.normal(size=(3, 2, 1, 4, 4, 20)).astype(np.float32),
        rng.normal(size=(2, 20)).astype(np.float32),
    )
    ours, answers = GlobalLocalDecoder(1, width=heads.WIDTH), (1, 32, 32)
    params = jax.jit(
        lambda key: ours.init(key, *map(jnp.asarray, (levels, cls)), answers)["params"]
    )(jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.05 * rng.normal(size=leaf.shape).astype(np.float32),
        params,
    )
    theirs = MaskHead(20, 3, (4, 4), (32, 32))
    theirs.load_state_dict(
        {name: torch.from_numpy(array.copy()) for name, array in as_torch(params).items()}
    )
    with torch.no_grad():
        found = theirs(torch.from_numpy(cls), torch.from_numpy(levels[:, :, 0]), batch_of((1, 1)))
    expected = jax.jit(
        lambda params: ours.apply({"params": params}, *map(jnp.asarray, (levels, cls)), answers)
    )(params)
    np.testing.assert_allclose(found, np.asarray(expected)[:, 0, :, :, 0], rtol=1e-4, atol=1e-4)


def as_torch(params):
    """The parameters of a `GlobalLocalDecoder` of planar studies, by the names and in the layouts
    of a `MaskHead`.
    """

    def linear(name, own):
        return {f"{name}.weight": own["kernel"].T, f"{name}.bias": own["bias"]}

    def norm(name, own):
        return {f"{name}.weight": own["scale"], f"{name}.bias": own["bias"]}

    def children(own):  # channels of a child lie together there, children of a channel here
        kernel, bias = (
            np.moveaxis(x.reshape(*x.shape[:-1], 4, -1), -2, -1).reshape(x.shape)
            for x in (own["kernel"], own["bias"])
        )
        return {"kernel": kernel, "bias": bias}

    out = (
        linear("local", params["local"])
        | linear("whole", params["global"])
        | linear("logits", params["upsample"]["logits"])
    )
    for name in ("global_asks", "local_asks"):
        asks, width = params[name], heads.WIDTH
        parts = [asks[part] for part in ("query", "key", "value")]
        out |= norm(f"{name}.of_queries", params[f"{name}_queries"]) | norm(
            f"{name}.of_keys", params[f"{name}_keys"]
        )
        out[f"{name}.attention.in_proj_weight"] = np.concatenate(
            [part["kernel"].reshape(width, width).T for part in parts]
        )
        out[f"{name}.attention.in_proj_bias"] = np.concatenate(
            [part["bias"].ravel() for part in parts]
        )
        out |= linear(
            f"{name}.attention.out_proj",
            {"kernel": asks["out"]["kernel"].reshape(width, width), "bias": asks["out"]["bias"]},
        )
    up = params["upsample"]
    for n in range(3):
        out |= linear(f"steps.{n}.spread", children(up[f"children_{n}"])) | norm(
            f"steps.{n}.norm", up[f"norm_{n}"]
        )
        out |= {
            f"steps.{n}.conv.weight": up[f"conv_{n}"]["kernel"][0].transpose(3, 2, 0, 1),
            f"steps.{n}.conv.bias": up[f"conv_{n}"]["bias"],
        }
        out |= linear(f"steps.{n}.skip", up[f"skip_{n}"]) if f"skip_{n}" in up else {}
    return out
