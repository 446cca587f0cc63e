"""Every config of experiments/: it loads, its crops fit its rows, and its step can be lowered, at
full scale too.
"""

import re
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from mmv_jax.config import load_config, to_json
from mmv_jax.data.pipeline import Rows
from mmv_jax.parallel import make_mesh
from mmv_jax.store.layout import CELLS, pack_occupancy
from mmv_jax.train.loop import lower_step, make_rows

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "experiments").glob("*.py"))
TRAINING = [path for path in FILES if "objective" in load_config(path)]
LARGE = {"vitb_mimic_ctrate": (2, 4), "vitl_pod": (1, 8)}  # eight of their chips: data, fsdp


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_loads_is_written_down_and_says_how_it_is_run(path):
    assert to_json(load_config(path)).startswith("{")
    text = path.read_text()
    assert f"--config experiments/{path.name}" in text
    assert "Measured:" in text


def test_a_config_names_a_section_of_the_results_that_exists():
    headings = re.findall(r"^##+ (.+)$", (ROOT / "docs/results.md").read_text(), re.MULTILINE)
    named = {
        path.stem: re.search(r'docs/results\.md,\s+"([^"]+)"', path.read_text()) for path in FILES
    }
    found = {stem: " ".join(match[1].split()) for stem, match in named.items() if match}
    assert len(found) > 10
    assert {stem: name for stem, name in found.items() if name not in headings} == {}


class Index:
    """A store of which only the index is read: the largest studies that there are, every cell
    occupied.
    """

    def __init__(self, column: str, groups):
        planar, volume = (1, 3500, 3000), (600, 1024, 1024)
        lines = []
        for group in groups:
            for ndim, grid, spacing in (
                (2, planar, (np.nan, 0.14, 0.14)),
                (3, volume, (1.0, 0.5, 0.5)),
            ):
                line = {
                    "study": f"{len(lines):016x}",
                    "patient": f"{len(lines):016x}",
                    "split": "train",
                    "modality": group,
                    "ndim": ndim,
                    "unit": "raw",
                }
                line |= dict(zip(("grid_z", "grid_y", "grid_x"), grid)) | dict(
                    zip(("spacing_z", "spacing_y", "spacing_x"), spacing)
                )
                lines.append(
                    line
                    | {
                        "low": 0.0,
                        "high": 1.0,
                        "occupancy": pack_occupancy(np.ones(CELLS[ndim], bool)),
                        column: group,
                    }
                )
        self.index = pd.DataFrame(lines)

    def levels(self, i):
        raise AssertionError("a plan reads no voxel")

    def read_box(self, i, start, shape, *, mask=None, level=0):
        raise AssertionError("a plan reads no voxel")


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_the_largest_crops_fit_into_a_row(path):
    config = load_config(path)
    if "teachers" in config.data:  # their features are not here, and rows are as long without
        config.data.teachers, config.objective.distil = (), 0.0
    rows = make_rows(
        Index(config.data.get("mixture_by", "modality"), config.data.get("mixture") or ["CXR"]),
        config,
    )
    assert isinstance(rows, Rows)
    assert rows.spec["patches"].shape == (
        config.rows.per_step,
        config.rows.length,
        np.prod(config.encoder.patch),
    )


def shrunk(path: Path):
    """The same run with a nano encoder and few tokens."""
    config = load_config(path)
    prefix = 64 if config.rows.prefix < config.rows.length else 128
    config.rows.update({"length": 128, "prefix": prefix, "segments": 8, "per_step": 8})
    config.encoder.size = "nano"
    small = {
        "prototypes": 32,
        "hidden": 32,
        "bottleneck": 16,
        "decoder_width": 64,
        "decoder_depth": 1,
        "decoder_heads": 2,
    }
    with config.unlocked():  # a config names only the options of its own terms
        config.objective.update(small)
    return config


# The two large ones are lowered at their full scale below, chest_distilled is lowered as it is
# shrunk; the demo, pairs, the objectives' first one and chest_best are much as chest_small.
LONG = {*LARGE, "demo", "chest_distilled", "chest_best", "objectives", "pairs"}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.full if path.stem in LONG else ()) for path in TRAINING],
    ids=lambda path: path.stem,
)
def test_a_shrunk_step_compiles_for_eight_devices(path):
    compiled = lower_step(shrunk(path), make_mesh(2, 4)).compile()
    assert "all-reduce" in compiled.as_text()
    state = compiled.input_shardings[0][0]
    # something is spread
    assert {x.spec for x in jax.tree.leaves(state)} > {jax.sharding.PartitionSpec()}
    assert jax.tree.leaves(compiled.output_shardings[0]) == jax.tree.leaves(state)


def test_a_shrunk_step_of_a_teacher_outside_is_lowered_for_eight_devices():
    (path,) = (path for path in TRAINING if path.stem == "chest_distilled")
    lowered = lower_step(shrunk(path), make_mesh(2, 4))
    _, batch = lowered.in_avals[0]
    assert batch["targets"].shape == (8, 128, 512)


# The larger one has all terms of the other.
@pytest.mark.parametrize(
    "name", ["vitl_pod", pytest.param("vitb_mimic_ctrate", marks=pytest.mark.full)]
)
def test_the_full_scale_step_is_lowered_for_eight_of_its_chips(name):
    # Compiling it would take too long for a test: `mmv preflight` does.
    (path,) = (path for path in TRAINING if path.stem == name)
    config = load_config(path)
    chips = config.mesh.data * config.mesh.fsdp
    assert config.rows.per_step % chips == 0
    config.rows.per_step = config.rows.per_step // chips * 8
    before = jax.live_arrays()
    lowered = lower_step(config, make_mesh(*LARGE[name]))
    assert len(jax.live_arrays()) == len(before)
    state, batch = lowered.in_avals[0]
    parameters = sum(x.size for x in jax.tree.leaves(state.student["encoder"]))
    assert parameters == pytest.approx({"B": 86e6, "L": 305e6}[config.encoder.size], rel=0.03)
    assert batch["patches"].shape == (config.rows.per_step, 4096, 2048)
