"""Data sets in their published layouts, of small made-up files: splits, patients, labels."""

from pathlib import Path

import pytest
from test_listing import listed, touch

from mmv_jax.errors import UserError
from mmv_jax.manifests.listing import write_manifest_of
from mmv_jax.manifests.manifest import read_manifest


def test_vindr_cxr_takes_what_two_of_three_readers_saw(tmp_path):
    root, header = tmp_path / "vindr-cxr", "image_id,rad_id,Cardiomegaly,Pleural effusion\n"
    votes = [("a", "R1", 1, 0), ("a", "R2", 1, 1), ("a", "R3", 0, 0), ("b", "R1", 0, 1)]
    train = header + "".join(",".join(map(str, line)) + "\n" for line in votes)
    touch(root / "annotations" / "image_labels_train.csv", train.encode())
    test = b"image_id,Cardiomegaly,Pleural effusion\nc,0,1\ngone,1,1\n"
    touch(root / "annotations" / "image_labels_test.csv", test)
    for name in ("train/a", "train/b", "test/c"):
        touch(root / f"{name}.dicom")
    lines = listed("vindr-cxr", root, tmp_path / "m.csv")
    assert {name: line.labels for name, line in lines.items()} == {
        "a": {"cardiomegaly": "1", "pleural_effusion": "0"},
        "b": {"cardiomegaly": "0", "pleural_effusion": "1"},
        "c": {"cardiomegaly": "0", "pleural_effusion": "1"},
    }
    assert lines["c"].split == "test"
    assert {lines[name].split for name in "ab"} <= {"train", "val"}


def test_rsna_pneumonia_lists_an_image_once_and_no_test_image(tmp_path):
    root, told = tmp_path / "rsna", []
    labels = b"patientId,x,y,width,height,Target\np1,,,,,0\np2,1,2,3,4,1\np2,5,6,7,8,1\n"
    classes = b"patientId,class\np1,No Lung Opacity / Not Normal\np2,Lung Opacity\n"
    touch(root / "stage_2_train_labels.csv", labels)
    touch(root / "stage_2_detailed_class_info.csv", classes)
    for name in ("stage_2_train_images/p1", "stage_2_train_images/p2", "stage_2_test_images/p3"):
        touch(root / f"{name}.dcm")
    assert write_manifest_of("rsna-pneumonia", root, tmp_path / "m.csv", told.append) == 2
    lines = {line.study_id: line for line in read_manifest(tmp_path / "m.csv").lines}
    assert lines["p1"].labels == {"pneumonia": "0", "reading": "other"}
    assert lines["p2"].labels == {"pneumonia": "1", "reading": "opacity"}
    assert "1 images of the challenge" in " ".join(told)
    assert "ChestX-ray14" in " ".join(told)


def test_vindr_mammo_keeps_the_views_of_an_examination_together(tmp_path):
    root = tmp_path / "vindr-mammo"
    text = (
        "study_id,series_id,image_id,laterality,view_position,height,width,"
        "breast_birads,breast_density,split\n"
    )
    for exam, split in [(f"e{n}", "training") for n in range(30)] + [("t", "test")]:
        for image, side, view, grade in (("1", "L", "CC", 2), ("2", "R", "MLO", 5)):
            name = f"{exam}-{image}"
            text += f"{exam},s,{name},{side},{view},10,10,BI-RADS {grade},DENSITY C,{split}\n"
            touch(root / "images" / exam / f"{name}.dicom")
    touch(root / "breast-level_annotations.csv", text.encode())
    lines = listed("vindr-mammo", root, tmp_path / "m.csv")
    assert len(lines) == 62
    assert all(lines[f"e{n}-1"].split == lines[f"e{n}-2"].split for n in range(30))
    assert {line.split for line in lines.values() if line.patient_id == "t"} == {"test"}
    assert {lines[f"e{n}-1"].split for n in range(30)} == {"train", "val"}
    assert lines["e0-2"].labels == {
        "view": "MLO", "laterality": "R", "birads": "5", "suspicious": "1", "breast_density": "C",
    }  # fmt: skip


@pytest.mark.parametrize("uncertain, cell", [("ignore", None), ("ones", "1"), ("zeros", "0")])
def test_uncertain_labels_are_a_written_choice(tmp_path, uncertain, cell):
    root, told = tmp_path / "CheXpert-v1.0-small", []
    for name in ("train", "valid"):
        image = f"CheXpert-v1.0-small/{name}/patient00001/study1/view1_frontal.jpg"
        touch(tmp_path / image)
        header = "Path,Sex,Age,Frontal/Lateral,AP/PA,Cardiomegaly,Edema\n"
        touch(root / f"{name}.csv", f"{header}{image},Female,68,Frontal,AP,1.0,-1.0\n".encode())
    # Of a second patient, since one in two splits is refused.
    listed_as = Path(root / "valid.csv")
    listed_as.write_text(listed_as.read_text().replace("patient00001", "patient00002"))
    touch(root / "valid" / "patient00002" / "study1" / "view1_frontal.jpg")
    out = tmp_path / "m.csv"
    write_manifest_of("chexpert", root, out, told.append, uncertain=uncertain)
    labels = [line.labels for line in read_manifest(out).lines]
    assert [(line["cardiomegaly"], line.get("edema")) for line in labels] == [("1", cell)] * 2
    assert f"2 labels are uncertain: written by --uncertain {uncertain}." in told


@pytest.mark.parametrize("name", ["vindr-cxr", "vindr-mammo", "rsna-pneumonia"])
def test_a_missing_list_is_named(tmp_path, name):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="csv"):
        write_manifest_of(name, tmp_path / "data", tmp_path / "m.csv")
