"""Phantoms of three women at 0.5 mm a pixel, their store, and a small model that was fitted for
three steps.
"""

from pathlib import Path

import planted  # noqa: F401 - it adds the engine "here"
import pytest
from bac_small import share_step, small_config

from mmv_jax.bac.fit import fit
from mmv_jax.phantom.write import write_phantoms
from mmv_jax.store.ingest import ingest


@pytest.fixture(scope="session")
def women(tmp_path_factory) -> Path:
    """The folder of the phantoms, with manifest.csv; every woman has calcification."""
    out = tmp_path_factory.mktemp("bac") / "phantoms"
    write_phantoms(
        out,
        ["breast"],
        3,
        2,
        workers=1,
        bac=1.0,
        breast_pixel_mm=0.5,
        breast_rows=280,
        breast_columns=200,
    )
    return out


@pytest.fixture(scope="session")
def store(women) -> Path:
    path = women.parent / "store"
    report = ingest([women / "manifest.csv"], path, engine="here")
    assert report.ok
    return path


@pytest.fixture(scope="session")
def fitted(store) -> Path:
    """The workdir of the fitted model."""
    workdir = store.parent / "fit"
    with pytest.MonkeyPatch.context() as patch:
        share_step(patch)
        fit(small_config(store), workdir)
    return workdir
