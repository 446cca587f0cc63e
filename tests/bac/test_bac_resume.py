"""A stopped `mmv bac` goes on where it was, and takes nothing of another file, model or rule."""

import csv

import numpy as np
import pytest

from mmv_jax.bac import run
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.kept import Kept
from mmv_jax.bac.measure import Measure
from mmv_jax.bac.model import make_model
from mmv_jax.bac.sources import Entry, list_entries, read_mammogram
from mmv_jax.bac.view import ViewFrame
from mmv_jax.errors import UserError
from mmv_jax.phantom.files import MammogramTags, write_mg

WOMEN, VIEWS = 3, [("L", "CC"), ("R", "CC")]


@pytest.fixture
def folder(tmp_path):
    """Six views below one folder, with a table and a hidden file that are no mammograms."""
    for n in range(WOMEN):
        (tmp_path / f"in/{n}").mkdir(parents=True)
        for side, name in VIEWS:
            tissue = np.random.default_rng([n, ord(side)]).integers(1000, 4096, (300, 240))
            y, x = np.mgrid[:300, :240]
            image = np.where(((y - 150) / 138) ** 2 + (x / 204) ** 2 < 1, tissue, 5)
            write_mg(
                tmp_path / f"in/{n}/{side}{name}.dcm",
                image.astype(np.uint16),
                0.1,
                MammogramTags(f"{n}-{side}{name}", f"Sentinel{n}", side, name, 61),
                magnification=1.0,
                inverted=False,
            )
    (tmp_path / "in/manifest.csv").write_text("a,b\n")
    (tmp_path / "in/.DS_Store").write_bytes(b"x")
    return tmp_path / "in"


# never run: `probabilities` is replaced
SMALL = {
    "encoder": dict(size="nano", depth=1, patch=(1, 8, 8), registers=1, scale_mm=6.4),
    "head": dict(channels=4),
    "tiles": dict(tile=32, overlap=8, per_row=2),
}


def finder(overrides=()):
    """A finder with the rules that words such as `--config.measure.of_views=max` change."""
    rules = dict(threshold=0.5, least_mm2=0.1, of_views="mean", of_breasts="sum")
    for word in overrides:
        name, value = word.removeprefix("--config.measure.").split("=")
        rules[name] = type(rules[name])(value)
    model, shape = make_model(SMALL)
    measure = Measure(**rules, severity_mm2=(0.0, 10.0, 25.0))
    return Finder(model, None, shape=shape, measure=measure, origin={"digest": "d"})


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    restore = classmethod(lambda cls, _, overrides=(): finder(overrides))
    monkeypatch.setattr(Finder, "restore", restore)
    return tmp_path


@pytest.fixture
def looked(fitted, monkeypatch):
    """Counts what the model is asked; every third pixel is calcified."""
    seen = []

    def probabilities(self, voxels, spacing_mm, *, mirrored):
        seen.append(voxels.sum())
        if len(seen) == looked_at.get("stop"):
            raise KeyboardInterrupt
        frame = ViewFrame.of(voxels, spacing_mm)
        return (voxels % 3 == 0).astype(np.float32) * 0.8, frame

    looked_at = {"seen": seen}
    monkeypatch.setattr(Finder, "probabilities", probabilities)
    return looked_at


def tables(out):
    return [(out / f"{name}.csv").read_text() for name in ("views", "breasts", "women")]


def test_a_run_that_was_stopped_goes_on(folder, looked, fitted, tmp_path):
    key = {"key_path": tmp_path / "key"}
    run.measure_files([folder], fitted, tmp_path / "whole", **key)
    assert len(looked["seen"]) == 6
    looked["stop"] = 6 + 4
    with pytest.raises(KeyboardInterrupt):
        run.measure_files([folder], fitted, tmp_path / "out", **key)
    assert not (tmp_path / "out/women.csv").exists()
    told = run.measure_files([folder], fitted, tmp_path / "out", **key)
    assert len(looked["seen"]) == 6 + 4 + 3  # the fourth was not finished
    assert "3 of 6 mammograms were measured by an earlier run" in told
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
    for made in ("overlays/*.png", "segmentations/*.dcm", "reports/*.dcm", "women/*.html"):
        names = [sorted(p.name for p in (tmp_path / o).glob(made)) for o in ("out", "whole")]
        assert names[0] == names[1] and names[0], made
    assert len(names[0]) == WOMEN


def test_another_file_or_rule_is_measured_and_what_nobody_needs_goes(
    folder, looked, fitted, tmp_path
):
    run.measure_files([folder], fitted, tmp_path / "out")
    run.measure_files(
        [folder], fitted, tmp_path / "out", overrides=["--config.measure.of_views=max"]
    )
    assert len(looked["seen"]) == 6  # the same masks, put together by another rule
    run.measure_files(
        [folder], fitted, tmp_path / "out", overrides=["--config.measure.threshold=0.9"]
    )
    assert len(looked["seen"]) == 12
    (folder / "0/LCC.dcm").rename(folder / "0/moved.dcm")
    (folder / "1/LCC.dcm").unlink()
    run.measure_files(
        [folder], fitted, tmp_path / "out", overrides=["--config.measure.threshold=0.9"]
    )
    assert len(looked["seen"]) == 12  # a name says nothing
    assert len(list((tmp_path / "out/masks").iterdir())) == 5


def test_a_damaged_mask_is_measured_again(folder, looked, fitted, tmp_path):
    run.measure_files([folder], fitted, tmp_path / "out")
    before = tables(tmp_path / "out")
    masks = sorted((tmp_path / "out/masks").iterdir())
    masks[0].write_bytes(masks[0].read_bytes()[:100])
    masks[1].write_bytes(b"")
    run.measure_files([folder], fitted, tmp_path / "out")
    assert len(looked["seen"]) == 8 and tables(tmp_path / "out") == before


def test_a_mask_comes_back_as_it_was_and_names_nobody(folder, fitted, tmp_path):
    kept = Kept.of(tmp_path / "masks", Finder.restore(fitted))
    mammogram = read_mammogram(Entry(1, folder / "0/LCC.dcm"))
    mask = np.random.default_rng(0).random((300, 240)) < 0.1
    key = kept.key(mammogram)
    kept.save(key, mask, sure_mm2=1.25, breast=True)
    found = kept.load(key)
    np.testing.assert_array_equal(found[0], mask)
    assert found[1:] == (1.25, True) and kept.load("0" * 32) is None
    assert b"Sentinel" not in (tmp_path / f"masks/{key}.npz").read_bytes()
    assert key != kept.key(read_mammogram(Entry(1, folder / "0/RCC.dcm")))


def test_a_folder_stands_for_its_images(folder, looked, fitted, tmp_path):
    entries, _ = list_entries([folder])
    assert [entry.path.relative_to(folder).as_posix() for entry in entries] == [
        f"{n}/{side}CC.dcm" for n in range(WOMEN) for side in "LR"
    ]
    with pytest.raises(UserError, match="--out lies in a folder of FILES"):
        run.measure_files([folder], fitted, folder / "out")
    run.measure_files([folder], fitted, tmp_path / "out")
    with (tmp_path / "out/women.csv").open() as file:
        assert len(list(csv.DictReader(file))) == WOMEN
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="hold no mammogram"):
        list_entries([tmp_path / "empty"])
