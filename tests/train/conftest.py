"""One store on disk and one config for the tests of training: eight planar and eight volumetric
studies, a row of 128 tokens.
"""

from pathlib import Path

import pytest
from nano import nano_config, write_studies

from mmv_jax.store.read import Store
from mmv_jax.train.loop import make_rows


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    return write_studies(tmp_path_factory.mktemp("studies") / "store")


@pytest.fixture(scope="session")
def batch(store):
    """Two packed rows that have what every objective asks for."""
    return make_rows(Store.open(store), nano_config(store)).batch(0)
