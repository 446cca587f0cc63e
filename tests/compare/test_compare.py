"""`mmv compare`: figures, curves, configs and paired tests of runs with a known difference."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from nano import nano_config

from mmv_jax.cli import main
from mmv_jax.compare.page import compare
from mmv_jax.compare.paired import pairs
from mmv_jax.compare.runs import open_runs
from mmv_jax.config import to_json
from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.metrics.intervals import paired
from mmv_jax.provenance import versions

N = 80


def write_run(workdir, loss, peak_lr, steps=40):
    workdir.mkdir(parents=True)
    config = nano_config("stores/mine", mae=1.0)
    config.optimizer.peak_lr = peak_lr
    (workdir / "config.json").write_text(to_json(config))
    lines = [
        {"step": n, "loss": loss - 0.01 * n, "lr": peak_lr, "tokens_per_s": 100.0}
        | ({"rank": 10.0 + n} if n % 10 == 0 else {})
        for n in range(steps)
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


def write_evaluation(folder, noise, seed, studies=range(N)):
    """Two tasks, in which a run is the better the less noise it has; and what another encoder says,
    which is none of the run's.
    """
    folder.mkdir(parents=True)
    truth, rng = np.arange(N) % 2, np.random.default_rng(seed)
    table = []
    for study in studies:
        common = {"study": f"s{study}", "patient": f"p{study // 2}", "split": "test"}
        score = truth[study] + noise * rng.normal()
        for encoder, predicted in (("trained", score), ("random", 0.0)):
            table.append(
                common
                | {"task": "sex", "encoder": encoder, "truth": float(truth[study])}
                | {"predicted": predicted, "dice": np.nan}
            )
        table.append(
            common
            | {"task": "heart", "encoder": "trained", "truth": np.nan, "predicted": np.nan}
            | {"dice": 0.9 - 0.1 * noise * rng.random()}
        )
    pd.DataFrame(table).to_parquet(folder / "predictions.parquet")
    one = {"value": 0.5, "ci95": [0.4, 0.6], "n": N}
    metrics = {
        "sex": {"trained": {"auroc": one, "brier": one}, "random": {"auroc": one}},
        "heart": {"trained": {"dice": one}},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def two(tmp_path):
    """A poor run and a good one, evaluated on studies of which most are the same."""
    poor, good = (
        write_run(tmp_path / name, loss, lr)
        for name, loss, lr in (("poor", 2.0, 1e-3), ("good", 1.0, 2e-3))
    )
    write_evaluation(poor / "evaluate", 2.0, 0)
    write_evaluation(good / "evaluate", 0.1, 1, range(N - 10))
    return poor, good


def test_figures_curves_and_config_stand_beside_each_other(two, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["compare", *map(str, two), "--out", str(page)]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["steps", "40", "40"] in lines
    assert ["loss", "1.655", "0.655"] in lines  # the mean of the last quarter
    assert ["effective", "rank", "40", "40"] in lines
    assert ["optimizer.peak_lr", "0.001", "0.002"] in lines
    assert "encoder.size" not in text
    assert "loss, from 0.61 to 2, over 40 steps" in text
    assert any(line[0] == "poor" and "█" in line[1] and "▆" in line[1] for line in lines if line)
    assert ["sex", "AUROC", "0.500", "[0.400,", "0.600]", "0.500", "[0.400,", "0.600]"] in lines
    html = page.read_text()
    assert f"mmv_jax {versions()['mmv_jax']}" in html
    assert "optimizer.peak_lr" in html and html.count("<svg") >= 4
    assert not re.search(r"""(src|href)=["']https?:|@import|<script""", html)  # no network


def test_the_same_studies_are_paired_and_corrected(two):
    runs = open_runs(two)
    found, why = pairs(runs)
    assert not why
    assert [(pair.task, pair.studies, pair.of) for pair in found] == [
        ("sex", N - 10, N),
        ("heart", N - 10, N),
    ]
    assert all(pair.verdict == "good is better" and pair.better_by.value > 0 for pair in found)
    tables = [run.predictions.query("task == 'sex'").set_index("study") for run in runs]
    both = tables[0].join(tables[1], rsuffix="_b", how="inner")
    columns = (both[name].to_numpy(float) for name in ("truth", "predicted_b", "predicted"))
    alone = paired("auroc", *columns, both["patient"].to_numpy(str))
    assert found[0].better_by.value == pytest.approx(alone.value)
    assert found[0].p_holm >= found[0].better_by.p


@pytest.mark.parametrize("kind", ["multilabel", "multiclass", "survival"])
def test_kinds_with_several_numbers_a_study_are_paired(two, kind):
    headline = KINDS[kind].headline
    rng, tables = np.random.default_rng(0), []
    truth = rng.integers(0, 2, (N, 2)).astype(float)
    if kind == "survival":
        truth[:, 0] = rng.exponential(size=N)  # time and event
    if kind == "multiclass":
        truth[:, 1] = 1 - truth[:, 0]
    for noise, run in zip((2.0, 0.5), two):
        folder = run / "evaluate"
        metrics = json.loads((folder / "metrics.json").read_text())
        one = {"value": 0.5, "ci95": [0.4, 0.6], "n": N}
        (folder / "metrics.json").write_text(
            json.dumps(metrics | {"more": {"trained": {headline: one}}})
        )
        table = pd.read_parquet(folder / "predictions.parquet")
        own = table[(table["task"] == "sex") & (table["encoder"] == "trained")]
        more = own.assign(task="more", truth=np.nan, predicted=np.nan)
        lines = more["study"].str.extract(r"(\d+)")[0].astype(int).to_numpy()
        found = truth + noise * rng.normal(size=truth.shape)
        if kind == "survival":
            found = -np.log(truth[:, :1]) + noise * rng.normal(size=(N, 1))
        for name, values in (("truth", truth), ("predicted", found)):
            for n, column in enumerate(values[lines].T):
                more[f"{name}_{n}"] = column
        tables.append(more)
        pd.concat([table, more]).to_parquet(folder / "predictions.parquet")
    pairs_, why = pairs(open_runs(two))
    assert not why
    (pair,) = (pair for pair in pairs_ if pair.task == "more")
    assert (pair.metric, pair.verdict) == (headline, "good is better")
    a, b = (table.set_index("study") for table in tables)
    a = a.loc[b.index]
    predicted = [name for name in b if name.startswith("predicted_")]
    by_hand = [
        weighted(
            KINDS[kind].metrics[headline],
            b[["truth_0", "truth_1"]].to_numpy(),
            np.squeeze(own[predicted].to_numpy(), axis=1)
            if len(predicted) == 1
            else own[predicted].to_numpy(),
        )
        for own in (a, b)
    ]
    assert pair.better_by.value == pytest.approx(by_hand[1] - by_hand[0])


def weighted(metric, truth, predicted):
    return float(metric(truth, predicted, np.ones((1, len(truth))))[0])


def test_what_cannot_be_paired_is_said(two, tmp_path):
    bare = write_run(tmp_path / "bare", 1.5, 1e-3)
    (two[1] / "evaluate" / "predictions.parquet").unlink()
    text = compare([two[0], two[1], bare], tmp_path / "page.html")
    assert "bare was not evaluated" in text
    assert "good left no predictions.parquet" in text
    write_evaluation(bare / "evaluate", 0.1, 2)
    table = pd.read_parquet(bare / "evaluate" / "predictions.parquet")
    table["truth"] = 1 - table["truth"]
    table.loc[table["task"] == "heart", "study"] = "another"
    table.to_parquet(bare / "evaluate" / "predictions.parquet")
    text = compare([two[0], bare], tmp_path / "page.html")
    assert "sex: poor and bare have different truths of the same studies" in text
    assert "heart: poor and bare share no test study" in text


def test_an_evaluation_beside_a_run_is_found_by_its_provenance(tmp_path):
    a = write_run(tmp_path / "a" / "pretrain", 1.0, 1e-3)
    b = write_run(tmp_path / "b" / "pretrain", 1.0, 1e-3)
    beside = write_evaluation(a.parent / "evaluate", 0.1, 0)
    (beside / "provenance.json").write_text('{"checkpoint": "pretrain", "step": 40}')
    runs = open_runs([a, b])
    assert [run.name for run in runs] == ["a", "b"]
    assert [run.evaluation for run in runs] == [beside, None]


@pytest.mark.parametrize("content", ["{", "[1]", '{"date": 1}'])
def test_a_damaged_folder_beside_a_run_is_left_out(content, tmp_path):
    runs = [write_run(tmp_path / name, 1.0, 1e-3) for name in "ab"]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "provenance.json").write_text(content)
    (damaged / "metrics.json").write_text("{}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [run.evaluation for run in open_runs(runs)] == [None, None]
    assert all("cannot be read" in str(one.message) for one in said)
    assert bool(said) == (content[-1] != "}")


@pytest.mark.parametrize(
    "names, says",
    [
        (["run"], "give two different runs"),
        (["run", "run"], "give two different runs"),
        (["run", "nowhere"], "there is no such folder"),
        (["run", "."], "no run has written there"),
    ],
)
def test_what_is_no_run_is_a_mistake(names, says, tmp_path):
    write_run(tmp_path / "run", 1.0, 1e-3)
    with pytest.raises(UserError, match=says):
        compare([tmp_path / name for name in names], tmp_path / "page.html")
