import pytest

from mmv_jax.phantom.patient import draw_patient, make_dials
from mmv_jax.phantom.radiograph import radiograph_grid
from mmv_jax.phantom.thorax import ct_grid, paint_thorax

EVERYTHING = make_dials(
    pneumothorax=1.0, effusion=1.0, nodule=1.0, chest_tube=1.0, nodule_mm=(16.0, 30.0)
)


@pytest.fixture(scope="session")
def ill():
    """A patient with every finding."""
    return draw_patient(3, 4, EVERYTHING)


@pytest.fixture(scope="session")
def volume(ill):
    return paint_thorax(ill, ct_grid(4.0))


@pytest.fixture(scope="session")
def columns(ill):
    """The same patient on the beam's grid."""
    return paint_thorax(ill, radiograph_grid(128))
