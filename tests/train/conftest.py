"""One store on disk and one config for the tests of training: eight planar and eight volumetric
studies, a row of 128 tokens.
"""

from pathlib import Path

import jax
import pytest
from nano import fresh, nano_config, on_one_device, share_run, write_studies

from mmv_jax.parallel import make_mesh
from mmv_jax.store.read import Store
from mmv_jax.train import loop
from mmv_jax.train.loop import make_parts, make_rows


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    return write_studies(tmp_path_factory.mktemp("studies") / "store")


@pytest.fixture(scope="session")
def batch(store):
    """Two packed rows that have what every objective asks for."""
    return make_rows(Store.open(store), nano_config(store)).batch(0)


@pytest.fixture(scope="session")
def drawn(batch) -> list[tuple[dict, dict]]:
    """Fresh students of all objectives and their teachers, from two keys."""
    init = jax.jit(make_parts(nano_config())[0].init)
    return [jax.device_get(init(jax.random.key(n), batch)) for n in (0, 1)]


@pytest.fixture(scope="module")
def fresh_on_one_device():
    """Runs of a file take one device and begin with a `fresh` state."""
    one = make_mesh(devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda data, fsdp: one)
        patch.setattr(loop, "init_state", fresh)
        yield


@pytest.fixture(params=["one device", pytest.param("eight devices", marks=pytest.mark.full)])
def short(request, store, monkeypatch):
    """A run of seven steps of self-distillation, saved after 3 and 6. Tests of a file share its
    step.
    """
    # It compiles in half the time of all terms together.
    config = nano_config(store, dino=1.0)
    config.steps = 7
    share_run(monkeypatch, f"short on {request.param}")
    if request.param == "one device":
        on_one_device(monkeypatch)
    else:
        config.rows.per_step, config.mesh = 8, {"data": 2, "fsdp": 4}
    return config
