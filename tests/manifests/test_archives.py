"""Manifests of archives: listed by content, with their masks and series, and ingested as files."""

import numpy as np
import planted  # noqa: F401 - it adds the engine "here"
import pytest
from archives import ENDS, encrypted, files_below, pack, picture, studies
from dicom_files import stored_volume, write_series

from mmv_jax.errors import UserError
from mmv_jax.manifests.listing import write_manifest_of
from mmv_jax.manifests.manifest import manifests_of, read_manifest
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store


def listed(root, out):
    said = []
    write_manifest_of("folder", root, out, said.append)
    lines, refused = read_manifest(out)
    assert refused == []
    return {line.study_id: line for line in lines}, said


@pytest.mark.parametrize("end", ENDS)
def test_an_archive_is_listed_as_a_folder_is(tmp_path, end):
    (tmp_path / "f").mkdir()
    packed = pack(tmp_path / "packed" / "in" / f"all.{end}", studies(tmp_path / "f"))
    lines, _ = listed(tmp_path / "packed", tmp_path / "m.csv")
    plain, _ = listed(tmp_path / "f", tmp_path / "n.csv")
    prefix = f"in/{packed.name}::"
    assert set(lines) == {prefix + study for study in plain}
    for study, line in plain.items():
        other = lines[prefix + study]
        assert (other.modality, set(other.masks)) == (line.modality, set(line.masks))
    assert lines[f"{prefix}ct"].patient_id == "p1"
    assert lines[f"{prefix}sub-07/a.png"].patient_id == "sub-07"


def test_what_is_left_out_of_archives_is_counted(tmp_path):
    root = tmp_path / "data"
    inner = pack(tmp_path / "inner.zip", {"a.png": picture()}).read_bytes()
    pack(
        root / "a.zip",
        {"a.png": picture(), "../b.png": picture(), "inner.zip": inner, "x.txt": b"text"},
    )
    encrypted(root / "b.zip")
    (root / "c.zip").write_bytes(pack(tmp_path / "c.zip", {"a.png": picture()}).read_bytes()[:60])
    lines, said = listed(root, tmp_path / "m.csv")
    assert set(lines) == {"a.zip::a.png"}
    assert said[0] == (
        "Left out: 1 .txt files, 1 archives that are damaged or inflate beyond the limits, 1"
        " encrypted members of archives, 2 members of archives that are links, archives or have"
        " unsafe names."
    )


def test_two_series_in_one_zip_are_two_lines(tmp_path):
    write_series(tmp_path / "f", stored_volume(), SeriesInstanceUID=lambda k: f"1.2.{k // 4}")
    pack(tmp_path / "data" / "all.zip", files_below(tmp_path / "f"))
    lines, _ = listed(tmp_path / "data", tmp_path / "m.csv")
    assert len(lines) == 2
    assert all("all.zip::#" in study for study in lines)


def test_a_root_may_be_an_archive_or_a_pattern(tmp_path):
    for day in ("day1", "day2", "other"):
        pack(tmp_path / day / "x.zip", {f"{day}.png": picture()})
    one, _ = listed(tmp_path / "day1" / "x.zip", tmp_path / "m.csv")
    assert set(one) == {"x.zip::day1.png"}
    some, _ = listed(tmp_path / "day*" / "*.zip", tmp_path / "m.csv")
    assert set(some) == {"day1/x.zip::day1.png", "day2/x.zip::day2.png"}
    some, _ = listed(tmp_path / "day[12]", tmp_path / "m.csv")
    assert len(some) == 2
    with pytest.raises(UserError, match="no pattern that matches"):
        listed(tmp_path / "week*", tmp_path / "m.csv")


def test_members_are_ingested_once_and_a_mended_archive_goes_on(tmp_path):
    data = tmp_path / "data"
    (tmp_path / "f").mkdir()
    packed = studies(tmp_path / "f")
    pack(data / "all.tar.gz", packed)
    pack(data / "more.zip", {f"{n}.png": picture(n + 1) for n in range(4)})
    listed(data, tmp_path / "m.csv")
    broken = data / "more.zip"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-40])
    report = ingest([tmp_path / "*.csv"], tmp_path / "store", workers=1)
    assert (report.ingested, sum(report.refused.values())) == (3, 4)
    broken.write_bytes(whole)
    report = ingest([tmp_path / "m.csv"], tmp_path / "store", engine="here")
    assert (report.ingested, report.already, sum(report.refused.values())) == (4, 3, 0)
    store = Store.open(tmp_path / "store")
    sums = {int(np.prod(shape)) for shape in store.index[["grid_z", "grid_y", "grid_x"]].to_numpy()}
    assert len(store.index) == 7 and 24 * 20 in sums
    # Neither the store nor its logs name an archive or a member.
    for path in (tmp_path / "store").rglob("*.jsonl"):
        assert "more" not in path.read_text() and ".png" not in path.read_text()


def test_patterns_of_manifests(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    assert [p.name for p in manifests_of([tmp_path / "b.csv", tmp_path / "*.csv"])] == [
        "b.csv", "a.csv",
    ]  # fmt: skip
    with pytest.raises(UserError, match="No manifest matches"):
        manifests_of([tmp_path / "*.tsv"])
