"""The whole evaluation on a tiny store and an encoder that was never trained."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from browser import assert_readable
from tiny import KEY, tiny_config, write_checkpoint, write_store

from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.data.resample import read_crop_mask
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders import base as encoders
from mmv_jax.evaluate.encoders.features import Features, encode_studies
from mmv_jax.evaluate.encoders.trained import restore, with_fresh_weights
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.run import chosen_tasks, evaluate
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.evaluate.tasks.scenes import NativeGrid, Scene, local_means
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.scores import dice
from mmv_jax.report.page import remake
from mmv_jax.store.read import Store


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A finished evaluation: its folders, and what it printed."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_store(folder / "store")
    write_checkpoint(
        folder / "run", {"key_fingerprint": KEY, "patients": ["CXR-p3", "CXR-p0", "CT-p7"]}
    )
    return folder, evaluate(tiny_config(folder / "store"), folder / "run", folder / "evaluate")


def test_metrics_hold_every_task_and_encoder_with_intervals(evaluated):
    found = json.loads((evaluated[0] / "evaluate" / "metrics.json").read_text())
    assert set(found) == {"left", "left in CT", "radius", "disc", "ball"}
    headline = {
        "left": "auroc",
        "left in CT": "auroc",
        "radius": "mae",
        "disc": "dice",
        "ball": "dice",
    }
    for task, metric in headline.items():
        assert {"trained", "random", "pixels"} <= set(found[task])
        for encoder in ("trained", "random", "pixels"):
            value = found[task][encoder][metric]
            assert value["ci95"][0] <= value["value"] <= value["ci95"][1]
            assert value["n"] == 12
    assert {"trained/cls", "trained/patch_mean"} <= set(found["left"])
    # a bright disc: the threshold of a voxel finds it
    assert found["disc"]["pixels"]["dice"]["value"] > 0.9
    assert {"dice", "nsd", "hd95"} <= set(found["ball"]["trained"])
    assert "mae@train=25%" in found["radius"]["pixels"]  # curves have a floor
    assert "dice@train=25%" in found["ball"]["pixels"]
    # 3 of 12 patients of train, and 2 of 6 of val, by whose labels the strength was chosen
    assert found["radius"]["trained"]["labelled_patients@train=25%"]["value"] == 5
    assert found["radius"]["pixels"]["labelled_patients@train=100%"]["value"] == 18


def test_every_encoder_is_scored_on_the_voxels_of_the_study(evaluated):
    """A view of other voxels has the same truth, and finds all of it where it says all of it."""
    store = Store.open(evaluated[0] / "store")
    geometry = Geometry.of(store.index)
    task = make_task(store.index, "ball", kind="segmentation", mask="disc_mask", where={"ndim": 3})
    study = int(task.studies[0])
    z, y, x = geometry.voxels[study].tolist()
    drawn = store.read_box(study, (0, 0, 0), (z, y, x), mask="disc_mask") == 1
    for step, tokens in ((0.75, (8, 6, 5)), (2.5, (3, 2, 2))):
        crop = Crops(np.zeros(3), np.array(step), np.array(tokens), (4, 8, 8))
        seen = read_crop_mask(store, geometry, i=study, crop=crop, mask="disc_mask") == 1
        native = NativeGrid(store, geometry, study, crop=crop, task=task)
        scene = Scene(
            np.zeros((0, 1), np.float32), np.ones(tokens, bool), seen, step, native=native
        )
        truth, spread, spacing_mm = scene.scored(seen.astype(np.float32))
        np.testing.assert_array_equal(truth, drawn)
        assert spacing_mm == (2.0, 1.5, 1.5)
        assert dice(truth, spread > 0.5) > (0.97 if step < 1 else 0.75)
    both = {"ball": (1,), "elsewhere": (2,)}
    task = make_task(
        store.index,
        "two",
        kind="segmentation",
        mask="disc_mask",
        structures=both,
        where={"ndim": 3},
    )
    assert task.values == (1, 2)
    shown = {key: scene.showing(part) for key, part in task.parts().items()}
    np.testing.assert_array_equal(shown["ball"].truth, scene.truth)
    assert not shown["elsewhere"].truth.any() and not shown["elsewhere"].native.truth().any()


def test_predictions_are_those_that_the_metrics_rest_on(evaluated):
    out = evaluated[0] / "evaluate"
    found = json.loads((out / "metrics.json").read_text())
    table = pd.read_parquet(out / "predictions.parquet")
    index = Store.open(evaluated[0] / "store").index.set_index("study")
    assert (table["split"] == "test").all()
    assert table["patient"].tolist() == index.loc[table["study"], "patient"].tolist()
    for (task, encoder), lines in table.groupby(["task", "encoder"]):
        assert len(lines) == 12 and lines["study"].is_unique
        metrics = found[task][encoder]
        if "mae" in metrics:
            error = (lines["truth"] - lines["predicted"]).abs().mean()
            assert error == pytest.approx(metrics["mae"]["value"])
        elif "dice" in metrics:
            assert lines["dice"].mean() == pytest.approx(metrics["dice"]["value"])
        else:
            brier = ((lines["truth"] - lines["predicted"]) ** 2).mean()
            assert brier == pytest.approx(metrics["brier"]["value"])


def test_every_result_says_where_it_comes_from(evaluated):
    out = evaluated[0] / "evaluate"
    kept = json.loads((out / "provenance.json").read_text())
    of_table = json.loads(pq.read_schema(out / "predictions.parquet").metadata[b"mmv_jax"])
    assert kept == of_table
    assert (kept["checkpoint"], kept["step"]) == ("run", 1)
    assert kept["config"]["seed"] == 1 and kept["studies"] == 96
    page = (out / "report.html").read_text()
    assert kept["digest"] in page and kept["store_digest"] in page and kept["date"][:10] in page


def test_another_checkpoints_results_are_refused_not_overwritten(evaluated, tmp_path):
    folder, _ = evaluated
    before = (folder / "evaluate" / "metrics.json").read_bytes()
    other = write_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match=r"holds the results of run, step 1 .* Give another"):
        evaluate(tiny_config(folder / "store"), other, folder / "evaluate")
    assert (folder / "evaluate" / "metrics.json").read_bytes() == before


def test_the_table_and_the_comparisons_say_won_or_lost_for_every_task(evaluated):
    comparisons = json.loads((evaluated[0] / "evaluate" / "comparisons.json").read_text())
    # two floors in five tasks, of masks by three metrics, a subgroup, a confounder by 3 encoders
    assert len(comparisons) == 22
    assert all(
        re.fullmatch(
            "no difference told|not defined|(better|worse)(, intervals apart)?", c["words"]
        )
        for c in comparisons
    )
    further = ("nsd", "hd95")
    comparisons = [c for c in comparisons if "@" not in c["second"] and c["metric"] not in further]
    for task in ("left", "left in CT", "radius", "disc", "ball"):
        line = next(line for line in evaluated[1].splitlines() if line.startswith(f"{task}  "))
        found = [c["words"] for c in comparisons if c["task"] == task]
        # The file has the words of before; people read plainer ones.
        assert line.endswith("; ".join(Names.words.get(words, words) for words in found))


def test_subgroups_confounders_and_few_shot_curves_are_in_the_files_and_the_report(evaluated):
    found = json.loads((evaluated[0] / "evaluate" / "metrics.json").read_text())
    own = found["radius"]["trained"]
    assert own["mae@left=0"]["n"] + own["mae@left=1"]["n"] == own["mae"]["n"]
    assert {"auroc@radius:broken", "auroc@radius:within", "auroc@radius:alone"} <= set(
        found["left"]["trained"]
    )
    for encoder in ("trained", "random"):
        curve = [found["left"][encoder][f"auroc@train={share}%"] for share in (25, 100)]
        assert all(point["ci95"][0] <= point["value"] <= point["ci95"][1] for point in curve)
        few, all_of_train = (
            found["disc"][encoder][f"dice@train={share}%"]["value"] for share in (25, 100)
        )
        assert 0 < few < all_of_train + 0.1 <= 1.1
    page = (evaluated[0] / "evaluate" / "report.html").read_text()
    assert all(
        f"<h2>{title}</h2>" in page
        for title in (
            "Subgroups",
            "Confounders",
            "Few-shot curves",
            "Calibration",
            "Tasks by encoders",
        )
    )


def test_the_report_is_readable_in_a_real_browser(evaluated):
    assert_readable(evaluated[0] / "evaluate" / "report.html")


def test_the_page_says_what_was_evaluated_on_whom_and_by_whose_truth(evaluated):
    page = (evaluated[0] / "evaluate" / "report.html").read_text()
    assert re.search(r"run, step 1, evaluated on \d{4}-\d\d-\d\d", page)
    assert "no medical device" in page
    assert "All studies are phantoms" in page
    assert "nobody: the generator of the phantoms knows it" in page
    assert "the reader" not in page
    assert "12 test studies of 6 patients, 6 positive" in page
    assert "Not shown below 50 positive studies: Left (6), Left in CT (6)" in page
    assert "The store has no column of age and sex." in page


def test_the_protocol_counts_every_study_of_the_store(evaluated):
    protocol = json.loads((evaluated[0] / "evaluate" / "protocol.json").read_text())
    flow = protocol["flow"]
    assert flow["in_any_task"] == {"train": 48, "val": 24, "test": 24}
    for counts in flow["tasks"].values():
        used = sum(counts[split] for split in ("train", "val", "test"))
        left = counts["elsewhere"] + counts["unlabelled"] + counts["left_out_seen_in_pretraining"]
        assert used + left == flow["in_store"] == 96
    assert flow["tasks"]["left"]["positive"] == {"train": 12, "val": 6, "test": 6}
    assert [item["item"] for item in protocol["claim_2024"]] == [str(n) for n in range(1, 45)]
    reloaded = {(i["item"], i["asks"]): i["fulfilled"] for i in protocol["metrics_reloaded"]}
    assert reloaded["Disc", "overlap"] == "yes"
    # val has both classes of it, and chose its operating points
    assert reloaded["Left", "counting at a chosen threshold"] == "yes"


def test_the_page_is_made_anew_from_its_contents(evaluated, tmp_path):
    written = evaluated[0] / "evaluate" / "report.html"
    (tmp_path / "report.json").write_text(written.with_suffix(".json").read_text())
    assert remake(tmp_path).read_text() == written.read_text()


def test_the_report_needs_no_network_and_names_no_patient(evaluated):
    page = (evaluated[0] / "evaluate" / "report.html").read_text()
    without_namespaces = re.sub(
        r'(xmlns(:\w+)?|xlink:href|rdf:\w+)="[^"]*"|<metadata>.*?</metadata>',
        "",
        page,
        flags=re.DOTALL,
    )
    assert not re.search(r'(src|href)="(?!data:|#)', without_namespaces)
    assert "<script" not in page
    assert 'name="viewport"' in page
    assert not re.search(r"(CXR|CT)-p\d|CXR\d{4}", page)


def test_overlap_of_patients_is_counted(evaluated):
    page = (evaluated[0] / "evaluate" / "report.html").read_text()
    part = page[page.index("<h2>Measured patients seen") :]
    part = part[: part.index("</table>")]
    counts = dict(
        re.findall(
            r'<th scope="row">([\w ]+)</th>\s*<td[^>]*><span>\d+</span></td>'
            r"\s*<td[^>]*><span>(\d+)</span></td>",
            part,
        )
    )
    assert counts == {"Left": "1", "Radius": "1", "Disc": "1", "Left in CT": "1", "Ball": "1"}


def test_what_was_encoded_is_not_encoded_again(evaluated, monkeypatch):
    folder, _ = evaluated
    store, config = Store.open(folder / "store"), tiny_config(folder / "store")
    encoder, _ = restore(folder / "run", config.rows.to_dict(), config.view.to_dict())
    studies = np.arange(len(store))
    first = encode_studies(encoder, store, studies, studies[:3], folder / "features")
    monkeypatch.setattr(
        encoders, "study_batches", lambda *args, **options: pytest.fail("encoded again")
    )
    second = encode_studies(encoder, store, studies, studies[:3], folder / "features")
    np.testing.assert_array_equal(first.cls, second.cls)
    np.testing.assert_array_equal(first.tokens[2], second.tokens[2])
    # other weights are another encoder
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        encode_studies(
            with_fresh_weights(encoder, 5),
            store,
            studies,
            studies[:3],
            folder / "features",
        )


def test_the_region_of_a_mask_is_pooled_by_itself(evaluated):
    store, config = Store.open(evaluated[0] / "store"), tiny_config(evaluated[0] / "store")
    found = json.loads((evaluated[0] / "evaluate" / "metrics.json").read_text())
    assert "trained/patch_local" in found["left in CT"]
    assert "trained/patch_local" not in found["left"]
    encoder, _ = restore(evaluated[0] / "run", config.rows.to_dict(), config.view.to_dict())
    task = make_task(store.index, "ball", **config.tasks["left in CT"].to_dict())[np.arange(4)]
    features = encode_studies(encoder, store, task.studies, task.studies, evaluated[0] / "features")
    everywhere = Features(
        features.studies,
        features.cls,
        features.patch_mean,
        {s: np.ones_like(t) for s, t in features.tokens.items()},
    )
    np.testing.assert_allclose(
        local_means(encoder, store, Geometry.of(store.index), task, everywhere), 1.0, rtol=1e-5
    )


def test_studies_of_pretraining_patients_are_left_out_on_request(evaluated):
    index = Store.open(evaluated[0] / "store").index
    task = make_task(index, "left", kind="classification", label="left", where={"modality": "CXR"})
    overlap = Overlap.of(
        {"pretraining": {"key_fingerprint": KEY, "patients": ["CXR-p3", "CXR-p0"]}}, KEY
    )
    left = overlap.without(task)
    assert overlap.count(task) == (6, 1)
    # both studies of the one test patient; the train patient stays
    assert len(task) - len(left) == 2
    assert "CXR-p3" not in left.patients
    assert "CXR-p0" in left.patients


def test_other_keys_cannot_be_compared():
    overlap = Overlap.of({"pretraining": {"key_fingerprint": "another", "patients": ["p"]}}, KEY)
    assert overlap.patients is None
    assert "different keys" in overlap.reason
    task = Task(
        "mine",
        "classification",
        np.arange(3),
        np.array(["train", "val", "test"]),
        np.array(["p", "q", "r"]),
    )
    with pytest.raises(
        UserError,
        match=(
            "config.exclude_overlap: which patients .* cannot be told: its store and this one"
            " were named"
        ),
    ):
        overlap.without(task)
    assert "does not say" in Overlap.of({}, KEY).reason


def test_a_features_file_that_was_cut_short_is_no_features_file(evaluated):
    """Parts are renamed into place, so what a killed evaluation leaves ends in .part and is not
    read.
    """
    files = list((evaluated[0] / "evaluate" / "features").iterdir())
    assert files
    assert all(file.suffix == ".npz" for file in files)
    assert all(np.load(file, allow_pickle=False).files for file in files)


def test_a_missing_checkpoint_is_told(evaluated):
    folder, _ = evaluated
    with pytest.raises(UserError, match="--checkpoint is missing"):
        evaluate(tiny_config(folder / "store"), None, folder / "x")


def test_a_config_may_ask_for_some_of_its_tasks():
    config = tiny_config("store").unlock()
    assert set(chosen_tasks(config)) == {"left", "left in CT", "radius", "disc", "ball"}
    config.only = ("disc", "left")
    assert chosen_tasks(config) == {name: config.tasks[name].to_dict() for name in ("left", "disc")}
    config.only = ("disk",)
    with pytest.raises(UserError, match="config.only: there is no task 'disk'. There are: "):
        chosen_tasks(config)
