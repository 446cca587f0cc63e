"""Folders and tables that are plausible and wrong: what is a study, a mask, a patient, a split."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from dicom_files import ct_slice, radiograph, save
from hypothesis import given
from hypothesis import strategies as st
from made import body, chest, hounsfield, manifest, nifti, outside, png, ramp, slices, table, zipped
from pydicom.uid import generate_uid

from mmv_jax.errors import UserError
from mmv_jax.manifests.listing import write_manifest_of
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.manifests.published import age_in_years
from mmv_jax.manifests.spelling import one_spelling, spellings
from mmv_jax.readers.read import read_mask, read_study

EMPTY_ZIP = b"PK\5\6" + bytes(18)


def listed(root: Path, kind: str = "folder") -> tuple[dict, list[str]]:
    """(the lines of a folder's manifest by study_id, what was told)."""
    said: list[str] = []
    write_manifest_of(kind, root, root.parent / "m.csv", said.append)
    lines, refused = read_manifest(root.parent / "m.csv")
    assert not refused
    return {line.study_id: line for line in lines}, said


def volumes(root: Path, *names: str) -> Path:
    for name in names:
        is_mask = any(word in name for word in ("label", "mask", "seg", "anno"))
        voxels = (hounsfield() > 0).astype(np.uint8) if is_mask else hounsfield()
        nifti(root / name, voxels)
    return root


def masks_of(lines: dict) -> dict[str, set[str]]:
    return {study: set(line.masks) for study, line in lines.items()}


# ---- what is a study, and what a mask


def test_mask_names(tmp_path):
    root = volumes(tmp_path / "f", "1.2.826.17.nii.gz", "1.2.826.17_seg.nii.gz")
    volumes(root, "1.2.826.18.nii.gz", "1.2.826.18_lung_mask.nii.gz", "b-mask.nii", "b.nii")
    png(root / "view1.png", ramp())
    png(root / "view1_Mask.png", (ramp() > 90).astype(np.uint8))
    lines, _ = listed(root)
    assert masks_of(lines) == {
        "1.2.826.17.nii.gz": {"region"},
        "1.2.826.18.nii.gz": {"lung"},
        "b.nii": {"region"},
        "view1.png": {"region"},
    }
    for line in lines.values():
        for path in line.masks.values():
            assert read_mask(path, like=read_study(line.path)).max() == 1


def test_nnunet_layout(tmp_path):
    root = volumes(
        tmp_path / "f", "imagesTr/c_001_0000.nii.gz", "imagesTr/c_001_0001.nii.gz",
        "labelsTr/c_001.nii.gz", "imagesTs/c_002_0000.nii.gz", "labelsTs/c_002.nii.gz",
        "labelsTr/c_009.nii.gz",
    )  # fmt: skip
    lines, said = listed(root)
    assert len(lines) == 3
    assert set(map(frozenset, masks_of(lines).values())) == {frozenset({"region"})}
    channels = [lines[f"imagesTr/c_001_000{n}.nii.gz"] for n in (0, 1)]
    assert len({line.patient_id for line in channels}) == 1
    assert lines["imagesTs/c_002_0000.nii.gz"].split == "test"
    assert {line.split for line in channels} <= {"train", "val"}
    assert "Left out: 1 masks without an image." in said


def test_decathlon_layout(tmp_path):
    root = volumes(tmp_path / "f", "imagesTr/hip_1.nii.gz", "labelsTr/hip_1.nii.gz")
    volumes(root, "imagesTs/hip_2.nii.gz")
    for folder in ("imagesTr", "labelsTr"):  # what macOS leaves in the archives
        (root / folder / "._hip_1.nii.gz").write_bytes(b"\0\5\x16\7")
    (root / "dataset.json").write_text("{}")
    lines, _ = listed(root)
    assert masks_of(lines) == {"imagesTr/hip_1.nii.gz": {"region"}, "imagesTs/hip_2.nii.gz": set()}
    assert lines["imagesTs/hip_2.nii.gz"].split == "test"


def test_totalsegmentator_layout(tmp_path):
    parts = ("spleen", "liver")
    names = [f"s{n}/segmentations/{part}.nii.gz" for n in (1, 2) for part in parts]
    root = volumes(tmp_path / "f", "s1/ct.nii.gz", "s2/ct.nii.gz", *names)
    lines, _ = listed(root)
    assert masks_of(lines) == {f"s{n}/ct.nii.gz": set(parts) for n in (1, 2)}


def test_bids_layout(tmp_path):
    root = volumes(
        tmp_path / "f", "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz",
        "derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_space-FLAIR_label-lesion_mask.nii.gz",
        "derivatives/a/sub-02/anat/sub-02_dseg.nii.gz",
        "derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_desc-brain_mask.nii.gz",
        "derivatives/b/sub-01/ses-1/anat/sub-01_ses-1_desc-preproc_T1w.nii.gz",
    )  # fmt: skip
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t30\tF\nsub-02\tn/a\tM\n"
    )
    lines, said = listed(root)
    assert masks_of(lines) == {
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz": {"lesion"},
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz": set(),
        "sub-02/anat/sub-02_T1w.nii.gz": {"region"},
    }
    assert {line.patient_id for line in lines.values()} == {"sub-01", "sub-02"}
    assert lines["sub-02/anat/sub-02_T1w.nii.gz"].labels == {"sex": "M"}
    assert "1 derived images of BIDS" in said[0]
    assert "1 masks without an image" in said[0]  # whose image is not clear


@pytest.mark.parametrize(
    "image, mask",
    [
        ("images/1.nii", "masks/1_mask.nii"),
        ("images/train/1.nii", "masks/train/1.nii"),
        ("train/images/1.nii", "train/labels/1.nii"),
        ("c0/imaging.nii", "c0/segmentation.nii"),  # KiTS
        ("volume-0.nii", "segmentation-0.nii"),  # LiTS
        ("imgs/1.nii", "annotations/1.nii"),
    ],
)
def test_other_layouts(tmp_path, image, mask):
    lines, _ = listed(volumes(tmp_path / "f", image, mask))
    assert masks_of(lines) == {image: {"region"}}


def test_brats_layout(tmp_path):
    names = [f"p1/B_001_{part}.nii.gz" for part in ("flair", "t1", "seg")]
    lines, _ = listed(volumes(tmp_path / "f", *names))
    assert list(masks_of(lines).values()) == [{"region"}] * 2
    assert len({line.patient_id for line in lines.values()}) == 1


def test_flat_export(tmp_path):
    root = slices(tmp_path / "f", 5, SeriesInstanceUID=generate_uid())
    uid = generate_uid()
    for k in range(4):
        scan = ct_slice(body(seed=k + 50), k, SeriesInstanceUID=uid, PixelSpacing=[2.0, 2.0])
        save(scan, root / f"x{k}")
    scout = ct_slice(body(), 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.SeriesInstanceUID = generate_uid()
    save(scout, root / "scout")
    lines, _ = listed(root)
    found = {read_study(line.path).voxels.shape[0] for line in lines.values()}
    assert (len(lines), found) == (3, {1, 4, 5})


def test_linked_and_zipped(tmp_path):
    root = tmp_path / "f"
    png(root / "a.png")
    png(tmp_path / "elsewhere" / "b.png")
    (root / "linked").symlink_to("../elsewhere")
    zipped(root / "slice.dcm.gz", save(ct_slice(body(), 0), tmp_path / "s.dcm").read_bytes())
    (root / "more.zip").write_bytes(EMPTY_ZIP)
    (root / "README").write_text("text")
    lines, said = listed(root)
    assert set(lines) == {"a.png"}
    assert said[0] == "Left out: 1 .gz files, 1 .zip files, 1 linked folders, 1 other files."


# ---- CT-RATE, and ages


def ct_rate(root: Path, volumes: dict[str, np.ndarray], no_chest=()) -> Path:
    for path, voxels in volumes.items():
        nifti(root / "dataset" / path, voxels)
    names = sorted({Path(path).name for path in volumes})
    people = [{"VolumeName": n, "PatientSex": "F", "PatientAge": "045Y"} for n in names]
    about = root / "dataset" / "metadata"
    table(about / "train_metadata.csv", people)
    found = root / "dataset" / "multi_abnormality_labels" / "train_predicted_labels.csv"
    table(found, [{"VolumeName": n, "Cardiomegaly": 0} for n in names])
    (about / "no_chest_train.txt").write_text("".join(f"{n}\n" for n in no_chest))
    return root


def test_ct_rate_no_chest(tmp_path):
    paths = [f"train_fixed/train_{n}/train_{n}_a/train_{n}_a_1.nii.gz" for n in (1, 2)]
    root = ct_rate(tmp_path / "f", dict.fromkeys(paths, hounsfield()), ["train_2_a_1.nii.gz"])
    lines, said = listed(root, "ct-rate")
    assert set(lines) == {"train_1_a_1"}
    assert "1 volumes that show no chest" in said[0]


def test_ct_rate_releases(tmp_path):
    raw = hounsfield() + 1024
    raw[outside()] = -2000
    name = "train_1/train_1_a/train_1_a_{}.nii.gz"
    made = {f"train_fixed/{name.format(n)}": hounsfield() for n in (1, 2)}
    root = ct_rate(tmp_path / "f", {f"train/{name.format(1)}": raw, **made})
    lines, said = listed(root, "ct-rate")
    assert {line.patient_id for line in lines.values()} == {"train_1"}  # both reconstructions
    assert len(lines) == 2
    assert "1 of the first release" in said[0]
    study = read_study(lines["train_1_a_1"].path, unit="HU")
    assert study.voxels.min() > -1100


def test_ages():
    texts = ("058Y", "018M", "012D", "010W", "414", "058", "1000Y", "-5", "old")
    assert [age_in_years(text) for text in texts] == [
        "58", "1.5", "0.033", "0.19", "", "58", "", "", "",
    ]  # fmt: skip


# ---- whose, and in which split


@pytest.mark.parametrize(
    "name",
    [
        "Calc-Training_P_00001_LEFT_{view}_1", "P7_L_{view}", "0042-RIGHT-{view}",
        "Mass-Test_P_00001_RIGHT_{view}",
    ],
)  # fmt: skip
def test_patient_per_view(tmp_path, name):
    for view in ("CC", "MLO"):
        scan = radiograph(chest(), Modality="MG", PatientID=name.format(view=view))
        (tmp_path / "f" / view).mkdir(parents=True)
        save(scan, tmp_path / "f" / view / "1.dcm")
    lines, _ = listed(tmp_path / "f")
    assert len({(line.patient_id, line.split) for line in lines.values()}) == 1


def test_one_patient_id(tmp_path):
    (tmp_path / "f").mkdir()
    for n in range(4):
        save(radiograph(chest() + n, PatientID="ANONYMOUS"), tmp_path / "f" / f"{n}.dcm")
    said = " ".join(listed(tmp_path / "f")[1])
    assert "All studies are of one patient: no test set can come of it." in said
    assert "4 studies of 1 patients" in said


def test_patient_spelling(tmp_path):
    pairs = [("M\u00fc-7", "Mu\u0308-7"), ("P001", "p001"), ("1", "01"), ("  x", "X")]
    rows = [
        {"patient_id": patient, "split": split}
        for pair in pairs
        for patient, split in zip(pair, ("train", "test"))
    ]
    _, refused = read_manifest(manifest(tmp_path, [row | {"path": "a"} for row in rows]))
    assert [one.code for one in refused] == ["patient_across_splits"] * 8


@given(st.text("aBüß19", min_size=1, max_size=6), st.sampled_from(["NFC", "NFD"]), st.booleans())
def test_any_spelling_is_one(patient, form, upper):
    other = unicodedata.normalize(form, patient)
    other = other.upper() if upper and "ß" not in patient else other
    assert one_spelling(other) == one_spelling(patient)
    assert other in {*spellings(patient), patient}


def test_added_columns_are_not_overwritten(tmp_path):
    png(tmp_path / "f" / "a.png")
    out = tmp_path / "m.csv"
    write_manifest_of("folder", tmp_path / "f", out)
    write_manifest_of("folder", tmp_path / "f", out)  # nothing was added: written anew
    before = out.read_text().replace("modality", "modality,mine", 1)
    out.write_text(before)
    with pytest.raises(UserError, match="mine"):
        write_manifest_of("folder", tmp_path / "f", out)
    assert out.read_text() == before


# ---- cells

HEAD = "study_id,path,patient_id,split,modality"


@pytest.mark.parametrize(
    "header, cell", [("unit", "hu"), ("Unit", "HU"), ("UNIT", "Hounsfield units"), ("unit", "[HU]")]
)
def test_unit_words(tmp_path, header, cell):
    path = manifest(tmp_path, [{"path": "a.nii", header: cell}])
    assert read_manifest(path).lines[0].unit == "HU"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_csv_dialects(tmp_path, separator, encoding):
    text = f"{HEAD}\na,a.png,M\u00fc-7,train,CXR\n".replace(",", separator)
    (tmp_path / "m.csv").write_bytes(text.encode(encoding))
    ((line,), refused) = read_manifest(tmp_path / "m.csv")
    assert (line.patient_id, refused) == ("M\u00fc-7", [])


def test_what_cannot_be_decoded_is_told_with_its_line(tmp_path):
    (tmp_path / "m.csv").write_bytes(
        f"{HEAD}\nb,b,1,train,CT\na,a,M\u00fc,train,CT\n".encode("latin-1")
    )
    with pytest.raises(UserError, match=r"line 3.*Latin-1"):
        read_manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text(f'{HEAD}\nb,b,1,train,CT\na,"a"b,c,train,CT\n')
    with pytest.raises(UserError, match="line 3"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("values", [("0", "1"), ("yes", "no"), ("TRUE", "FALSE"), ("1", "")])
def test_has_mask_column(tmp_path, values):
    rows = [{"path": f"{n}.png", "has_mask": value} for n, value in enumerate(values)]
    lines, refused = read_manifest(manifest(tmp_path, rows))
    assert (refused, [line.masks for line in lines]) == ([], [{}, {}])
    assert lines[0].labels == {"has_mask": values[0]}


def test_mask_name_comma(tmp_path):
    path = manifest(tmp_path, [{"path": "a.png", "a,b_mask": "m.png"}])
    with pytest.raises(UserError, match="comma"):
        read_manifest(path)


def test_special_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rows = [{"path": "~/a.png"}, {"path": "a\0b.png"}, {"path": "~nobody-here/a.png"}]
    lines, refused = read_manifest(manifest(tmp_path, rows))
    assert lines[0].path == tmp_path / "home" / "a.png"
    assert [(one.number, one.code) for one in refused] == [(3, "not_found")]
