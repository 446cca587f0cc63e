"""Strict while testing: no silent broadcasting of ranks, eight virtual devices, warnings are errors
(setup.cfg).
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

# Nearly all the time of these tests is the CPU compiler's, and what it makes runs for moments. Told
# to optimise nothing it takes a fifth: a step of all objectives is compiled in 5 seconds instead of
# 28. Read when the first program is compiled, here and in every process that a test starts, so that
# numbers which are compared were made alike. The last word on a flag counts: what is set already
# stands.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# XLA ends a process that sets a flag which it does not know, and jaxlib 0.11 knows this one no more
if jax.version.__version_info__ < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = (
    f"{QUICK} --xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
)

# Two workers share two cores: a thread of a pool that waits for the next one spins, and takes time
# from the other worker. The variables are for libraries and processes still to come; NumPy was
# imported above, or by a plug-in of pytest, with as many threads as there are cores.
for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(pool, "1")
threadpool_limits(1)

# The same small step is compiled by many tests, in both workers of pytest-xdist and in the
# processes that tests start. They share one cache, made by the first of them and removed by it at
# the end.
CACHE = "JAX_COMPILATION_CACHE_DIR"
OWNS_CACHE = CACHE not in os.environ
if OWNS_CACHE:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="mmv-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# JAX has read the environment already: it was imported above.
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Shapes and types of what JAX traces are checked: at tracing alone, so it costs little. If NumPy's
# code was wrapped too, its tests took a quarter longer, and the imports of each worker 20 s.
# `make test-full` wraps the whole package.
ROOT = Path(__file__).resolve().parents[1]
SHAPED = [f"mmv_jax.{room}" for room in ("models", "objectives", "ops", "train")]
install_import_hook(SHAPED, "beartype.beartype")


# Nothing that the imports of all tests make is garbage.
gc.disable()


def pytest_collection_finish():
    # Tracing makes many small objects; each collection would walk through all that was imported.
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


# Files that use what one of them makes go to one worker of pytest-xdist: a fit to mammograms, the
# step of a short run, fresh parameters.
TOGETHER = {
    "tests/bac/": "bac",
    "tests/train/test_short_runs.py": "short runs",
    "tests/train/test_run_in_bucket.py": "short runs",
    "tests/train/test_resume.py": "short runs",
    "tests/train/test_objective.py": "drawn",
    "tests/train/test_probe.py": "drawn",
    "tests/train/test_step.py": "drawn",
}
# Begun first: the last files are short ones then, and both workers end at the same time. Left to
# itself xdist begins with the files of many tests, and the longest have one or two.
LONGEST = (
    "bac",
    "short runs",
    "drawn",
    "tests/launch/test_launch.py",
    "tests/train/test_few_weights.py",
    "tests/train/test_watchdog.py",
    "tests/data/test_pipeline.py",
    "tests/store/test_ingest.py",
    "tests/ops/test_attention.py",
    "tests/train/test_begin.py",
    "tests/test_docs.py",
    "tests/evaluate/test_variants.py",
    "tests/models/test_decoders.py",
    "tests/preflight/test_preflight.py",
    "tests/test_experiments.py",
    "tests/evaluate/test_segmentation_heads.py",
    "tests/evaluate/test_foreign_tuning.py",
    "tests/test_before.py",
    "tests/train/test_loop.py",
    "tests/train/test_prolong.py",
    "tests/cases/test_case_mammograms.py",
    "tests/objectives/test_more_terms.py",
    "tests/store/test_workers.py",
    "tests/test_export_round_trips.py",
    "tests/train/test_meshes.py",
    "tests/models/test_encoder.py",
    "tests/models/test_remat.py",
    "tests/outcomes/test_analysis.py",
    "tests/test_parallel.py",
    "tests/models/test_public.py",
    "tests/phantom/test_write.py",
    "tests/store/test_levels.py",
    "tests/evaluate/test_run.py",
    "tests/evaluate/test_readout.py",
    "tests/train/test_phases.py",
    "tests/objectives/test_outside_term.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _assign_work_unit(self, node) -> None:
            first = next((name for name in LONGEST if name in self.workqueue), None)
            if first is not None:
                self.workqueue.move_to_end(first, last=False)
            super()._assign_work_unit(node)

        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            groups = (group for begin, group in TOGETHER.items() if file.startswith(begin))
            return next(groups, file)

    return Together(config, log)


def pytest_sessionfinish():
    if OWNS_CACHE:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


# Machines are shared: how long an example takes says nothing of the code. `make test-full` asks for
# the profile "full".
hypothesis.settings.register_profile("full", deadline=None, max_examples=150)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=25)
hypothesis.settings.load_profile("quick")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real studies beside the checkout; tests that need it skip where it is
    absent.
    """
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real studies are not at {folder}")
    return folder
