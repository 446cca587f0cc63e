"""A loss term from a file outside the package: it trains, and preflight counts it."""

import importlib.util

import jax
import pytest
from examples import example
from nano import nano_config, on_one_device, write_studies

from mmv_jax.errors import UserError
from mmv_jax.models.cost import Flops
from mmv_jax.objectives.table import TERMS
from mmv_jax.parallel import make_mesh
from mmv_jax.train.flops import expected_filling, step_flops
from mmv_jax.train.log import read_metrics
from mmv_jax.train.loop import make_parts, make_views, pretrain, row_shape
from mmv_jax.train.memory import step_memory, stored_bytes
from mmv_jax.train.state import shapes_of_state

FILE = example("planar_term.py")


@pytest.fixture(scope="module", autouse=True)
def planar_term(tmp_path_factory):
    """Loads the file, and takes its term out of the table again."""
    path = tmp_path_factory.mktemp("outside") / "planar_term.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("planar_term", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield
    del TERMS._entries["planar"]


@pytest.fixture
def config():
    """The term alone, with a head that is not the default one."""
    config = nano_config(planar=2.0)
    config.objective.planar_hidden = 5
    config.steps = 2
    return config


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.full)])
def test_it_trains_with_its_weight_and_its_options(config, tmp_path, monkeypatch, devices):
    if devices == 1:
        on_one_device(monkeypatch)
    else:
        config.rows.per_step, config.mesh = 8, {"data": 2, "fsdp": 4}
    config.data.store = str(write_studies(tmp_path / "store"))
    state = pretrain(config, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert len(lines) == 2
    for line in lines:
        assert line["loss"] == pytest.approx(2 * line["planar"])
        assert line["skipped"] == 0
        assert 0 <= line["planar_accuracy"] <= 1
    assert state.student["planar_head"]["layers_0"]["kernel"].shape == (64, 5)
    assert set(state.teacher) == {"encoder"}
    assert "masked" not in row_shape(config).spec(2)  # it needs neither, and the rows have neither
    assert "visible_index" not in row_shape(config).spec(2)


def test_preflight_counts_its_flops_and_bytes(config):
    objective, tx, _ = make_parts(config)
    shape = row_shape(config)
    filling = expected_filling(make_views(config.crops), shape)
    flops = step_flops(objective, shape, 4, filling)
    assert set(flops) == {"student", "planar head"}  # no teacher, since nobody asks for its tokens
    forward = 2 * 4 * shape.segments * (64 * 5 + 5)
    assert flops["planar head"] == Flops(forward=forward, backward=2 * forward)
    mesh = make_mesh(1, 1, devices=jax.devices()[:1])
    state = shapes_of_state(objective, tx, shape.spec(4), mesh, seed=0)
    held = step_memory(objective, state, shape, rows=4, fsdp=1, remat=False)
    own = stored_bytes(objective, shape, rows=4, remat=False)
    assert own["planar head"] == 4 * 4 * shape.segments * 5
    assert held["student"] == 4 * sum(x.size for x in jax.tree.leaves(state.student))
    assert state.student["planar_head"]["layers_2"]["bias"].shape == (1,)


def test_an_option_that_it_does_not_have_is_refused(config):
    config.objective.planar_hiden = 7
    with pytest.raises(UserError, match=r"config\.objective\.planar_hiden.*planar_hidden"):
        make_parts(config)
