"""Names of people, postcodes and record numbers under headers that do not say so; fill in images of
any unit.
"""

import numpy as np
import pytest
from made import nifti
from test_case_files import told
from test_variant_tables import chosen
from test_variant_tables import told as told_of_column

from mmv_jax.readers.fill import without_raw_fill
from mmv_jax.readers.read import read_study

PEOPLE = (
    ("Anna Schmidt", "Peter Sample"), ("Jane Doe", "John Roe"), ("ANNA SCHMIDT", "PETER SAMPLE"),
    ("anna schmidt", "peter meyer"), ("Schmidt Anna", "Meyer Peter"), ("Schmidt A", "Meyer P"),
    ("Anna S.", "Peter M."), ("A Schmidt", "P Meyer"), ("Maria de la Cruz", "Ludwig van Sample"),
    ("Jean-Luc Sample", "Anne-Marie Sample"), ("Anna Schmidt, MD", "Peter Meyer, PhD"),
    ("Müller", "Schmidt"), ("Anna", "Peter"), ("Xyla Qort", "Bram Zzyx"), ("王伟", "李娜"),
    ("Björn Åström", "Søren Qvist"), ("Иван Петров", "Анна Иванова"), ("normal", "Anna Schmidt"),
    ("田中 太郎", "佐藤 花子"), ("Ngozi Okonkwo", "Chidi Adeyemi"),
)  # fmt: skip
CODES = (
    ("80331", "80333"), ("80331.0", "80333.0"), ("410037", "410074"), ("99998", "100001"),
    ("75001 Paris", "75002 Paris"), ("D-80331", "D-80333"), ("MA 02139", "MA 02140"),
    ("02139-4307", "02140-4307"), ("100-0001", "100-0002"), ("CH-8001", "CH-8002"),
)  # fmt: skip
NOBODY = (
    ("No Finding", "Pleural Effusion"), ("Lung Opacity", "Support Devices"), ("0", "1"),
    ("Left Upper Lobe", "Right Lower Lobe"), ("GE Healthcare", "Siemens Healthineers"),
    ("Wilson Disease", "No Finding"), ("COVID-19, ARDS", "SARS"), ("Effusion, Left", "Normal"),
    ("F", "M"), ("PA", "AP"), ("DWI ADC", "FLAIR SWI"), ("benign", "malignant"), ("B30f", "B70f"),
    ("Head First Supine", "Feet First Prone"), ("Grade I", "Grade II"), ("1024", "2048"),
    ("Black African American", "Native Hawaiian"), ("Squamous Cell Carcinoma", "Small Cell"),
    ("mark", "max"), ("min", "max"), ("Aortic enlargement", "Rib fracture"), ("35", "81"),
)  # fmt: skip


@pytest.mark.parametrize("name", ["code", "area", "ref", "c1"])
@pytest.mark.parametrize("values", PEOPLE + CODES, ids=lambda pair: pair[0])
def test_people_and_codes_stay_behind_under_any_header(values, name):
    assert chosen(list(values), name) == ({}, [name])


@pytest.mark.parametrize("values", NOBODY, ids=lambda pair: pair[0])
def test_findings_devices_and_settings_name_nobody(values):
    assert list(chosen(list(values))[0]) == ["c1"]
    assert told_of_column("c1", list(values) * 9) == []


@pytest.mark.parametrize("name", ["volume_mm3", "px_left_lung", "platelets", "area_mm2"])
def test_measurements_of_five_and_six_digits_are_carried(name):
    assert chosen([f"{n}" for n in range(31_000, 91_000, 1503)], name)[0] == {name: float}


def test_an_area_that_patients_do_not_share_is_a_measurement():
    assert chosen([f"{n}" for n in range(31_000, 91_000, 1503)], "area")[0] == {"area": float}


@pytest.mark.parametrize(
    "values, kind",
    [
        (["Xyla Qort", "Bram Zzyx", "normal"], str),
        (["8001", "8002", "3011", "1213", "6003"], float),
    ],
)
def test_what_may_name_someone_is_told(values, kind):
    lines = told_of_column("c1", values * 3, kind)
    assert [code for _, code in lines] == ["may_name_someone"]


# ---- fill


def unit_image(fill: float, kind=np.float32) -> np.ndarray:
    image = np.random.default_rng(0).random((24, 24, 12)).astype(kind)
    image[:3] = fill
    return image


@pytest.mark.parametrize("fill", [-1, -2, -1000, -1024, -9999, 9999, 999, 255, 32_767, 1e6])
def test_fill_outside_an_image_of_fractions_is_set_to_its_lowest(tmp_path, fill):
    image = unit_image(fill)
    study = read_study(nifti(tmp_path / "a.nii", image))
    rest = image[3:]
    assert (study.voxels.min(), study.voxels.max()) == (rest.min(), rest.max())
    assert told(study) == ["fill_values"]


@pytest.mark.parametrize("fill", [-1000, -9999, -4096])
def test_negative_fill_of_whole_numbers(tmp_path, fill):
    image = np.random.default_rng(0).integers(0, 900, (24, 24, 12)).astype(np.int16)
    image[:3] = fill
    study = read_study(nifti(tmp_path / "a.nii", image))
    assert study.voxels.min() == image[3:].min() and told(study) == ["fill_values"]


def test_fill_at_both_ends():
    image = unit_image(-1000)
    image[3:5] = 9999
    assert 0 <= without_raw_fill(image).min() <= without_raw_fill(image).max() < 1


@pytest.mark.parametrize(
    "make",
    [
        lambda v: v * 2 - 1,  # of -1 to 1
        lambda v: (v - v.mean()) / v.std(),
        lambda v: np.where(v < 0.3, 0, 0.6 + 0.4 * v),  # black around a brain
        lambda v: np.where(v < 0.3, -0.7, 0.8 + v),  # the same, standardised
        lambda v: np.where(v > 0.99, 1, 0.4 * v),  # a saturated marker
        lambda v: v.astype(np.float32) ** 8 * 50,  # the long tail of PET
        lambda v: np.rint(v * 3) - 1,  # few values
    ],
    ids=["signed", "z-scores", "black", "standardised", "marker", "tail", "few"],
)
def test_images_without_fill_stay_as_they_are(make):
    voxels = make(np.random.default_rng(0).random((24, 24, 12))).astype(np.float32)
    assert without_raw_fill(voxels) is voxels
