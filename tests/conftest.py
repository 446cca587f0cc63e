"""Strict while testing: no silent broadcasting of ranks, eight virtual devices, warnings are errors (setup.cfg)."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real studies beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real studies are not at {folder}")
    return folder
