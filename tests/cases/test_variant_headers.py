"""Slices of one series whose headers differ in what a series has once, or contradict where the
slices lie.
"""

import pytest
from made import slices
from test_case_files import told
from test_variant_slices import trunk

from mmv_jax.readers.read import read_study

STORED = trunk(6, 24) + 1024
# Attributes of patient, study, series, equipment and scan, with two values of each.
ONCE = {
    "PatientWeight": (70, 95), "PatientSize": (1.7, 1.5), "PatientComments": ("a", "b"),
    "EthnicGroup": ("a", "b"), "OtherPatientIDs": ("1", "2"), "PregnancyStatus": (1, 2),
    "AdditionalPatientHistory": ("a", "b"), "AdmissionID": ("1", "2"), "StudyID": ("1", "2"),
    "StudyTime": ("101010", "111111"), "ReferringPhysicianName": ("A", "B"),
    "SeriesDate": ("20200101", "20200102"), "SeriesTime": ("101010", "111111"),
    "ContentDate": ("20200101", "20210101"), "OperatorsName": ("A", "B"),
    "PerformedProcedureStepID": ("1", "2"), "PositionReferenceIndicator": ("XY", "SN"),
    "SoftwareVersions": ("1", "2"), "Laterality": ("L", "R"), "GantryDetectorTilt": (0.0, 15.0),
    "TableHeight": (100, 160), "RotationDirection": ("CW", "CC"), "SpiralPitchFactor": (1.0, 0.6),
    "DataCollectionDiameter": (500, 350), "ScanOptions": ("HELICAL", "AXIAL"),
    "EchoTrainLength": (1, 8), "RepetitionTime": (500, 3000), "SequenceName": ("a", "b"),
    "Units": ("BQML", "CNTS"), "LossyImageCompression": ("00", "01"), "PatientName": ("A^B", "C^D"),
    "ClinicalTrialSubjectID": ("1", "2"),
}  # fmt: skip


def codes(folder, **changes) -> list[str]:
    return told(read_study(slices(folder, 6, stored=lambda k: STORED[k], **changes)))


@pytest.mark.parametrize("keyword", ONCE)
def test_what_a_series_has_once_is_compared(tmp_path, keyword):
    first, second = ONCE[keyword]
    blocks = {"PatientID": "7", keyword: lambda k: first if k < 3 else second}
    assert codes(tmp_path / "a", **blocks) == ["mixed_settings"]
    one = {"PatientID": "7", keyword: lambda k: second if k == 4 else first}
    assert codes(tmp_path / "b", **one) == ["mixed_settings"]


def test_what_varies_within_a_scan_is_not_told(tmp_path):
    varying = {
        "XRayTubeCurrent": lambda k: 100 + k, "ExposureTime": lambda k: 500 + k,
        "WindowCenter": lambda k: 40 + k, "InstanceNumber": lambda k: k, "PatientID": "7",
        "AcquisitionNumber": lambda k: 1 + k // 3, "TableHeight": lambda k: 150 + 0.1 * k,
        "PatientName": lambda k: ("Doe^Jane", "JANE DOE")[k % 2], "PatientWeight": 70,
        "ContentTime": lambda k: f"10101{k}", "SliceThickness": 1.25,
    }  # fmt: skip
    assert codes(tmp_path / "a", **varying) == []


PLACES = {
    "locations": ({"SliceLocation": lambda k: float(k)}, []),
    "locations that fall": ({"SliceLocation": lambda k: 100.0 - k}, []),
    "one location": ({"SliceLocation": 5.0}, ["odd_header"]),
    "other steps": ({"SliceLocation": lambda k: 2.0 * k}, ["odd_header"]),
    "exchanged": ({"SliceLocation": lambda k: [0.0, 1, 3, 2, 4, 5][k]}, ["odd_header"]),
    "a block turned": ({"SliceLocation": lambda k: [0.0, 1, 2, 5, 4, 3][k]}, ["odd_header"]),
    "overlap": ({"SliceThickness": 2.5}, []),
    "too thick": ({"SliceThickness": 5.0}, ["odd_spacing"]),
    "gaps": ({"SliceThickness": 0.2}, ["odd_spacing"]),
    "tilt": ({"GantryDetectorTilt": 15.0}, ["odd_header"]),
    "one UID": ({"SOPInstanceUID": "1.2.3"}, ["odd_header"]),
    "a UID twice": ({"SOPInstanceUID": lambda k: f"1.2.{max(k, 1)}"}, ["odd_header"]),
    "the flag of one": ({"BurnedInAnnotation": lambda k: "YES" if k == 4 else "NO"},
                        ["mixed_settings", "burnt_in"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_headers_that_contradict_the_slices_are_told(tmp_path, name):
    changes, expected = PLACES[name]
    assert codes(tmp_path / "a", **changes) == expected
