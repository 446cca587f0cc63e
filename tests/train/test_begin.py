"""Runs that begin from weights: of a public encoder's folder, of another run, or released ones."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from nano import nano_config, share_step, write_studies

from mmv_jax.checkpoint import restore_items
from mmv_jax.commands.keys import load_for
from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.export.write import export
from mmv_jax.face.encoder import load_encoder
from mmv_jax.parallel import make_mesh
from mmv_jax.store.read import Store
from mmv_jax.train import dry_run as dry
from mmv_jax.train import loop
from mmv_jax.train.begin import Init, begin, complete
from mmv_jax.train.dry_run import dry_run
from mmv_jax.train.loop import make_parts, make_rows, pretrain
from mmv_jax.train.state import shapes_of_state

FOLDERS = Path(__file__).parents[1] / "models" / "public"
FROM = {"folder": str(FOLDERS / "dinov2_registers")}


def config_from(store, init=FROM, **encoder):
    c = nano_config(store, mae=1.0)
    c.encoder = {"size": "nano", "patch": (4, 4, 4), "attention": "dense", **encoder}
    c.rows.update(length=256, prefix=192)
    c.init, c.steps = init, 2
    return c


def encoder_of(workdir, item="encoder"):
    trees, config = restore_items(workdir, ("encoder", "state"))
    found = trees["encoder"] if item == "encoder" else trees["state"]["student"]["encoder"]
    return jax.tree.map(np.asarray, found), config


@pytest.fixture(scope="module", autouse=True)
def one_device():
    one = make_mesh(devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, dry):
            patch.setattr(module, "make_mesh", lambda data, fsdp: one)
        # A run's first weights are replaced by those it begins from.
        patch.setattr(loop, "init_state", zeros)
        share_step(patch, "begin")
        yield


@pytest.fixture(scope="module")
def begun(store, tmp_path_factory):
    """A run of two steps from the weights of a folder, at a learning rate of 0."""
    workdir = tmp_path_factory.mktemp("runs") / "begun"
    config = config_from(store)
    config.optimizer.update(peak_lr=0.0)
    pretrain(config, workdir)
    return workdir, config


def test_a_run_begins_from_a_folder_and_says_so(begun, capfd):
    workdir, _ = begun
    tree, config = encoder_of(workdir)
    # The config that is kept needs no folder: whoever reads the checkpoint has the whole encoder.
    kept = config["encoder"]
    assert (kept["width"], kept["positions"], kept["registers"]) == (24, "table", 2)
    assert config["data"]["coordinates"] == "unit"
    public = np.load(FOLDERS / "dinov2_registers" / "features.npy")
    assert tree["norm"]["scale"].shape == public.shape[1:]
    from safetensors.numpy import load_file

    original = load_file(FOLDERS / "dinov2_registers" / "model.safetensors")
    np.testing.assert_array_equal(tree["norm"]["scale"], original["layernorm.weight"])
    # The student, the teacher and the average begin with the same weights.
    student, _ = encoder_of(workdir, "student")
    np.testing.assert_array_equal(student["norm"]["scale"], tree["norm"]["scale"])
    card = config["pretraining"]["init"][0]
    assert card["name"] == "dinov2_registers" and card["patients"] == "unknown"
    assert len(card["digest"]) == 16


def test_overlap_cannot_be_counted_unless_the_folder_saw_no_patient(begun):
    _, config = encoder_of(begun[0])
    fingerprint = config["pretraining"]["key_fingerprint"]
    found = Overlap.of(config, fingerprint)
    assert found.patients is None and "dinov2_registers" in found.reason
    config["pretraining"]["init"][0]["patients"] = "none"
    assert len(Overlap.of(config, fingerprint).patients) == 8


def test_a_resume_reads_its_own_weights(begun, store, tmp_path):
    workdir, config = begun
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "moved").mkdir()
    shutil.copytree(FROM["folder"], tmp_path / "moved" / "folder")
    config = config.copy_and_resolve_references()
    config.init.folder = str(tmp_path / "moved" / "folder")  # may lie elsewhere now
    assert int(pretrain(config, tmp_path / "run").step) == 2
    _, after = encoder_of(tmp_path / "run")
    assert after["pretraining"]["init"][0]["name"] == "dinov2_registers"


def fresh(config, store, mesh, averages=0):
    """A state as it is before a run begins, of zeros: nothing is compiled for it."""
    objective, tx, _ = make_parts(config)
    return zeros(objective, tx, make_rows(Store.open(store), config).spec, mesh, averages=averages)


def zeros(objective, tx, spec, mesh, seed=0, averages=0):
    shapes = shapes_of_state(objective, tx, spec, mesh, seed=seed, averages=averages)
    return jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), shapes)


def test_another_objective_goes_on_from_a_run(begun, store, capfd):
    config = nano_config(store, mae=1.0, dino=1.0)
    config.rows.update(length=256, prefix=192)
    # Whoever goes on writes the encoder that it has; the folder is not needed.
    kept = encoder_of(begun[0])[1]
    config.encoder = {**kept["encoder"], "patch": (4, 4, 4)}
    config.data.coordinates, config.objective.decoder_width = "unit", 24
    config.init = {"run": str(begun[0])}
    state, more = begin(config, fresh(config, store, loop.make_mesh(1, 1)))
    said = capfd.readouterr().err
    assert "encoder: taken" in said and "dino_head: begins anew" in said
    assert "decoder: begins anew" in said  # it has another width
    jax.tree.map(
        np.testing.assert_array_equal, state.student["encoder"], encoder_of(begun[0], "student")[0]
    )
    # What the earlier run has learnt from counts for this one too.
    assert [card["name"] for card in more["init"]] == ["begun", "dinov2_registers"]
    assert len(more["earlier"]["patients"]) == 8
    config.objective.decoder_width = 32
    begin(config, fresh(config, store, loop.make_mesh(1, 1)))
    assert "decoder: taken" in capfd.readouterr().err


def test_patients_of_the_earlier_run_are_not_forgotten(begun, tmp_path):
    other = write_studies(tmp_path / "store")
    about = json.loads((other / "store.json").read_text())
    (other / "store.json").write_text(json.dumps(about | {"key_fingerprint": "4567"}))
    config = begun[1].copy_and_resolve_references()
    config.data.store, config.init = str(other), {"run": str(begun[0])}
    config.encoder = {**encoder_of(begun[0])[1]["encoder"]}
    config.encoder.patch, config.data.coordinates = (4, 4, 4), "unit"
    pretrain(config, tmp_path / "run")
    carried = encoder_of(tmp_path / "run")[1]["pretraining"]
    # Under two keys one patient has two names, so nothing can be counted.
    assert carried["key_fingerprint"] == "0123+4567"


def test_each_device_gets_its_own_share(store, capfd):
    config = complete(config_from(store))
    empty = fresh(config, store, make_mesh(data=1, fsdp=8), averages=1)
    state, _ = begin(config, empty)
    assert "encoder.layer.*.norm1.weight -> block project.norm" in capfd.readouterr().err
    same = jax.tree.map(lambda x, y: x.sharding == y.sharding, state, empty)
    assert all(jax.tree.leaves(same))
    one = jax.tree.map(np.asarray, (state.student["encoder"], state.teacher["encoder"]))
    jax.tree.map(np.testing.assert_array_equal, *one)
    # The step gives its state's memory back, and no array must be given back twice.
    places = [
        leaf.unsafe_buffer_pointer()
        for tree in (state.student, state.teacher, state.averages)
        for leaf in (x.addressable_shards[0].data for x in jax.tree.leaves(tree))
    ]
    assert len(set(places)) == len(places)


@pytest.mark.full
def test_a_dry_run_tells_what_was_mapped(store, tmp_path, capfd):
    told = dry_run(config_from(store), tmp_path / "run")
    said = capfd.readouterr().err
    assert "encoder.layer.*.norm1.weight -> block project.norm" in said
    assert "memory      about" in told and "of a device at the peak" in told
    assert "decoder: begins anew" in said and not (tmp_path / "run").exists()


def test_an_export_says_what_it_began_from_and_what_cannot_hold_it(begun, tmp_path):
    out = tmp_path / "out.safetensors"
    export(begun[0], "safetensors", out)
    card = (tmp_path / "out.safetensors.md").read_text()
    assert "| began from | dinov2_registers (" in card and "vit with the positions 'table'" in card
    picture = np.random.default_rng(0).integers(0, 4096, (60, 50))
    seen = [
        load_encoder(path).encode(picture, spacing_mm=3.0, unit="raw") for path in (begun[0], out)
    ]
    np.testing.assert_array_equal(seen[0].patches, seen[1].patches)
    for kind in ("huggingface", "onnx"):
        with pytest.raises(UserError, match="does not have the positions or the activation"):
            export(begun[0], kind, tmp_path / "other")


def test_positions_in_mm_give_up_those_of_the_folder(store):
    config = config_from(store, positions="rotary")
    completed = complete(config)
    assert "table" not in completed.encoder and "coordinates" not in completed.data
    assert completed.encoder.epsilon == 1e-6 and "epsilon" not in config.encoder


@pytest.mark.parametrize(
    "change, says",
    [
        ({"encoder.patch": (4, 16, 16)}, r"They need config.encoder.patch=\(4, 4, 4\)"),
        ({"encoder.mlp": "gelu"}, "They need config.encoder.mlp='gelu_exact'"),
        ({"encoder.registers": 4}, "They need config.encoder.registers=2"),
        ({"data.coordinates": "mm"}, "config.data.coordinates is 'mm'"),
        ({"init.run": "runs/x"}, "has a folder and a run"),
        ({"init.patients": "some"}, "Use 'none' where the training"),
        ({"init.folder": "nowhere"}, "it has no config.json"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(store, tmp_path, change, says):
    config = config_from(store)
    for name, value in change.items():
        group, key = name.split(".")
        config[group][key] = value
    with pytest.raises(UserError, match=says):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_encoder_than_the_runs_is_refused(begun, store, tmp_path):
    config = nano_config(store, mae=1.0)
    config.init = {"run": str(begun[0])}
    with pytest.raises(UserError, match="the encoder of begun is another.* there and .* here"):
        pretrain(config, tmp_path / "run")
    config.init.run = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="no finished checkpoint"):
        pretrain(config, tmp_path / "again")


def test_the_keys_are_known_on_the_command_line():
    config = load_for("mmv pretrain", "demo", ["--config.init.folder=models/dinov2-small"])
    assert Init(**config.init).folder == "models/dinov2-small"
    with pytest.raises(UserError, match="Did you mean .*init.folder"):
        load_for("mmv pretrain", "demo", ["--config.init.fodler=x"])
