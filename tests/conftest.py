"""Strict while testing: no silent broadcasting of ranks, eight virtual devices, warnings are errors
(setup.cfg).
"""

import os
from pathlib import Path

import hypothesis
import jax
import pytest

# Nearly all the time of these tests is the CPU compiler's, and what it makes runs for moments. Told
# to optimise nothing it takes a fifth: a step of all objectives is compiled in 5 seconds instead of
# 28. Read when the first program is compiled, here and in every process that a test starts, so that
# numbers which are compared were made alike. The last word on a flag counts: what is set already
# stands.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
os.environ["XLA_FLAGS"] = (
    f"{QUICK} --xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
)

# Machines are shared: how long an example takes says nothing of the code.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real studies beside the checkout; tests that need it skip where it is
    absent.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real studies are not at {folder}")
    return folder
