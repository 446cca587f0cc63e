"""An evaluation without a config, and own checkpoints beside the evaluated one."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tiny import KEY, tiny_config, write_checkpoint, write_store

from mmv_jax.cli import main
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.named import load_encoders, marked, overlap_of
from mmv_jax.evaluate.from_labels import config_of_labels, in_terms_of, task_of
from mmv_jax.evaluate.run import evaluate, make_tasks
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.export.write import export
from mmv_jax.released import restore_weights
from mmv_jax.store.read import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store, a run, and an earlier run that was trained on other patients."""
    folder = tmp_path_factory.mktemp("labels")
    write_store(folder / "store", 24)
    for seed, (name, patients) in enumerate({"run": ["CXR-p3"], "earlier": ["CXR-p7"]}.items()):
        write_checkpoint(folder / name, {"key_fingerprint": KEY, "patients": patients}, seed)
    return folder


@pytest.mark.parametrize(
    "values, task",
    [
        ([0.0, 1.0, None], {"kind": "classification", "positive": 1.0}),
        (["F", "M", "", None], {"kind": "classification", "positive": "M"}),
        (["yes", "no"], {"kind": "classification", "positive": "yes"}),
        (["positive", "unclear"], {"kind": "classification", "positive": "positive"}),
        ([True, False], {"kind": "classification", "positive": True}),
        ([30.0, 41.5, 77.0], {"kind": "regression"}),
    ],
)
def test_the_kind_of_a_label_follows_from_its_values(values, task, capsys):
    assert task_of("label", pd.Series(values)) == task
    assert capsys.readouterr().err.startswith(f"label: {task['kind']}")


@pytest.mark.parametrize(
    "values, says",
    [
        (["AP", "PA", "LL"], "3 values that are no numbers .*'positive': 'AP'"),
        ([1.0, 1.0], "all 2 studies that have it say 1.0"),
        ([None, None], "it is empty"),
    ],
)
def test_a_label_that_is_no_task_is_a_mistake(values, says):
    with pytest.raises(UserError, match=f"--label view.*{says}"):
        task_of("view", pd.Series(values))


def test_labels_are_measured_beside_floors_and_an_own_checkpoint(made, capsys):
    words = f"evaluate --store {made / 'store'} --checkpoint {made / 'run'} --label radius"
    words += f" --label left --config.encoders.earlier.checkpoint={made / 'earlier'}"
    assert main(words.split()) == 0
    assert "radius: regression" in capsys.readouterr().err
    found = json.loads((made / "run" / "evaluate" / "metrics.json").read_text())
    assert set(found) == {"radius", "left"}
    for task, metric in (("radius", "mae"), ("left", "auroc")):
        values = {name: found[task][name][metric]["value"] for name in ("trained", "earlier")}
        assert {"random", "pixels"} <= set(found[task])
        assert values["trained"] != values["earlier"]
    comparisons = json.loads((made / "run" / "evaluate" / "comparisons.json").read_text())
    assert "earlier" in {c["second"] for c in comparisons}


@pytest.mark.parametrize(
    "said, says",
    [
        ("config.tasks.age: no study of split 'val'.", "--label age: no study of split 'val'."),
        ("config.tasks.age at scan.label: x", "--label age at scan: x"),
        (
            "config.tasks.age: Correct or remove the task.",
            "--label age: Correct or remove the label.",
        ),
        ("config.rows.length is 3", "config.rows.length is 3"),
    ],
)
def test_a_message_names_the_label_and_no_key_that_was_never_written(said, says):
    with pytest.raises(UserError) as error, in_terms_of(["age", "age at scan"]):
        raise UserError(said)
    assert str(error.value) == says


def test_a_label_without_a_split_is_told_in_the_words_of_the_command(made, tmp_path, capsys):
    write_store(tmp_path / "store", 4)  # two patients of each modality, both of train
    words = f"evaluate --store {tmp_path / 'store'} --checkpoint {made / 'run'} --label left"
    assert main(words.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--label left: no study of split 'val'" in error and "config." not in error


def test_the_results_of_a_step_do_not_go_into_the_step(made, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "mmv_jax.face.runs.evaluate", lambda config, where, workdir: asked.update(to=workdir)
    )
    step = made / "run" / "checkpoints" / "1"
    words = f"evaluate --store {made / 'store'} --checkpoint {step} --label left"
    assert main(words.split()) == 0
    assert asked["to"] == made / "run" / "evaluate-1"


@pytest.mark.parametrize(
    "words, says",
    [
        ("evaluate --label left", "give --config; or, without a config"),
        ("evaluate --store {store} --checkpoint {run}", "give --config; or, without"),
        ("evaluate --config demo --store {store}", "leave out --store and --label"),
        ("evaluate --config eval_demo --checkpoint {run}", "--workdir is missing"),
        (
            "evaluate --store {store} --checkpoint {run} --label sax",
            "the store has no column 'sax'",
        ),
        ("evaluate --store {store} --checkpoint nowhere --label left", "nowhere"),
        ("evaluate --store {store} --checkpoint {run} --label left --config.sed=1", "seed"),
    ],
)
def test_a_mistake_is_one_line(words, says, made, capsys):
    line = words.format(store=made / "store", run=made / "run")
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert says in error.splitlines()[-1] and "Traceback" not in error


def test_patients_of_every_own_checkpoint_are_left_out_on_request(made):
    config = config_of_labels(str(made / "store"), ["left"], str(made / "run"))
    config.encoders = {"earlier": {"checkpoint": str(made / "earlier")}}
    config.exclude_overlap = True
    store = Store.open(made / "store")
    carried = {"pretraining": {"key_fingerprint": KEY, "patients": ["CXR-p3"]}}
    overlap = overlap_of(config, carried, store)
    assert overlap.patients == {"CXR-p3", "CXR-p7"}
    (task,) = make_tasks(config, store, overlap)
    assert {"CXR-p3", "CXR-p7"}.isdisjoint(task.patients[task.split == "test"])
    assert "CXR-p11" in task.patients[task.split == "test"]
    assert overlap.joined(Overlap(None, "unknown")) == Overlap(None, "unknown")


def test_an_own_checkpoint_that_is_none_is_named(made, tmp_path):
    assert marked("earlier", {"checkpoint": "runs/earlier"}) == "earlier"
    config = tiny_config(made / "store")
    config.encoders = {"earlier": {"checkpoint": str(tmp_path / "nowhere")}}
    with pytest.raises(UserError, match="config.encoders: checkpoint .*nowhere"):
        load_encoders(config)
    shutil.copytree(made / "earlier", tmp_path / "copy")
    config.encoders = {"step": {"checkpoint": str(tmp_path / "copy" / "checkpoints" / "1")}}
    assert set(load_encoders(config)) == {"step"}


def test_exported_and_released_weights_stand_for_a_run(made, tmp_path, monkeypatch, capsys):
    export(made / "run", "safetensors", tmp_path / "tiny.safetensors")
    monkeypatch.setattr("mmv_jax.released.WEIGHTS", tmp_path)
    run = restore_weights(made / "run", "encoder")
    for where in (tmp_path / "tiny.safetensors", Path("tiny")):
        found = restore_weights(where, "encoder")
        assert found.origin() == run.origin()
        assert found.config["encoder"] == run.config["encoder"]
        asked = config_of_labels(str(made / "store"), ["left"], str(where))
        assert asked.rows == config_of_labels(str(made / "store"), ["left"], str(made / "run")).rows
        with pytest.raises(UserError, match="tiny.safetensors holds one copy of the weights"):
            restore_weights(where, "student")
    # Nothing says whom they were trained on, so the overlap is not known.
    config = tiny_config(made / "store")
    assert overlap_of(config, found.config, Store.open(made / "store")).patients is None
    config.encoders = {"beside": {"checkpoint": "tiny"}}
    known = {"pretraining": {"key_fingerprint": KEY, "patients": ["CXR-p3"]}}
    assert overlap_of(config, known, Store.open(made / "store")).patients is None
    assert set(load_encoders(config)) == {"beside"}
    words = f"evaluate --store {made / 'store'} --checkpoint tiny --label left"
    assert main(words.split()) == 2
    assert "--workdir is missing: weights in a file" in capsys.readouterr().err


@pytest.mark.full
def test_own_checkpoints_are_fine_tuned_with_the_evaluated_one(made, tmp_path):
    config = tiny_config(made / "store").copy_and_resolve_references().unlock()
    del config.few_shot
    once = {"epochs": 20, "patience": 20, "seeds": 1, "rates": (1.0,), "layer_decays": (0.8,)}
    config.update({"protocols": ("linear", "finetune"), "fit": once})
    config.tasks = {"left": config.tasks["left"]}
    config.encoders = {
        "earlier": {"checkpoint": str(made / "earlier")},
        "again": {"checkpoint": str(made / "run")},
    }
    evaluate(config, made / "run", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["left"]
    tuned = {name: found[f"{name}+finetuned"] for name in ("trained", "earlier", "again")}
    # The same checkpoint by another name is fitted to the same figures; the earlier one to others.
    for own in tuned.values():
        del own["cpu_seconds"]
    assert tuned["again"] == tuned["trained"] != tuned["earlier"]
