"""Claims of file and manifest against each other and against the voxels: spacing, Hounsfield units,
shapes.
"""

import math

import numpy as np
import pytest

from mmv_jax.readers.image import against_hu, settled_spacing, settled_unit
from mmv_jax.readers.refused import Refused

NAN = float("nan")
RNG = np.random.default_rng(0)
HU = RNG.normal(-300, 500, (20, 30, 30)).astype(np.int16).clip(-1024, 3000)


def code_of(function, *claims) -> str:
    with pytest.raises(Refused) as refused:
        function(*claims)
    return refused.value.code


def test_the_header_wins_and_the_manifest_fills_in():
    assert settled_spacing((2.0, 0.7, 0.7), 0.71) == (2.0, 0.7, 0.7)
    filled = settled_spacing((NAN, NAN, NAN), 0.5)
    assert math.isnan(filled[0])
    assert filled[1:] == (0.5, 0.5)
    assert math.isnan(settled_spacing((NAN, NAN, NAN), None)[1])


def test_a_contradiction_of_spacings_is_refused():
    assert code_of(settled_spacing, (2.0, 0.7, 0.7), 0.8) == "spacing_mismatch"
    assert code_of(settled_spacing, (NAN, 0.7, 0.9), 0.7) == "spacing_mismatch"


@pytest.mark.parametrize("mm", [0.0, -1.0, 60.0, math.inf, 1e-7])
def test_an_absurd_spacing_is_refused_wherever_it_stands(mm):
    assert code_of(settled_spacing, (1.0, mm, 1.0), None) == "bad_spacing"
    assert code_of(settled_spacing, (NAN, NAN, NAN), mm) == "bad_spacing"


def test_hu_is_believed_only_where_claimed_and_possible():
    assert settled_unit(HU, "raw", "HU") == "HU"
    assert settled_unit(HU, "HU", None) == "HU"
    assert settled_unit(HU, "raw", None) == "raw"
    assert settled_unit(HU, "HU", "8 bit, windowed") == "raw"


IMPOSSIBLE = {
    "windowed to 8 bits": ("not_hu", np.clip((HU + 1000) / 8, 0, 255).astype(np.uint8)),
    "without its intercept": ("not_hu", HU + 1024),
    "all far below water": ("not_hu", HU - 5000),
    "the intercept applied twice": ("rescaled_twice", HU.astype(np.int32) - 1024),
}


@pytest.mark.parametrize("code, voxels", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_be_hu_is_refused_where_the_manifest_claims_it_and_raw_where_the_header_does(
    code, voxels
):
    assert code_of(settled_unit, voxels, "raw", "HU") == code
    assert settled_unit(voxels, "HU", None) == "raw"


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024, -8192])
def test_padding_outside_the_field_of_view_is_no_contradiction(padding):
    voxels = HU.copy()
    voxels[:, :12] = padding
    assert against_hu(voxels) is None


def test_the_real_volumes_can_be_hu(real_data):
    from mmv_jax.manifests.manifest import read_manifest
    from mmv_jax.readers.read import read_study

    lines = [
        line
        for line in read_manifest(real_data / "ct.csv").lines
        if line.unit == "HU" and not line.path.is_dir()
    ]
    assert {read_study(line.path, unit="HU").unit for line in lines} == {"HU"}
    for line in read_manifest(real_data / "lidc.csv").lines[::40]:
        assert read_study(line.path, unit="HU").unit == "HU"


def test_a_shape_has_two_values(real_data):
    assert settled_unit((HU > 0).astype(np.uint8), "raw", "shape") == "shape"
    assert settled_unit((HU > 0).astype(np.uint8) * 255, "raw", "shape") == "shape"
    assert code_of(settled_unit, HU, "raw", "shape") == "not_binary"
    assert code_of(settled_unit, (HU > 0).astype(np.uint8) + 1, "raw", "shape") == "not_binary"
