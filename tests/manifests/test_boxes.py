"""Boxes of a CSV become masks that lie where the boxes are."""

import csv

import nibabel as nib
import numpy as np
import pytest

from mmv_jax.cli import main
from mmv_jax.errors import UserError
from mmv_jax.manifests.boxes import read_boxes, write_boxes
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.phantom.files import write_png
from mmv_jax.readers.read import read_mask, read_study

HEADER = "study_id,path,patient_id,split,modality,spacing_mm,unit,sex\n"


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_png(tmp_path / f"{name}.png", rng.integers(0, 255, (20, 30)).astype(np.uint8))
    # Stored as RAS: x and y run against the grid on which a study is shown.
    volume = rng.normal(-500, 200, (10, 8, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([0.8, 0.9, 5.0, 1.0])), tmp_path / "scan.nii.gz")
    path = tmp_path / "m.csv"
    path.write_text(
        HEADER
        + "one,a.png,p1,train,CXR,0.5,,M\ntwo,b.png,p2,val,CXR,0.5,,\n"
        + "three,scan.nii.gz,p3,test,CT,,HU,F\n"
    )
    return path


def boxes_of(folder, text):
    path = folder / "boxes.csv"
    path.write_text(text)
    return path


def masks_of(path, name):
    return {
        line.study_id: read_mask(
            line.masks[name],
            like=read_study(line.path, spacing_mm=line.spacing_mm, unit=line.unit),
        )
        for line in read_manifest(path).lines
        if name in line.masks
    }


def test_a_picture_and_a_volume_are_marked_where_their_boxes_are(manifest, tmp_path, capsys):
    boxes = boxes_of(
        tmp_path,
        # A box of 3 by 2 pixels, one thinner than a pixel, and one that is half a pixel outside.
        "file,x,y,w,h,slice,label\na,4,10,3,2,,A\na.png,20.1,1.2,0.1,0.1,,A\n"
        "a,28,17,2.5,3,,B\nscan.nii.gz,1,2,3,4,5,A\nelsewhere,1,1,1,1,,A\n",
    )
    words = [str(manifest), "--boxes", str(boxes), "--mask", "lesion"]
    assert main(["boxes", *words, "--out", str(tmp_path / "new.csv")]) == 0
    said = capsys.readouterr().out
    assert "1 of 5 boxes are of studies that the manifest does not have" in said
    found = masks_of(tmp_path / "new.csv", "lesion")
    expected = np.zeros((1, 20, 30))
    expected[0, 10:12, 4:7] = expected[0, 1, 20] = expected[0, 17:20, 28:30] = 1
    np.testing.assert_array_equal(found["one"], expected)
    expected = np.zeros((6, 8, 10))
    # z, y and x of the grid that is shown; the file stores x and y the other way round
    expected[5, 2:6, 1:4] = 1
    np.testing.assert_array_equal(found["three"], expected)
    (path,) = (tmp_path / "new-lesion").glob("line-000004-*.nii.gz")
    stored = np.asanyarray(nib.load(path).dataobj)
    assert stored.sum() == 12
    assert set(found) == {"one", "three"}
    with (tmp_path / "new.csv").open() as file:
        assert [row["sex"] for row in csv.DictReader(file)] == ["M", "", "F"]


def test_a_manifest_stays_right_where_the_next_call_is_stopped(manifest, tmp_path, monkeypatch):
    out = tmp_path / "new.csv"
    write_boxes(manifest, boxes_of(tmp_path, "study_id,x,y,w,h\none,1,1,3,3\n"), out, mask="a")
    before = out.read_bytes(), masks_of(out, "a")["one"]
    other = boxes_of(tmp_path, "study_id,x,y,w,h\none,9,9,5,5\n")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mmv_jax.manifests.boxes.write_csv", stop)
        with pytest.raises(KeyboardInterrupt):
            write_boxes(manifest, other, out, mask="a")
    assert out.read_bytes() == before[0]
    np.testing.assert_array_equal(masks_of(out, "a")["one"], before[1])
    write_boxes(manifest, other, out, mask="a")
    assert masks_of(out, "a")["one"].sum() == 25


def test_a_label_is_chosen_and_free_studies_have_empty_masks(manifest, tmp_path):
    boxes = boxes_of(tmp_path, "study_id,xmin,ymin,xmax,ymax,label\none,1,1,3,3,A\ntwo,1,1,2,2,B\n")
    options = {"mask": "a", "labels": ["A"], "free": {"sex": "F"}}
    told = []
    assert write_boxes(manifest, boxes, tmp_path / "n.csv", tell=told.append, **options) == 1
    assert {name: mask.sum() for name, mask in masks_of(tmp_path / "n.csv", "a").items()} == {
        "one": 4,
        "three": 0,
    }
    with pytest.raises(UserError, match="no box has the label C. There are: A, B"):
        write_boxes(manifest, boxes, tmp_path / "n.csv", mask="a", labels=["C"])


WRONG = {
    "no width": ("study_id,x,y,w,h\none,1,1,0,3\n", "line 2 has no box"),
    "words": ("study_id,x,y,w,h\none,1,1,2,3\none,a,1,2,3\n", "line 3 has no box"),
    "turned": ("study_id,xmin,ymin,xmax,ymax\none,5,1,3,3\n", "line 2 has no box"),
    "another size": (
        "study_id,x,y,w,h\none,1,1,3,3\none,40,1,20,3\n",
        "line 3 has a box that leaves its image of 30 × 20 pixels",
    ),
    "no slice": ("study_id,x,y,w,h\nthree,1,1,3,3\n", "without a slice, of a volume"),
    "a picture's slice": ("study_id,x,y,w,h,slice\none,1,1,3,3,0\n", "with a slice, of a picture"),
    "beyond": ("study_id,x,y,w,h,slice\nthree,1,1,3,3,6\n", "in a slice that is none of 0 to 5"),
    "of nobody": ("study_id,x,y,w,h\nnobody,1,1,3,3\n", "no box is of a study of m.csv"),
    "no number": ("study_id,x,y,w,h,slice\nthree,1,1,3,3,nan\n", "line 2 has no box"),
    "endless": ("study_id,x,y,w,h,slice\nthree,1,1,3,3,inf\n", "line 2 has no box"),
    "no columns": ("study_id,left,top\none,1,1\n", "the header has neither x, y, w, h nor"),
    "no id": ("who,x,y,w,h\none,1,1,3,3\n", "no column names the study"),
    "empty": ("study_id,x,y,w,h\n", "there is no line below the header"),
}


@pytest.mark.parametrize("text, said", WRONG.values(), ids=list(WRONG))
def test_wrong_boxes_are_one_sentence(manifest, tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        write_boxes(manifest, boxes_of(tmp_path, text), tmp_path / "n.csv", mask="lesion")
    assert not (tmp_path / "n.csv").exists()


def test_of_a_file_that_is_no_table_nothing_is_made(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="no CSV file in UTF-8"):
        read_boxes(tmp_path / "x.csv")


def test_boxes_of_any_spreadsheet_are_read(manifest, tmp_path):
    text = "study_id,x,y,w,h\none,4,10,3,2\n"
    expected = read_boxes(boxes_of(tmp_path, text))
    for other in (text.replace(",", ";"), "sep=\t\n" + text.replace(",", "\t")):
        found = read_boxes(boxes_of(tmp_path, other))
        assert [(box.study, box.low, box.high) for box in found] == [("one", (4, 10), (7, 12))]
    assert found[0].line == expected[0].line + 1
    (tmp_path / "boxes.csv").write_bytes(text.encode("utf-16"))
    assert read_boxes(tmp_path / "boxes.csv") == expected


def test_a_name_that_two_files_have_is_refused_and_an_id_is_not(manifest, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "b.png").rename(tmp_path / "other" / "a.png")
    manifest.write_text(manifest.read_text().replace("b.png", "other/a.png"))
    boxes = boxes_of(tmp_path, "file,x,y,w,h\na.png,1,1,2,2\n")
    with pytest.raises(UserError, match="line 2 has a file's name that several studies"):
        write_boxes(manifest, boxes, tmp_path / "n.csv", mask="lesion")
    boxes = boxes_of(tmp_path, "study_id,x,y,w,h\ntwo,1,1,2,2\n")
    write_boxes(manifest, boxes, tmp_path / "n.csv", mask="lesion")
    assert set(masks_of(tmp_path / "n.csv", "lesion")) == {"two"}


def test_nothing_that_stands_in_a_manifest_is_lost(manifest, tmp_path):
    boxes = boxes_of(tmp_path, "study_id,x,y,w,h\none,1,1,2,2\n")
    before = manifest.read_text()
    with pytest.raises(UserError, match="m.csv is the manifest itself"):
        write_boxes(manifest, boxes, manifest, mask="lesion")
    (tmp_path / "n.csv").write_text("study_id,own\none,1\n")
    with pytest.raises(UserError, match="n.csv exists and has columns that would be lost: own"):
        write_boxes(manifest, boxes, tmp_path / "n.csv", mask="lesion")
    write_boxes(manifest, boxes, tmp_path / "first.csv", mask="lesion")
    with pytest.raises(UserError, match="first.csv has the column lesion_mask already"):
        write_boxes(tmp_path / "first.csv", boxes, tmp_path / "second.csv", mask="lesion")
    assert manifest.read_text() == before


@pytest.fixture
def pictures(tmp_path):
    """Thirty pictures of 40 by 20 pixels, `s0` to `s29`."""
    rng, lines = np.random.default_rng(1), []
    for n in range(30):
        write_png(tmp_path / f"{n}.png", rng.integers(0, 255, (20, 40)).astype(np.uint8))
        lines.append(f"s{n},{n}.png,p{n},train,CXR,0.5,,\n")
    path = tmp_path / "m.csv"
    path.write_text(HEADER + "".join(lines))
    return path


def places(count=30):
    """Boxes (x, y, w, h) that lie all over the pictures."""
    rng = np.random.default_rng(2)
    w, h = rng.integers(3, 9, count), rng.integers(2, 6, count)
    x, y = rng.integers(0, 40 - w), rng.integers(0, 20 - h)
    x[0], y[0] = 40 - w[0], 20 - h[0]  # one in the lower right
    return np.stack([x, y, w, h], axis=1).astype(float)


def told_of(pictures, rows, header="study_id,x,y,w,h", **options):
    """What is told while the boxes of `s0`, `s1`, ... are drawn, and the names of the drawn."""
    text = "".join(",".join(map(str, [f"s{n}", *row])) + "\n" for n, row in enumerate(rows))
    path, told = boxes_of(pictures.parent, f"{header}\n{text}"), list[str]()
    new = pictures.parent / "n.csv"
    write_boxes(pictures, path, new, mask="lesion", tell=told.append, **options)
    return "\n".join(told), set(masks_of(new, "lesion"))


def test_boxes_all_over_their_pictures_are_told_nothing(pictures):
    told, drawn = told_of(pictures, places())
    assert told == "" and len(drawn) == 30


CORNERS = "study_id,xmin,ymin,xmax,ymax"
SMALLER = {"half": (0.5, 0.55), "a fifth, as mm": (0.2, 0.55), "three quarters": (0.74, 0.76)}


@pytest.mark.parametrize("scale, most", SMALLER.values(), ids=list(SMALLER))
def test_pixels_of_a_smaller_picture_and_mm_are_told(pictures, scale, most):
    told, drawn = told_of(pictures, places() * scale)
    assert "lie in the upper left of their pictures" in told and len(drawn) == 30
    # Few boxes may lie anywhere.
    assert told_of(pictures, (places() * scale)[1:4])[0] == ""


def test_shares_of_a_picture_are_refused(pictures):
    shares = places() / [40, 20, 40, 20]
    with pytest.raises(UserError, match="numbers are from 0 to 1, which are shares of a picture"):
        told_of(pictures, shares)
    shares[:, 2:] += shares[:, :2]
    with pytest.raises(UserError, match="shares of a picture"):
        told_of(pictures, shares, CORNERS)


def test_numbers_of_another_form_are_named_where_they_leave_their_pictures(pictures):
    x, y, w, h = places().T
    corners = np.stack([x, y, x + w, y + h], axis=1)
    with pytest.raises(UserError, match="leaves .* would fit if the numbers were xmin, ymin"):
        told_of(pictures, corners)
    centres = np.stack([x + w / 2, y + h / 2, w, h], axis=1)
    with pytest.raises(UserError, match="would fit if the numbers were the centre and w, h"):
        told_of(pictures, np.repeat(centres[:1], 30, axis=0))
    turned = np.stack([y, x, h, w], axis=1)
    with pytest.raises(UserError, match="would fit if the numbers were y before x"):
        told_of(pictures, turned)
    with pytest.raises(UserError, match="If they are x, y, width and height, call them x, y, w"):
        told_of(pictures, places(), CORNERS)
    # Corners near the upper left stay within their pictures as x, y, w, h.
    near = np.stack([x / 3 + 1, y / 3 + 1, x / 3 + 9, y / 3 + 5], axis=1)
    assert "In every box w is larger than x" in told_of(pictures, near)[0]


def test_one_wrong_box_leaves_its_own_study_out(pictures):
    for box, why in (
        ((5, 5, 0, 3), "line 4 has a box that is none"),
        ((5, 5, "", 3), "line 4 has a box that is none"),
        ((36, 5, 9, 3), "line 4 has a box that leaves its image"),
        ((0, 0, 1, 1), "line 4 has a box within the first pixel"),
    ):
        rows = places().tolist()
        rows[2] = box
        told, drawn = told_of(pictures, rows)
        assert why in told and "get no mask" in told
        assert drawn == {f"s{n}" for n in range(30)} - {"s2"}
    rows[3:5] = rows[2], rows[2]
    with pytest.raises(UserError, match="lines 4, 5, 6 have a box within the first pixel"):
        told_of(pictures, rows)


def test_lines_without_numbers_are_no_boxes(pictures):
    """As tables of data sets list the studies without a finding."""
    rows = [["", "", "", ""], ["NaN"] * 4, *places(28).tolist()]
    told, drawn = told_of(pictures, rows, "image_id,x,y,width,height")
    assert "lines 2, 3 have no numbers and no box" in told
    assert drawn == {f"s{n}" for n in range(2, 30)}


def test_doubled_overlapping_and_whole_boxes_are_told(pictures):
    rows = [(f"s{n}", *row) for n, row in enumerate(places().tolist())]
    rows += [rows[4], ("s5", *(np.array(rows[5][1:]) + [1, 1, 0, 0]).clip(0, 30))]
    rows[6] = ("s6", 0, 0, 40, 20)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    path, told = boxes_of(pictures.parent, f"study_id,x,y,w,h\n{text}"), list[str]()
    write_boxes(pictures, path, pictures.parent / "n.csv", mask="a", tell=told.append)
    for words in ("1 boxes cover a whole", "1 boxes are there twice", "2 boxes overlap another"):
        assert any(said.startswith(words) for said in told)


def test_a_label_counts_in_any_case_and_several_are_told(pictures):
    rows = [[*row, ["Nodule", "nodule", "Mass"][n % 3]] for n, row in enumerate(places().tolist())]
    header = "study_id,x,y,w,h,label"
    assert len(told_of(pictures, rows, header, labels=["nodule"])[1]) == 20
    assert (
        "Boxes of all 3 labels are one mask (Mass, Nodule, nodule)"
        in told_of(pictures, rows, header)[0]
    )
