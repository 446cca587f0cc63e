"""Batches of what a plug-in defines: a worker process of Grain knows it too."""

import sys

import numpy as np
from memory_store import SHAPE, VIEWS, memory, random_studies

from mmv_jax import plugins
from mmv_jax.data.pipeline import Rows
from mmv_jax.plugins import load_plugins

# A store whose class exists nowhere but in the plug-in: a process that has not loaded the file
# cannot even receive it.
PLUGIN = """
from memory_store import Memory


class Doubled(Memory):
    def read_box(self, i, start, shape, *, mask=None, level=0):
        return 2 * super().read_box(i, start, shape, mask=mask, level=level)
"""


def test_a_worker_of_grain_loads_the_plugins(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_named", {})
    file = tmp_path / "doubled.py"
    file.write_text(PLUGIN)
    load_plugins([file])
    plain = memory(random_studies(6))
    columns = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    store = sys.modules["mmv_plugin_doubled"].Doubled(**columns)
    rows = Rows(store, **SHAPE, views=VIEWS, per_step=2, seed=1)
    here, there = (next(rows.batches(0, workers=workers)) for workers in (0, 1))
    assert here.keys() == there.keys()
    for name, array in here.items():
        np.testing.assert_array_equal(array, there[name], err_msg=name)
