"""Phases of a run: their configs, and that each begins from the one before."""

from pathlib import Path

import jax
import numpy as np
import pytest
from nano import draw_begin, nano_config, share_step

from mmv_jax.checkpoint import restore_items
from mmv_jax.commands.phases import phases_of
from mmv_jax.commands.runs import _finishes
from mmv_jax.errors import UserError
from mmv_jax.parallel import make_mesh
from mmv_jax.train import loop
from mmv_jax.train.log import read_metrics

# KoLeo is the term that is compiled soonest.
TERMS = [{"koleo": 1.0}, pytest.param({}, id="all terms", marks=pytest.mark.full)]


def phased(store, *phases, **weights):
    config = nano_config(store, **weights)
    config.steps, config.phases = 2, phases
    return config.lock()


def test_each_phase_has_its_values_and_the_weights_before_it(tmp_path):
    config = phased(
        "store",
        {"steps": 5, "data.mixture": {"CXR": 0.5, "CT": 0.5}},
        {"crops": {"planar": {"locals": 2}}, "optimizer.layer_decay": 0.5, "data.store": "2024"},
    )
    (first, one), (second, two) = phases_of(config, tmp_path)
    assert (one, two) == (tmp_path / "phase-1", tmp_path / "phase-2")
    assert first.steps == 5 and "init" not in first and first.data.mixture.CT == 0.5
    # A name that the file leaves out may be set, and text stays text.
    assert second.steps == 2 and second.optimizer.layer_decay == 0.5
    assert second.data.store == "2024" and second.crops.planar.locals == 2
    assert second.init.run == str(one) and "mixture" not in second.data
    assert "phases" not in first and config.phases[0]["steps"] == 5


def test_later_phases_have_the_encoder_of_the_first_ones_folder(tmp_path):
    folder = Path(__file__).parents[1] / "models" / "public" / "dinov2_registers"
    config = nano_config(mae=1.0)
    config.encoder = {"size": "nano", "patch": (4, 4, 4)}
    config.init, config.phases = {"folder": str(folder)}, ({"steps": 2}, {"steps": 3})
    (first, _), (second, _) = phases_of(config.lock(), tmp_path)
    assert first.init.folder == str(folder) and "folder" not in second.init
    assert first.encoder == second.encoder and second.encoder.positions == "table"
    assert second.data.coordinates == "unit"


def test_a_run_without_phases_is_one(tmp_path):
    config = nano_config()
    assert phases_of(config, tmp_path) == [(config, tmp_path)]


@pytest.mark.parametrize(
    "phases, says",
    [
        ("abc", "is a list of dicts, one a phase"),
        (({"steps": 2}, 3), "is a list of dicts, one a phase"),
        (({"steps": 2}, {"crops.planr.locals": 2}), "phase 2: config.crops.planr is no group"),
        (({"steps": "many"},), "phase 1: config.steps"),
        (({}, {"init.folder": "models/x"}), "phase 2: it names init.folder, but each phase begins"),
    ],
)
def test_mistakes_in_any_phase_show_before_the_first_one_trains(phases, says, tmp_path):
    config = nano_config()
    config.phases = phases
    with pytest.raises(UserError, match=says):
        phases_of(config.lock(), tmp_path)
    with pytest.raises(UserError, match="is trained by `mmv pretrain`"):
        loop.pretrain(config, tmp_path)


@pytest.mark.parametrize("weights", TERMS)
def test_phases_are_trained_in_turn_and_gone_on_from(store, tmp_path, monkeypatch, capsys, weights):
    one = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", lambda data, fsdp: one)
    share_step(monkeypatch, f"phases {weights}")
    draw_begin(monkeypatch)  # by the seed of a phase
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    config = phased(store, {}, {"seed": 1}, **weights)
    assert _finishes(config, tmp_path)
    ends = [restore_items(tmp_path / f"phase-{n}", ("encoder",))[0]["encoder"] for n in (1, 2)]
    begun = restore_items(tmp_path / "phase-2", ())[1]["pretraining"]["init"]
    assert [card["name"] for card in begun] == ["phase-1"]
    # The second phase ends somewhere else than the first, and not far from it.
    kernels = [np.asarray(tree["embed"]["patch"]["kernel"]) for tree in ends]
    apart = np.abs(kernels[0] - kernels[1]).max()
    assert 0 < apart < 0.1 * np.abs(kernels[0]).max()
    assert len(read_metrics(tmp_path / "phase-2")) == 2
    # Once more: nothing is left to do, and nothing is trained again.
    assert _finishes(config, tmp_path)
    assert len(read_metrics(tmp_path / "phase-2")) == 2
    assert "phase 2 of 2" in capsys.readouterr().out
