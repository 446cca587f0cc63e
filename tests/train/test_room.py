"""The memory that a run is expected to take, told before its first step."""

import pytest
from nano import nano_config

import mmv_jax
from mmv_jax import cli
from mmv_jax.errors import UserError
from mmv_jax.parallel import make_mesh
from mmv_jax.train import loop, room
from mmv_jax.train.room import Peak, device_bytes, peak_of

GIB = 2**30


@pytest.fixture(scope="module")
def eight():
    config = nano_config(mae=1.0)
    config.mesh.data, config.rows.per_step = 8, 8
    return config


def expected_peak(config):
    mesh, parts = make_mesh(8), loop.make_parts(config)
    shapes = loop.make_shapes(config, parts, mesh)
    return peak_of(config, parts[0], shapes, shape=loop.row_shape(config), mesh=mesh)


def test_a_peak_is_told_with_its_largest_parts_and_the_device():
    peak = Peak({"moments": 3 * GIB, "student": GIB, "batch": 0}, 16 * GIB)
    assert str(peak).startswith("about 4.00 GiB of a device at the peak, of its 16.00 GiB (moments")
    assert "may not fit" not in str(peak)
    peak.check()
    close = Peak(peak.parts, 4 * GIB, ("--config.encoder.remat=full",))
    close.check()  # the closed form may be too high: it is told, and not refused
    assert "It may not fit: Try --config.encoder.remat=full, or train fewer" in str(close)
    with pytest.raises(UserError, match="does not fit: .* 4.00 GiB of a device .moments 3.00 GiB"):
        Peak(peak.parts, 3 * GIB).check()
    assert "does not say" in str(Peak(None, GIB)) and str(Peak({"student": GIB}, None))


def test_a_config_is_told_without_moments_of_frozen_weights(eight):
    whole = expected_peak(eight)
    few = eight.copy_and_resolve_references()
    few.optimizer.last_blocks = 1
    part = expected_peak(few)
    for kind in ("moments", "gradients", "visible blocks"):
        assert part.parts[kind] < whole.parts[kind]
    assert part.parts["student"] == whole.parts["student"]
    assert whole.held == device_bytes(make_mesh(8)) and whole.expected < whole.held


def test_a_container_has_less_than_its_machine(monkeypatch, tmp_path):
    mesh = make_mesh(8)
    whole = device_bytes(mesh)
    for words, expected in (("max\n", whole), (f"{8 * 2**20}\n", 2**20)):
        (tmp_path / "max").write_text(words)
        monkeypatch.setattr(room, "CGROUP", tmp_path / "max")
        assert device_bytes(mesh) == expected


def test_a_run_that_cannot_fit_is_one_sentence_before_anything_is_written(
    eight, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(room, "device_bytes", lambda mesh: 2**20)
    with pytest.raises(UserError, match="This run does not fit: .* has 1.0 MiB"):
        mmv_jax.pretrain(eight, tmp_path / "run")
    file = tmp_path / "mine.py"
    file.write_text("from nano import get_config\n")
    words = ["--config.mesh.data=8", "--config.rows.per_step=8", "--workdir", f"{tmp_path / 'run'}"]
    assert cli.main(["pretrain", "--config", str(file), *words, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "does not fit" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
