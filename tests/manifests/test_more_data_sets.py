"""More data sets in their published layouts, of placeholder files: splits, patients, labels."""

from pathlib import Path

import numpy as np
import pytest
from archives import pack
from dicom_files import stored_volume, write_series
from PIL import Image
from test_listing import listed, touch

from mmv_jax.errors import UserError
from mmv_jax.manifests.listing import DATASETS, write_manifest_of
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.readers.read import read_study


def table(path: Path, header: str, *lines: str) -> None:
    touch(path, "\n".join([header, *lines, ""]).encode())


def listing(kind: str, root: Path, out: Path, **options) -> tuple[dict, str]:
    """Lines by study_id, and what was told; all lines are accepted."""
    said: list[str] = []
    write_manifest_of(kind, root, out, said.append, **options)
    lines, refused = read_manifest(out)
    assert refused == []
    return {line.study_id: line for line in lines}, " ".join(said)


def test_padchest_reads_labels_and_zips(tmp_path):
    root = tmp_path / "padchest"
    pack(root / "0.zip", {"0/a.png": b"image", "0/b.png": b"image"})
    touch(root / "1" / "c.png")
    table(
        root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
        "ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,MethodLabel,Labels",
        "a.png,0,20140915,p1,1930.0,F,PA,Physician,\"['pleural effusion', ' scoliosis']\"",
        "b.png,0,20140915,p1,1930.0,F,L,RNN_model,['normal']",
        "c.png,1,20150101,p2,,M,PA,RNN_model,['exclude']",
        "gone.png,1,20150101,p2,,M,PA,RNN_model,['normal']",
    )
    lines, said = listing("padchest", root, tmp_path / "m.csv")
    assert set(lines) == {"a", "b", "c"}
    assert lines["a"].path == root / "0.zip::0/a.png"
    assert lines["a"].split == lines["b"].split
    found = lines["a"].labels
    assert (found["pleural_effusion"], found["scoliosis"], found["normal"]) == ("1", "1", "0")
    assert (found["age"], found["view"], found["read_by"]) == ("84", "PA", "Physician")
    assert lines["b"].labels["normal"] == "1"
    assert "normal" not in lines["c"].labels
    assert "1 images have no reading; 1 images of the list are not there." in said


def test_siim_acr_counts_any_mask_of_an_image(tmp_path):
    root = tmp_path / "siim"
    for name in ("1.2.a", "1.2.b", "1.2.c"):
        touch(root / "dicom-images-train" / "s" / "t" / f"{name}.dcm")
    header = "ImageId, EncodedPixels"
    table(root / "train-rle.csv", header, "1.2.a, -1", "1.2.b, 5 3", "1.2.b, 9 1", "1.2.d, -1")
    lines, said = listing("siim-acr", root, tmp_path / "m.csv")
    assert {study: line.labels["pneumothorax"] for study, line in lines.items()} == {
        "1.2.a": "0",
        "1.2.b": "1",
    }
    assert "Left out: 1 images that the list does not label." in said
    assert "ChestX-ray14" in said


READER = "<readingSession>{}</readingSession>"
NODULE = (
    "<unblindedReadNodule><noduleID>1</noduleID><characteristics><malignancy>{}</malignancy>"
    "</characteristics></unblindedReadNodule>"
)
SMALL = "<unblindedReadNodule><noduleID>2</noduleID></unblindedReadNodule>"


def test_lidc_takes_the_median_of_its_readers(tmp_path):
    root = tmp_path / "lidc"
    series = root / "LIDC-IDRI" / "LIDC-IDRI-0001" / "study" / "series"
    other = root / "LIDC-IDRI" / "LIDC-IDRI-0002" / "study" / "series"
    for folder in (series, other):
        for n in range(20):
            touch(folder / f"{n}.dcm")
    touch(root / "LIDC-IDRI" / "LIDC-IDRI-0001" / "radiograph" / "s" / "1.dcm")
    readers = [NODULE.format(4) + NODULE.format(2) + SMALL, NODULE.format(5), SMALL, ""]
    body = "".join(READER.format(nodules) for nodules in readers)
    touch(
        series / "069.xml",
        f'<LidcReadMessage xmlns="http://www.nih.gov">{body}</LidcReadMessage>'.encode(),
    )
    one = READER.format(NODULE.format(3)) + 3 * READER.format("")
    touch(
        other / "070.xml",
        f"<LidcReadMessage>{one}</LidcReadMessage>".encode(),
    )
    lines, said = listing("lidc-idri", root, tmp_path / "m.csv")
    found = {line.patient_id: line.labels for line in lines.values()}
    assert found == {
        "LIDC-IDRI-0001": {"readers": "4", "nodule": "1", "malignancy": "4.5"},
        "LIDC-IDRI-0002": {"readers": "4", "nodule": "0", "malignancy": "3"},
    }
    assert "Left out: 1 folders of radiographs. 0 series have no readings." in said


def test_cbis_ddsm_keeps_a_woman_of_both_lists_in_test(tmp_path):
    root = tmp_path / "cbis"
    header = (
        "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,"
        "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
    )
    views = {
        ("mass", "train"): [
            "P_00001,3,LEFT,CC,1,mass,4,MALIGNANT,4",
            "P_00001,3,LEFT,CC,2,mass,3,BENIGN,4",
        ],
        ("mass", "test"): ["P_00002,2,RIGHT,MLO,1,mass,2,BENIGN_WITHOUT_CALLBACK,4"],
        ("calc", "train"): ["P_00002,2,RIGHT,CC,1,calcification,2,BENIGN,4"],
        ("calc", "test"): [],
    }
    for (kind, split), lines in views.items():
        name = f"{kind.capitalize()}-{'Training' if split == 'train' else 'Test'}"
        rows = []
        for line in lines:
            patient, _, side, view, number = line.split(",")[:5]
            folder = f"{name}_{patient}_{side}_{view}"
            touch(root / "CBIS-DDSM" / folder / "study" / "series" / "1-1.dcm")
            touch(root / "CBIS-DDSM" / f"{folder}_{number}" / "study" / "crop" / "1-1.dcm")
            rows.append(f"{line},{folder}/1.2/1.3/000000.dcm,x,y")
        table(root / f"{kind}_case_description_{split}_set.csv", header, *rows)
    lines, said = listing("cbis-ddsm", root, tmp_path / "m.csv")
    assert {s: line.split for s, line in lines.items() if line.patient_id == "P_00002"} == {
        "Mass-Test_P_00002_RIGHT_MLO": "test",
        "Calc-Training_P_00002_RIGHT_CC": "test",
    }
    assert lines["Mass-Training_P_00001_LEFT_CC"].labels == {
        "view": "CC", "laterality": "L", "abnormality": "mass", "malignant": "1", "birads": "4",
        "breast_density": "3",
    }  # fmt: skip
    assert "1 women are in the published train and test sets: they count as test." in said


def test_embed_takes_the_findings_of_the_same_breast(tmp_path):
    root = tmp_path / "embed"
    images = {"l": ("e1", "L"), "r": ("e1", "R"), "n": ("e2", "L"), "q": ("e3", "R")}
    rows = []
    for name, (exam, side) in images.items():
        touch(root / "images" / "cohort_1" / "p1" / exam / f"{name}.dcm")
        rows.append(f"p1,{exam},/mnt/NAS/anon/cohort_1/p1/{exam}/{name}.dcm,2D,{side},CC,0.0")
    rows.append("p1,e1,/mnt/NAS/anon/cohort_1/p1/e1/c.dcm,cview,L,CC,0.0")
    header = "empi_anon,acc_anon,anon_dicom_path,FinalImageType,ImageLateralityFinal"
    header += ",ViewPosition,spot_mag"
    table(root / "tables" / "EMBED_OpenData_metadata.csv", header, *rows)
    table(
        root / "tables" / "EMBED_OpenData_clinical_reduced.csv",
        "empi_anon,acc_anon,side,asses,tissueden,path_severity",
        "p1,e1,L,S,2.0,0.0",
        "p1,e1,R,N,2.0,",
        "p1,e2,,A,5.0,",
        "p1,e3,B,B,4.0,",
        "p1,e3,L,M,4.0,1.0",
    )
    lines, said = listing("embed", root, tmp_path / "m.csv")
    found = {name: line.labels for name, line in lines.items()}
    assert {
        n: (f.get("birads"), f.get("cancer"), f.get("breast_density")) for n, f in found.items()
    } == {
        "l": ("4", "1", "B"),
        "r": ("1", "0", "B"),
        "n": ("0", None, None),
        "q": ("2", "0", "D"),
    }
    assert found["l"]["special_view"] == "0"
    assert "Left out: 1 images that are not 2D; 0 of the table are not there." in said


def test_deeplesion_is_read_in_hu(tmp_path):
    root = tmp_path / "deeplesion"
    hu = np.random.default_rng(0).integers(-1000, 900, (32, 32))
    for name in ("000001_01_01", "000002_01_01"):
        (root / "Images_png" / name).mkdir(parents=True)
        Image.fromarray((hu + 32768).astype(np.uint16)).save(root / "Images_png" / name / "109.png")
    header = (
        "File_name,Patient_index,Spacing_mm_px_,Lesion_diameters_Pixel_,Coarse_lesion_type,"
        "Possibly_noisy,Train_Val_Test,Patient_gender,Patient_age"
    )
    table(
        root / "DL_info.csv",
        header,
        '000001_01_01_109.png,1,"0.5, 0.5, 5","20.0, 8.0",-1,0,3,F,62',
        '000001_01_01_109.png,1,"0.5, 0.5, 5","30.0, 8.0",5,0,3,F,62',
        '000002_01_01_109.png,2,"0.5, 0.5, 5","30.0, 8.0",5,1,1,M,62',
    )
    lines, said = listing("deeplesion", root, tmp_path / "m.csv")
    line = lines["000001_01_01_109"]
    assert len(lines) == 1 and (line.split, line.unit, line.spacing_mm) == ("test", "HU+32768", 0.5)
    assert (line.labels["lesion"], line.labels["diameter_mm"]) == ("lung", "15")
    study = read_study(line.path, spacing_mm=line.spacing_mm, unit=line.unit)
    assert study.unit == "HU" and np.array_equal(study.voxels[0], hu)
    assert "1 slices that the list calls possibly noisy" in said


@pytest.mark.parametrize("uncertain, cell", [("ignore", None), ("zeros", "0")])
def test_merlin_has_its_splits_and_unknown_findings(tmp_path, uncertain, cell):
    root = tmp_path / "merlin"
    for name in ("AC1", "AC2"):
        touch(root / "merlin_data" / f"{name}.nii.gz")
    table(
        root / "zero_shot_findings_disease_cls.csv",
        "study id,ascites,renal_cyst",
        "AC1,1,-1",
        "AC2,0,0",
    )
    with pytest.raises(UserError, match=r"reports_final\.xlsx"):
        write_manifest_of("merlin", root, tmp_path / "m.csv")
    table(
        root / "reports_final.csv",
        "study id,Findings,Split,Few Shot",
        "AC1,text,train,0",
        "AC2,text,test,0",
    )
    lines, said = listing("merlin", root, tmp_path / "m.csv", uncertain=uncertain)
    assert {name: line.split for name, line in lines.items()} == {"AC1": "train", "AC2": "test"}
    assert lines["AC1"].labels["ascites"] == "1"
    assert lines["AC1"].labels.get("renal_cyst") == cell
    assert "names no patients" in said


def test_amos_holds_out_its_validation_images(tmp_path):
    root = tmp_path / "data"
    for place in (
        "imagesTr/amos_0001",
        "labelsTr/amos_0001",
        "imagesVa/amos_0507",
        "labelsVa/amos_0507",
        "imagesTs/amos_0003",
    ):
        touch(root / "amos22" / f"{place}.nii.gz")
    lines, said = listing("amos", root, tmp_path / "m.csv")
    assert {s: (line.modality, line.unit, set(line.masks)) for s, line in lines.items()} == {
        "amos_0001": ("CT", "HU", {"organs"}),
        "amos_0507": ("MR", None, {"organs"}),
    }
    assert lines["amos_0507"].split == "test" and lines["amos_0001"].split in ("train", "val")
    assert "Left out: 1 images without a mask." in said


def test_inspect_leaves_censored_outcomes_empty(tmp_path):
    root = tmp_path / "inspect"
    for name in ("PE1", "PE2"):
        touch(root / "CTPA" / f"{name}.nii.gz")
    table(root / "splits_20250611.tsv", "impression_id\tsplit", "7\ttrain", "8\tvalid")
    table(
        root / "study_mapping_20250611.tsv",
        "impression_id\timage_id\tperson_id",
        "7\tPE1\tp1",
        "8\tPE2.nii.gz\tp2",
    )
    table(
        root / "labels_20250611.tsv",
        "impression_id\tpe_positive_nlp\t12_month_mortality\ttte_mortality",
        "7\tTrue\tCensored\t45",
        "8\tFalse\tTrue\t300",
    )
    lines, _ = listing("inspect", root, tmp_path / "m.csv")
    assert {n: (line.split, line.patient_id, dict(line.labels)) for n, line in lines.items()} == {
        "PE1": ("train", "p1", {"pe_positive_nlp": "1"}),
        "PE2": ("val", "p2", {"pe_positive_nlp": "0", "12_month_mortality": "1"}),
    }


def tcia(root: Path, series: dict[str, tuple[str, str]]) -> None:
    """`metadata.csv` of series: place -> (subject, modality)."""
    rows = [
        f"1.2.{n},NLST,{subject},{modality},.\\{place.replace('/', chr(92))}"
        for n, (place, (subject, modality)) in enumerate(series.items())
    ]
    table(root / "metadata.csv", "Series UID,Collection,Subject ID,Modality,File Location", *rows)


def test_a_tcia_download_is_listed_by_its_metadata(tmp_path):
    root = tmp_path / "manifest-1"
    stored = stored_volume()
    write_series(root / "C" / "s1" / "ct", stored)
    touch(root / "C" / "s1" / "seg" / "1-1.dcm")
    for n in (1, 2):
        touch(root / "C" / "s2" / "mg" / f"1-{n}.dcm")
    places = {"C/s1/ct": ("s1", "CT"), "C/s1/seg": ("s1", "SEG"), "C/s2/mg": ("s2", "MG")}
    tcia(root, {**places, "C/gone": ("s3", "CT")})
    lines, said = listing("tcia", root, tmp_path / "m.csv")
    assert set(lines) == {"C/s1/ct", "C/s2/mg/1-1.dcm", "C/s2/mg/1-2.dcm"}
    assert np.array_equal(read_study(lines["C/s1/ct"].path).voxels, stored - 1024)
    assert lines["C/s2/mg/1-1.dcm"].patient_id == "s2"
    assert "Left out: 1 SEG series, 1 series that were not downloaded." in said


def test_nlst_counts_the_days_from_each_screen(tmp_path):
    root = tmp_path / "manifest-NLST"
    places = {}
    for year in (1999, 2000):
        for series in ("a", "b"):
            place = f"NLST/100/01-02-{year}-NLST-LSS-1/{series}"
            touch(root / place / "1-1.dcm")
            places[place] = ("100", "CT")
    touch(root / "NLST" / "200" / "01-02-1999-NLST-LSS-2" / "a" / "1-1.dcm")
    tcia(root, {**places, "NLST/200/01-02-1999-NLST-LSS-2/a": ("200", "CT")})
    header = "pid,age,gender,scr_days0,scr_days1,scr_days2,candx_days,fup_days"
    table(
        root / "nlst_780_prsn_idc_20210527.csv",
        header,
        "100,63,1,10,380,,500,2000",
        "200,70,2,5,,,,2500",
    )
    lines, _ = listing("nlst", root, tmp_path / "m.csv")
    found = {
        s.split("/")[1:4:1][1][6:10] + s[-2:]: line.labels
        for s, line in lines.items()
        if line.patient_id == "100"
    }
    assert {key: (f["screen"], f["cancer"], f["cancer_1y"]) for key, f in found.items()} == {
        "1999/a": ("0", "1", "0"),
        "1999/b": ("0", "1", "0"),
        "2000/a": ("1", "1", "1"),
        "2000/b": ("1", "1", "1"),
    }
    assert len({line.split for line in lines.values() if line.patient_id == "100"}) == 1
    other = next(line.labels for line in lines.values() if line.patient_id == "200")
    assert (other["cancer"], other["cancer_1y"], other["sex"], other["age"]) == (
        "0",
        "0",
        "F",
        "70",
    )


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"folder", "amos", "lidc-idri"}))
def test_a_missing_list_is_one_sentence_with_its_name(tmp_path, name):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"csv|tsv|txt"):
        write_manifest_of(name, tmp_path / "data", tmp_path / "m.csv")


@pytest.mark.parametrize("name", ["amos", "lidc-idri"])
def test_a_folder_without_the_data_set_is_one_sentence(tmp_path, name):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="No study was found"):
        listed(name, tmp_path / "data", tmp_path / "m.csv")
