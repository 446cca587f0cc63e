"""Manifests of folders and of data sets: small trees in the published layouts, listed and read
back.
"""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from dicom_files import ct_slice, radiograph, save, stored_volume, write_series
from PIL import Image
from test_volume import nifti, write

from mmv_jax.errors import UserError
from mmv_jax.manifests.listing import write_manifest_of
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.manifests.published import split_of
from mmv_jax.readers.read import read_study
from mmv_jax.readers.refused import Refused


def listed(kind: str, root: Path, out: Path) -> dict:
    """Writes a manifest, reads it back, and gives its lines by study_id."""
    count = write_manifest_of(kind, root, out)
    lines, refused = read_manifest(out)
    assert refused == []
    assert len(lines) == count
    assert all(line.path.exists() for line in lines)
    return {line.study_id: line for line in lines}


def touch(path: Path, data: bytes = b"image") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def png(path: Path, size: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(size * size, dtype=np.uint8).reshape(size, size)).save(path, "PNG")


def test_a_folder_is_listed_by_content(tmp_path):
    root = tmp_path / "data"
    stored = stored_volume()
    write_series(root / "ct", stored, PatientID="p1")
    save(
        radiograph(stored[0].astype(np.uint16), PatientID="p2", BodyPartExamined="CHEST"),
        root / "front",
    )
    save(radiograph(stored[1].astype(np.uint16), PatientID="p2"), root / "hand")
    png(root / "sub-07" / "a.dat")
    png(root / "sub-07" / "a_lung_mask.dat")
    write(nifti(), root / "v.nii.gz")
    write(nifti(), root / "v_seg.nii.gz")
    touch(root / "notes.txt")
    (tmp_path / "out").mkdir()
    lines = listed("folder", root, tmp_path / "out" / "m.csv")
    found = {
        study: (line.modality, line.patient_id, set(line.masks)) for study, line in lines.items()
    }
    assert found == {
        "ct": ("CT", "p1", set()),
        "front": ("CXR", "p2", set()),
        "hand": ("XR", "p2", set()),
        "sub-07/a.dat": ("picture", "sub-07", {"lung"}),
        "v.nii.gz": ("volume", "v.nii.gz", {"region"}),
    }
    assert np.array_equal(read_study(lines["ct"].path).voxels, stored - 1024)


def test_a_link_to_nothing_and_a_pipe_are_passed_over(tmp_path):
    png(tmp_path / "images" / "here.png")
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    assert set(listed("folder", tmp_path / "images", tmp_path / "m.csv")) == {"here.png"}


def test_a_mask_belongs_to_the_longest_name_it_begins_with(tmp_path):
    for name in ("heart", "heart_2", "heart_2_mask"):
        png(tmp_path / "data" / f"{name}.png")
    lines = listed("folder", tmp_path / "data", tmp_path / "m.csv")
    assert {study: set(line.masks) for study, line in lines.items()} == {
        "heart.png": set(),
        "heart_2.png": {"region"},
    }


def test_two_stacked_series_in_one_directory_are_two_lines(tmp_path):
    stored = stored_volume()
    write_series(tmp_path / "data", stored, SeriesInstanceUID=lambda k: f"1.2.{k // 4}")
    write_manifest_of("folder", tmp_path / "data", tmp_path / "m.csv")
    found = [read_study(line.path).voxels for line in read_manifest(tmp_path / "m.csv").lines]
    assert [len(voxels) for voxels in found] == [4, 4]
    assert np.array_equal(np.concatenate(found), stored - 1024)
    with pytest.raises(Refused, match="several_series"):
        read_study(tmp_path / "data")


def test_single_slices_of_several_series_are_listed_file_by_file(tmp_path):
    (tmp_path / "data").mkdir()
    for n in range(3):
        save(
            ct_slice(stored_volume(1)[0], n, SeriesInstanceUID=f"1.2.{n}"),
            tmp_path / "data" / f"{n}",
        )
    assert len(listed("folder", tmp_path / "data", tmp_path / "m.csv")) == 3


def test_the_patients_of_a_folder_are_split_and_never_across(tmp_path):
    splits = [split_of(f"patient {n}") for n in range(2000)]
    assert {split: splits.count(split) for split in set(splits)} == pytest.approx(
        {"train": 1600, "val": 200, "test": 200}, rel=0.2
    )


def test_an_empty_folder_and_no_folder_are_one_clear_error(tmp_path):
    for root, words in ((tmp_path, "no image"), (tmp_path / "nowhere", "not a folder")):
        with pytest.raises(UserError, match=words):
            write_manifest_of("folder", root, tmp_path / "m.csv")


def test_mimic_cxr(tmp_path):
    root = tmp_path / "mimic-cxr-jpg"
    images = [
        ("10000032", "50414267", "02aa804e", "train"),
        ("10000032", "50414267", "174413ec", "train"),
        ("11000566", "52000001", "68b5c4b1", "validate"),
    ]
    split = (
        "dicom_id,study_id,subject_id,split\n"
        + "".join(f"{i},{s},{p},{x}\n" for p, s, i, x in images)
        + "gone,5,10000032,test\n"
    )
    touch(root / "mimic-cxr-2.0.0-split.csv.gz", gzip.compress(split.encode()))
    metadata = (
        "dicom_id,subject_id,study_id,ViewPosition\n"
        "02aa804e,10000032,50414267,PA\n"
        "174413ec,10000032,50414267,LATERAL\n"
    )
    touch(root / "mimic-cxr-2.0.0-metadata.csv.gz", gzip.compress(metadata.encode()))
    findings = (
        "subject_id,study_id,Atelectasis,Edema,No Finding,Pleural"
        " Effusion\n10000032,50414267,1.0,-1.0,,0.0\n"
    )
    touch(root / "mimic-cxr-2.0.0-chexpert.csv.gz", gzip.compress(findings.encode()))
    for patient, study, image, _ in images[:2]:
        touch(root / f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg")
    # the DICOM release has the same tree
    touch(root / "files/p11/p11000566/s52000001/68b5c4b1.dcm")
    lines = listed("mimic-cxr", root, tmp_path / "m.csv")
    first, last = lines["02aa804e"], lines["68b5c4b1"]
    assert (first.patient_id, first.split, first.modality, first.labels["view"]) == (
        "10000032",
        "train",
        "CXR",
        "PA",
    )
    assert {
        name: first.labels.get(name)
        for name in ("atelectasis", "edema", "no_finding", "pleural_effusion", "fracture")
    } == {
        "atelectasis": "1",
        "edema": None,  # uncertain
        "no_finding": "0",
        "pleural_effusion": "0",
        "fracture": "0",
    }
    assert (last.split, last.path.suffix, last.labels) == ("val", ".dcm", {})
    assert len(lines) == 3


@pytest.mark.parametrize("has_test", [False, True])
def test_chexpert(tmp_path, has_test):
    root = tmp_path / "CheXpert-v1.0-small"
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema\n"

    def rows(split: str, patients: range) -> str:
        names = [
            f"CheXpert-v1.0-small/{split}/patient{p:05}/study1/view{v}_frontal.jpg"
            for p in patients
            for v in (1, 2)
        ]
        for name in names:
            touch(tmp_path / name)
        return header + "".join(f"{name},Female,68,Frontal,AP,,1.0,-1.0\n" for name in names)

    touch(root / "train.csv", rows("train", range(1, 60)).encode())
    touch(root / "valid.csv", rows("valid", range(100, 105)).encode())
    if has_test:
        touch(root / "test.csv", rows("test", range(200, 205)).encode())
    lines = listed("chexpert", root, tmp_path / "m.csv")
    splits = {line.split for study, line in lines.items() if study.startswith("train/")}
    assert splits == ({"train"} if has_test else {"train", "val"})
    assert lines["valid/patient00100/study1/view1_frontal.jpg"].split == (
        "val" if has_test else "test"
    )
    line = lines["train/patient00001/study1/view1_frontal.jpg"]
    assert (line.patient_id, line.labels["sex"], line.labels["age"], line.labels["view"]) == (
        "patient00001",
        "F",
        "68",
        "AP",
    )
    assert (line.labels["cardiomegaly"], line.labels.get("edema")) == ("1", None)


@pytest.mark.parametrize(
    "name, columns",
    [
        (
            "Data_Entry_2017.csv",
            (
                "Patient Gender,View"
                " Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
            ),
        ),
        (
            "Data_Entry_2017_v2020.csv",
            (
                "Patient Sex,View Position,OriginalImageWidth,OriginalImageHeight,"
                "OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
            ),
        ),
    ],
)
def test_nih_cxr14(tmp_path, name, columns):
    root = tmp_path / "nih"
    end = "," if columns.endswith(",") else ""
    text = f"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,{columns}\n"
    findings = "Cardiomegaly|Pleural_Thickening"
    text += f"00000001_000.png,{findings},0,1,058Y,M,PA,2048,2500,0.168,0.168{end}\n"
    text += f"00000002_000.png,No Finding,0,2,81,F,AP,2048,2048,0.171,0.171{end}\n"
    touch(root / name, text.encode())
    touch(root / "train_val_list.txt", b"00000001_000.png\n")
    touch(root / "test_list.txt", b"00000002_000.png\n")
    touch(root / "images_001" / "images" / "00000001_000.png")
    touch(root / "images_002" / "images" / "00000002_000.png")
    lines = listed("nih-cxr14", root, tmp_path / "m.csv")
    first, second = lines["00000001_000"], lines["00000002_000"]
    assert (
        first.labels["cardiomegaly"],
        first.labels["pleural_thickening"],
        first.labels["mass"],
    ) == ("1", "1", "0")
    assert (first.labels["age"], first.labels["sex"], first.labels["view"]) == ("58", "M", "PA")
    assert (first.split, second.split) == (split_of("1", test=0), "test")
    assert second.spacing_mm == pytest.approx(2 * 0.171)
    area = (first.spacing_mm * 1024) ** 2
    assert area == pytest.approx(2048 * 0.168 * 2500 * 0.168, rel=1e-3)
    assert "1" not in [second.labels[finding] for finding in ("mass", "hernia", "cardiomegaly")]


def test_ct_rate(tmp_path):
    root = tmp_path / "CT-RATE"
    names = ["train_1_a_1", "train_1_a_2", "train_2_b_1", "valid_1_a_1"]
    for name in names:
        split, patient, scan, _ = name.split("_")
        touch(
            root / f"dataset/{split}_fixed/{split}_{patient}/{split}_{patient}_{scan}/{name}.nii.gz"
        )
    for split, part in (("train", names[:3]), ("valid", names[3:])):
        labels = "VolumeName,Medical material,Lung nodule\n" + "".join(
            f"{name}.nii.gz,0,1\n" for name in part
        )
        touch(
            root / f"dataset/multi_abnormality_labels/{split}_predicted_labels.csv", labels.encode()
        )
    metadata = "VolumeName,RescaleIntercept,RescaleSlope,PatientSex,PatientAge\n" + "".join(
        f"{name}.nii.gz,-1024,1,M,067Y\n" for name in names
    )
    touch(root / "dataset/metadata/train_metadata.csv", metadata.encode())
    lines = listed("ct-rate", root, tmp_path / "m.csv")
    assert set(lines) == set(names)
    line = lines["train_1_a_2"]
    assert (line.patient_id, line.modality, line.unit) == ("train_1", "CT", "HU")
    assert line.labels == {"sex": "M", "age": "67", "medical_material": "0", "lung_nodule": "1"}
    assert lines["train_1_a_1"].split == line.split == split_of("train_1", test=0)
    assert lines["valid_1_a_1"].split == "test"


@pytest.mark.parametrize("kind", ["mimic-cxr", "chexpert", "nih-cxr14", "ct-rate"])
def test_a_missing_list_is_named(tmp_path, kind):
    with pytest.raises(UserError, match=r"\.(csv|txt)"):
        write_manifest_of(kind, tmp_path, tmp_path / "m.csv")


@pytest.mark.parametrize(
    "name, text, missing",
    [
        ("train.csv", "Image,Sex\n", "Path"),
        (
            "Data_Entry_2017.csv",
            "Image Index,Finding Labels,Patient ID,View Position\n",
            "Patient Age",
        ),
    ],
)
def test_a_list_without_a_column_is_named(tmp_path, name, text, missing):
    touch(tmp_path / name, text.encode())
    for other in ("train_val_list.txt", "test_list.txt"):
        touch(tmp_path / other)
    with pytest.raises(UserError, match=rf"\.csv has no column {missing}"):
        write_manifest_of(
            "chexpert" if name == "train.csv" else "nih-cxr14", tmp_path, tmp_path / "m.csv"
        )


def test_an_empty_spacing_of_nih_is_unknown(tmp_path):
    columns = (
        "Image Index,Finding Labels,Patient ID,Patient Age,View"
        " Position,OriginalImageWidth,OriginalImageHeight"
    )
    text = (
        f"{columns},OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y\n1.png,No"
        " Finding,1,81,AP,2048,2048,,\n"
    )
    touch(tmp_path / "nih" / "Data_Entry_2017.csv", text.encode())
    touch(tmp_path / "nih" / "train_val_list.txt", b"1.png\n")
    touch(tmp_path / "nih" / "test_list.txt")
    touch(tmp_path / "nih" / "images" / "1.png")
    assert listed("nih-cxr14", tmp_path / "nih", tmp_path / "m.csv")["1"].spacing_mm is None
