"""Continued pretraining of few weights: adapters beside kernels, and the last blocks alone."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nano import drawn_weights, fresh, nano_config, share_step
from test_begin import FROM, config_from
from test_meshes import check, run_config

from mmv_jax.checkpoint import restore_items
from mmv_jax.commands.keys import load_for
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.export.write import export
from mmv_jax.face.encoder import load_encoder
from mmv_jax.models.lora import Lora, is_adapter, merged, without_adapters
from mmv_jax.models.sizes import make_encoder
from mmv_jax.parallel import make_mesh
from mmv_jax.preflight import hlo
from mmv_jax.store.read import Store
from mmv_jax.train import loop
from mmv_jax.train.begin import begin, complete
from mmv_jax.train.flops import expected_filling, step_flops
from mmv_jax.train.learning import Learning, with_learning
from mmv_jax.train.loop import make_parts, make_rows, pretrain, row_shape
from mmv_jax.train.memory import step_memory
from mmv_jax.train.state import shapes_of_state

ONCE: dict = {}  # the gradients of the whole network
pytestmark = pytest.mark.usefixtures("fresh_on_one_device")
LORA = {"rank": 2, "scale": 0.5, "kernels": ("qkv", "mlp_out")}


def begun(config):
    """The state that a run of a config begins with."""
    objective, tx, _ = make_parts(config)
    rows = make_rows(Store.open(config.data.store), config)
    return jax.device_get(begin(config, fresh(objective, tx, rows.spec, loop.make_mesh(1, 1)))[0])


def row(length=24, voxels=64, seed=0):
    """Two studies of one row."""
    rng = np.random.default_rng(seed)
    kinds = np.array([1, 2] + [100] * (length // 2 - 2)).tolist() * 2
    made = (
        rng.normal(size=(1, length, voxels)).astype(np.float32),
        rng.normal(size=(1, length, 3)).astype(np.float32),
        np.array([kinds], np.int32),
        np.repeat([[1, 2]], length // 2, axis=1).astype(np.int32),
    )
    return tuple(map(jnp.asarray, made))


def network(lora=None, last_blocks=None, **options):
    """An encoder of three blocks, which parameters learn, and drawn parameters."""
    encoder = make_encoder("nano", (4, 4, 4), registers=1, depth=3, attention="dense", **options)
    encoder, learning = with_learning(encoder, lora or {}, last_blocks)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), *row())["params"]
    return encoder, learning, drawn_weights(shapes)


@partial(jax.jit, static_argnums=0)  # otherwise each operation is a program of its own
def tokens(encoder, params):
    # No draws: it skips no block.
    return encoder.apply({"params": params}, *row(), train=True)["tokens"]


@pytest.mark.parametrize("options", [{}, {"mlp": "swiglu", "qk_norm": True}], ids=["gelu", "gated"])
def test_adapters_are_nothing_at_first_and_a_part_of_the_kernels_at_the_end(options):
    lora = {"rank": 3, "scale": 0.7}
    encoder, _, params = network(lora, **options)
    plain, _, _ = network(**options)
    count = sum(x.size for x in jax.tree.leaves(params))
    assert encoder.parameter_count() == count
    assert sum(map(is_adapter, flatten_dict(params))) == 8  # two factors of four kernels
    found = tokens(encoder, params)
    trees, config = merged({"encoder": params}, {"lora": lora, "steps": 1})
    assert config == {"steps": 1}
    np.testing.assert_allclose(tokens(plain, trees["encoder"]), found, atol=2e-5)
    base = without_adapters(params)
    assert np.abs(np.asarray(tokens(plain, base) - found)).max() > 1e-2
    zero = jax.tree_util.tree_map_with_path(
        lambda path, x: np.zeros_like(x) if path[-1].key == "up" else x, params
    )
    np.testing.assert_array_equal(tokens(plain, base), tokens(encoder, zero))


def test_the_first_factor_is_drawn_and_the_second_is_zero():
    encoder, _, _ = network({"rank": 16})
    params = jax.jit(lambda key: encoder.init(key, *row())["params"])(jax.random.key(1))
    adapter = params["blocks"]["stack"]["combine"]["mlp_out_lora"]
    down = np.asarray(adapter["down"])
    assert not np.asarray(adapter["up"]).any()
    limit = 256**-0.5  # uniform within 1 / sqrt(inputs)
    assert 0.98 * limit < np.abs(down).max() <= limit and abs(down.std() * 3**0.5 / limit - 1) < 0.1
    assert not np.array_equal(down[0], down[1])  # each block draws its own


@pytest.mark.parametrize(
    "last_blocks, remat",
    [
        (1, "products"),
        pytest.param(2, "every_2", marks=pytest.mark.full),
        pytest.param(0, "products", marks=pytest.mark.full),
        pytest.param(3, "products", marks=pytest.mark.full),
        pytest.param(2, "full", marks=pytest.mark.full),
    ],
)
def test_gradients_of_the_last_blocks_are_those_of_the_whole(remat, last_blocks):
    encoder, learning, params = network(last_blocks=last_blocks, remat=remat)
    plain, _, _ = network()
    student = {"encoder": params, "head": {"kernel": np.ones(3, np.float32)}}

    def loss(own, of=encoder, part=learning):
        whole = part.put(own, student)
        return jnp.square(tokens(of, whole["encoder"])).sum() + whole["head"]["kernel"].sum()

    value, found = jax.jit(jax.value_and_grad(loss))(learning.cut(student))
    whole = jax.jit(jax.value_and_grad(lambda own: loss(own, plain, Learning())))
    same, every = ONCE.get("whole") or ONCE.setdefault("whole", whole(student))
    np.testing.assert_allclose(value, same, rtol=1e-6)
    expected = learning.cut(every)
    assert jax.tree.structure(expected) == jax.tree.structure(found)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), found, expected
    )
    depths = {len(x) for x in jax.tree.leaves(found["encoder"].get("blocks", {}))}
    assert depths == ({last_blocks} if last_blocks else set())
    assert "norm" in found["encoder"] and ("embed" in found["encoder"]) == (last_blocks == 4)


def few(store, **groups):
    config = config_from(store)
    config.steps, config.checkpoint.every = 3, 1
    config.optimizer.update(weight_decay=0.5, warmup=0.01)
    for name, value in groups.items():
        config[name].update(value) if name in config else config.update({name: value})
    return config


@pytest.fixture(scope="module")
def base(store):
    """The weights of the folder."""
    return begun(complete(few(store))).student["encoder"]


@pytest.fixture(scope="module")
def lora_run(store, tmp_path_factory):
    """A run of three steps of adapters, its config and its last state."""
    config = few(store, lora=LORA)
    workdir = tmp_path_factory.mktemp("runs") / "lora"
    with pytest.MonkeyPatch.context() as patch:
        share_step(patch, "lora")
        state = jax.device_get(pretrain(config, workdir))
    return workdir, config, state


def moments(state):
    """Paths of the parameters that have moments in Adam."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    names = [
        [getattr(part, "key", getattr(part, "name", "")) for part in path] for path, _ in leaves
    ]
    return {tuple(path[path.index("mu") + 1 :]) for path in names if "mu" in path}


def test_frozen_weights_keep_their_bits_and_have_no_moments(lora_run, base):
    _, _, state = lora_run
    for tree in (state.student, state.teacher):
        kept = without_adapters(tree["encoder"])
        jax.tree.map(np.testing.assert_array_equal, kept, base)
    own = flatten_dict(state.student["encoder"])
    assert all(own[path].any() for path in own if is_adapter(path))
    first = begun(complete(lora_run[1])).student["encoder"]
    assert not any(x.any() for path, x in flatten_dict(first).items() if path[-1] == "up")
    held = {path for path in moments(state) if path[0] == "encoder"}
    assert held == {("encoder", *path) for path in own if is_adapter(path)} and len(held) == 4
    assert {path[0] for path in moments(state)} == {
        "encoder",
        "decoder",
    }  # the decoder learns whole


def test_whoever_reads_the_run_has_plain_kernels(lora_run, base, tmp_path):
    workdir, _, state = lora_run
    trees, config = restore_items(workdir, ("encoder", "state"))
    assert "lora" not in config and "lora" not in config["encoder"]
    adapters = state.teacher["encoder"]["blocks"]["stack"]["project"]["qkv_lora"]
    product = np.einsum("bir,bro->bio", adapters["down"], adapters["up"])
    expected = base["blocks"]["stack"]["project"]["qkv"]["kernel"] + 0.5 * product
    found = trees["encoder"]["blocks"]["stack"]["project"]["qkv"]["kernel"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not any(map(is_adapter, flatten_dict(trees["state"]["student"])))
    # Evaluation, the Python face and an export read the same weights.
    evaluated, _ = restore(workdir, {"length": 128, "rows": 4})
    np.testing.assert_array_equal(
        evaluated.params["norm"]["scale"], trees["encoder"]["norm"]["scale"]
    )
    assert not any(map(is_adapter, flatten_dict(evaluated.params)))
    export(workdir, "safetensors", tmp_path / "out.safetensors")
    picture = np.random.default_rng(0).integers(0, 4096, (60, 50))
    seen = [
        load_encoder(path).encode(picture, spacing_mm=3.0, unit="raw").patches
        for path in (workdir, tmp_path / "out.safetensors")
    ]
    np.testing.assert_array_equal(*seen)


def test_a_run_of_adapters_resumes_bit_for_bit(lora_run, tmp_path):
    workdir, config, state = lora_run
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")
    with pytest.MonkeyPatch.context() as patch:
        share_step(patch, "lora")
        again = jax.device_get(pretrain(config, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, again, state)
    other = config.copy_and_resolve_references()
    other.lora.rank = 4
    with pytest.raises(UserError, match="lora.rank was 2 and is now 4"):
        pretrain(other, tmp_path / "run")


def test_the_last_blocks_alone_learn_and_alone_have_moments(store, base, tmp_path):
    state = jax.device_get(pretrain(few(store, optimizer={"last_blocks": 1}), tmp_path / "run"))
    for tree in (state.student["encoder"], state.teacher["encoder"]):
        jax.tree.map(np.testing.assert_array_equal, tree["embed"], base["embed"])
        stack, before = tree["blocks"]["stack"], base["blocks"]["stack"]
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:-1], y[:-1]), stack, before)
        kernel = "project", "qkv", "kernel"
        assert not np.array_equal(flatten_dict(stack)[kernel][-1], flatten_dict(before)[kernel][-1])
        assert not np.array_equal(tree["norm"]["scale"], base["norm"]["scale"])
    held = {path[:2] for path in moments(state) if path[0] == "encoder"}
    assert held == {("encoder", "blocks"), ("encoder", "norm")}
    mean = next(x for x in state.opt_state[1] if hasattr(x, "mu")).mu["encoder"]["blocks"]["stack"]
    assert mean["project"]["qkv"]["kernel"].shape[0] == 1


def test_another_run_goes_on_from_adapters(lora_run, store, capfd):
    """Its base are the merged weights, the same for student and teacher; its adapters are new."""
    workdir, _, _ = lora_run
    kept = restore_items(workdir, ("encoder",))
    config = nano_config(store, mae=1.0)
    config.rows.update(length=256, prefix=192)
    config.encoder = {**kept[1]["encoder"], "patch": (4, 4, 4)}
    config.data.coordinates, config.init, config.steps = "unit", {"run": str(workdir)}, 2
    config.lora = {"rank": 1}
    state = begun(config)
    for tree in (state.student, state.teacher):
        jax.tree.map(
            np.testing.assert_array_equal, without_adapters(tree["encoder"]), kept[0]["encoder"]
        )
    assert "encoder: taken" in capfd.readouterr().err


@pytest.mark.parametrize(
    "change, says",
    [
        ({"lora": {"rank": 0}}, "config.lora.rank is 0. Set a whole number"),
        ({"lora": {"scale": -1.0}}, "config.lora.scale is -1.0"),
        ({"lora": {"kernels": ("query",)}}, "List some of qkv, attention_out, mlp_inner, mlp_out"),
        ({"lora": {"rang": 4}}, "config.lora: .*'rang'"),
        ({"lora": {"rank": 4}, "init": {}}, "set config.init.folder or config.init.run"),
        ({"optimizer": {"last_blocks": 3}}, "last_blocks is 3, but the encoder has 2 blocks"),
        ({"optimizer": {"last_blocks": True}}, "last_blocks is True"),
    ],
)
def test_what_does_not_fit_is_one_sentence(store, tmp_path, change, says):
    config = few(store, **{name: value for name, value in change.items() if name != "init"})
    if "init" in change:
        config.init = change["init"]
    with pytest.raises(UserError, match=says):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_keys_are_known_on_the_command_line():
    config = load_for("mmv pretrain", "demo", ["--config.lora.rank=4"])
    assert Lora(**config.lora).rank == 4 and FROM["folder"]
    with pytest.raises(UserError, match="does not exist"):
        load_for("mmv pretrain", "demo", ["--config.encoder.frozen=1"])


def costed(change):
    config = nano_config(mae=1.0)
    config.encoder.update(depth=4, remat=True)
    config.rows.update({"length": 256, "prefix": 192, "per_step": 8})
    for name, value in change.items():
        config[name].update(value) if name in config else config.update({name: value})
    mesh = make_mesh(8, 1)
    objective, tx, _ = make_parts(config)
    shape = row_shape(config)
    state = shapes_of_state(objective, tx, shape.spec(8), mesh, seed=0)
    return config, objective, shape, state


def test_memory_in_closed_form_has_neither_gradients_nor_moments_of_frozen_weights():
    kinds = {}
    for name, change in {
        "whole": {},
        "lora": {"lora": {"rank": 2}},
        "last": {"optimizer": {"last_blocks": 1}},
    }.items():
        _, objective, shape, state = costed(change)
        kinds[name] = step_memory(objective, state, shape, 8, 1, True)
        learns = jax.tree.leaves(objective.learning.shapes(state.student))
        assert kinds[name]["gradients"] == sum(4 * x.size for x in learns)
        assert kinds[name]["moments"] == pytest.approx(2 * kinds[name]["gradients"], rel=1e-3)
    decoder = sum(4 * x.size for x in jax.tree.leaves(costed({})[3].student["decoder"]))
    assert kinds["lora"]["gradients"] - decoder < 0.1 * (kinds["whole"]["gradients"] - decoder)
    # Nothing of the first three of four blocks is stored.
    assert kinds["last"]["visible blocks"] * 4 == kinds["whole"]["visible blocks"]


@pytest.mark.full
@pytest.mark.parametrize(
    "change",
    [
        {"lora": {"rank": 8}},
        {"optimizer": {"last_blocks": 1}},
        {"objective": {"mae": 0.0, "gram": 1.0}},
    ],
    ids=["lora", "last", "gram"],
)
def test_products_agree_with_the_compiled_program(change):
    config, objective, shape, _ = costed(change)
    config.encoder.attention = "auto"
    objective = make_parts(config)[0]
    filling = expected_filling(loop.make_views(config.crops), shape)
    parts = step_flops(objective, shape, 8, filling)
    counts = hlo.count(loop.lower_step(config, make_mesh(2, 4)).compile().as_text())
    products = sum(part.products for part in parts.values())
    assert products == pytest.approx(8 * counts.flops, rel=0.02)


@pytest.mark.full
@pytest.mark.parametrize(
    "change",
    [{"lora": {"rank": 4}}, {"lora": {"rank": 4}, "optimizer": {"last_blocks": 1}}],
    ids=["lora", "with the last block"],
)
def test_meshes_give_the_losses_of_one_device(store, change):
    config = run_config(store, mae=1.0)
    for name, value in change.items():
        config[name].update(value) if name in config else config.update({name: value})
    check(config, ("data 2, fsdp 4", "data 2, fsdp 2, tensor 2"), 3)
