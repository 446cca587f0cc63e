"""Archives: their members are read as files are, and what cannot be trusted is refused."""

import re
import zipfile

import numpy as np
import pytest
from archives import (
    ENDS,
    encrypted,
    files_below,
    linked,
    long_header,
    pack,
    picture,
    smaller,
    studies,
)
from dicom_files import stored_volume, write_series

from mmv_jax.readers.read import read_mask, read_study
from mmv_jax.readers.refused import Refused

ZEROS = bytes(80 << 20)


def code_of(path) -> str:
    with pytest.raises(Refused) as refused:
        read_study(path)
    for word in ("a.png", "secret", "etc"):
        assert word not in refused.value.reason
    return refused.value.code


@pytest.mark.parametrize("end", ENDS)
def test_members_are_read_as_files_are(tmp_path, end):
    folder = tmp_path / "f"
    folder.mkdir()
    archive = pack(tmp_path / f"all.{end}", studies(folder))
    names = ("sub-07/a.png", "v.nii.gz", "ct", "sub-07/a.png", "ct/00*.dcm")
    for name in names:
        inside, outside = read_study(f"{archive}::{name}"), read_study(folder / name)
        assert np.array_equal(inside.voxels, outside.voxels)
        assert np.array_equal(inside.spacing_mm, outside.spacing_mm, equal_nan=True)
        assert inside.told == outside.told
    study = read_study(folder / "v.nii.gz")
    found = read_mask(f"{archive}::v_seg.nii.gz", like=study)
    assert np.array_equal(found, read_mask(folder / "v_seg.nii.gz", like=study))
    assert sorted(files_below(tmp_path)) == sorted(
        [archive.name, *(f"f/{name}" for name in files_below(folder))]
    )


def test_a_series_at_the_root_and_one_of_two(tmp_path):
    stored = stored_volume()
    write_series(tmp_path / "f", stored, SeriesInstanceUID=lambda k: f"1.2.{k // 4}")
    packed = pack(tmp_path / "two.zip", files_below(tmp_path / "f"))
    assert code_of(f"{packed}::") == "several_series"
    write_series(tmp_path / "g", stored)
    one = pack(tmp_path / "one.tgz", {"./" + n: d for n, d in files_below(tmp_path / "g").items()})
    assert np.array_equal(read_study(f"{one}::").voxels, stored - 1024)
    assert code_of(tmp_path / "one.tgz") == "not_an_image"


def duplicated(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", picture(0))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", picture(1))
    return path


def cut(path):
    data = pack(path, {"b.bin": bytes(range(256)) * 400, "a.png": picture()}).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def squeezed(path, method):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", picture())
    return path


DEFECTS = {
    "missing": (lambda f: pack(f / "x.zip", {"b.png": picture()}), "a.png", "not_found"),
    "missing series": (lambda f: pack(f / "x.tar", {"b.png": b""}), "ct/#0123", "not_found"),
    "no archive": (lambda f: f / "none.zip", "a.png", "not_found"),
    "encrypted": (lambda f: encrypted(f / "x.zip"), "a.png", "encrypted"),
    "absolute": (lambda f: pack(f / "x.tar", {"/etc/secret": b""}), "/etc/secret", "bad_member"),
    "drive": (lambda f: pack(f / "x.zip", {"C:\\a.png": b"a"}), "C:\\a.png", "bad_member"),
    "parent": (lambda f: pack(f / "x.zip", {"../a.png": picture()}), "../a.png", "bad_member"),
    "parent inside": (lambda f: pack(f / "x.tar", {"b/../a.png": b""}), "b/../a.png", "bad_member"),
    "link": (lambda f: linked(f / "x.tar"), "a.png", "bad_member"),
    "two of a name": (lambda f: duplicated(f / "x.zip"), "a.png", "bad_member"),
    "zip bomb": (lambda f: pack(f / "x.zip", {"a.png": ZEROS}), "a.png", "too_large"),
    "tar bomb": (lambda f: pack(f / "x.tgz", {"0": ZEROS, "a.png": b"a"}), "a.png", "too_large"),
    "header bomb": (lambda f: long_header(f / "x.tgz"), "a.png", "too_large"),
    "other size": (lambda f: smaller(f / "x.zip"), "a.png", "corrupt"),
    "nested": (
        lambda f: pack(f / "x.tar", {"b.zip": pack(f / "b.zip", {"a.png": b"a"}).read_bytes()}),
        "b.zip",
        "bad_member",
    ),
    "in nested": (lambda f: pack(f / "x.tar", {"b.zip": b"PK"}), "b.zip::a.png", "bad_member"),
    "nested tar.gz": (
        lambda f: pack(f / "x.zip", {"b": pack(f / "b.tgz", {"a.png": b"a"}).read_bytes()}),
        "b",
        "bad_member",
    ),
    "cut zip": (lambda f: cut(f / "x.zip"), "a.png", "corrupt"),
    "cut tar": (lambda f: cut(f / "x.tar"), "a.png", "truncated"),
    "cut tar.gz": (lambda f: cut(f / "x.tgz"), "a.png", "truncated"),
    "bzip2": (lambda f: squeezed(f / "x.zip", zipfile.ZIP_BZIP2), "a.png", "unknown_encoding"),
    "text": (lambda f: pack(f / "x.zip", {"a.png": b"words"}), "a.png", "not_an_image"),
    "empty": (lambda f: pack(f / "x.zip", {"a.png": b""}), "a.png", "truncated"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_cannot_be_trusted_is_refused(tmp_path, defect):
    make, member, code = DEFECTS[defect]
    assert code_of(f"{make(tmp_path)}::{member}") == code


def test_a_damaged_byte_is_noticed(tmp_path):
    for end in ("zip", "tgz"):
        archive = pack(tmp_path / f"x.{end}", {"a.png": picture(), "b.png": picture(1)})
        data = bytearray(archive.read_bytes())
        data[len(data) // 3] ^= 0xFF
        archive.write_bytes(data)
        assert code_of(f"{archive}::a.png") in ("corrupt", "truncated", "unreadable")


def test_a_mask_may_shrink_but_not_beyond_its_study(tmp_path):
    mask = pack(tmp_path / "x.zip", {"a.png": ZEROS, "v.nii": b"n" + bytes(66 << 20)})
    study = read_study(pack(tmp_path / "y.zip", {"a.png": picture()}).as_posix() + "::a.png")
    for member, code in (("a.png", "too_large"), ("v.nii", "too_large")):
        with pytest.raises(Refused) as refused:
            read_mask(f"{mask}::{member}", like=study)
        assert refused.value.code == code


def test_an_archive_that_changed_is_opened_anew(tmp_path):
    archive = pack(tmp_path / "x.zip", {"a.png": picture()})
    before = read_study(f"{archive}::a.png").voxels
    pack(archive, {"a.png": picture(1), "b.png": picture(2)})
    assert not np.array_equal(read_study(f"{archive}::a.png").voxels, before)


def test_a_pattern_names_the_slices_of_one_series(tmp_path):
    stored = stored_volume()
    write_series(tmp_path / "f", stored)
    (tmp_path / "f" / "x.png").write_bytes(picture())
    assert np.array_equal(read_study(tmp_path / "f" / "*.dcm").voxels, stored - 1024)
    assert np.array_equal(
        read_study(tmp_path / "f" / "*.png").voxels, read_study(tmp_path / "f" / "x.png").voxels
    )
    assert code_of(tmp_path / "f" / "*.nii") == "not_found"
    (tmp_path / "f" / "y.png").write_bytes(picture())
    assert code_of(tmp_path / "f" / "*.png") == "not_an_image"


SLIPS = {  # slip of a path: (files of the archive, what stands behind its name) -> reason
    "empty member, pictures": ("a.png", "::", "a folder stands for one DICOM series: name one"),
    "empty member, a folder": ("d/a.png", "::", "no file lies at the archive's root"),
    "empty member, empty archive": ("", "::", "the archive is empty"),
    "any member, empty archive": ("", "::a.png", "the archive is empty"),
    "a slash for a member": ("d/a.png", "::/", "no file lies at the archive's root"),
    "a dot for a member": ("d/a.png", "::./", "no file lies at the archive's root"),
    "a slash behind a folder": ("d/a.png", "::d/", "a folder stands for one DICOM series"),
    "a slash behind nothing": ("d/a.png", "::e/", "the archive has no such member"),
    "two marks at once": ("a.png", "::::", "the path has `::` twice"),
    "two marks before a member": ("a.png", "::::a.png", "the path has `::` twice"),
    "a mark behind a member": ("a.png", "::a.png::", "before the second `::` is no archive"),
    "a member of a picture": ("a.png", "::a.png::b", "before the second `::` is no archive"),
    "a mark behind a folder": ("d/a.png", "::d::", "the path has `::` twice"),
    "a member of a zip inside": ("b.zip", "::b.zip::a.png", "an archive in an archive"),
    "no archive": ("a.png", "x::a.png", "no archive of the name before `::`"),
    "no archive, empty member": ("a.png", "x::", "no archive of the name before `::`"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_path_of_a_member_is_refused_with_its_own_reason(tmp_path, slip, end):
    name, behind, reason = SLIPS[slip]
    if not name and end != "zip":
        reason = "no zip and no tar"  # an empty tar is zeros, as many a broken download is
    archive = pack(tmp_path / f"x.{end}", {name: picture()} if name else {})
    with pytest.raises(Refused, match=re.escape(reason)) as refused:
        read_study(f"{archive}{behind}")
    assert "png" not in refused.value.reason


def test_marks_within_names_are_part_of_them(tmp_path):
    archive = pack(tmp_path / "a::b" / "x.zip", {"c::d.png": picture()})
    assert read_study(f"{archive}::c::d.png").voxels.shape == (1, 24, 20)
    # A slash behind a file says nothing, as on a disk.
    assert read_study(f"{archive}::c::d.png/").voxels.shape == (1, 24, 20)
