"""The atomic write: whole or not there, for every kind of path and content."""

from pathlib import Path

import numpy as np
import pytest
from etils import epath

from mmv_jax.files import replacing, write_csv, write_whole


@pytest.mark.parametrize("kind", [Path, epath.Path])
def test_every_content_arrives_whole_and_alone(tmp_path, kind):
    path = kind(tmp_path) / "kept"
    for content, expected in [
        ("a\r\nµ\n", "a\r\nµ\n".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (lambda file: file.write(b"by hand"), b"by hand"),
    ]:
        write_whole(path, content)  # each replaces the one before it
        assert path.read_bytes() == expected
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("kind", [Path, epath.Path])
def test_a_writer_that_fails_leaves_the_file_before_it(tmp_path, kind):
    path = kind(tmp_path) / "kept"
    write_whole(path, "before")

    def half(file):
        file.write(b"half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_whole(path, half)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_table_is_whole_or_the_one_before_it(tmp_path):
    path = tmp_path / "manifest.csv"
    write_csv(path, ("a", "b"), [{"a": 1, "b": None}, {"b": "é, x"}])
    assert path.read_bytes() == 'a,b\n1,\n,"é, x"\n'.encode()

    def rows():
        yield {"a": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(path, ("a", "b"), rows())
    assert path.read_text().startswith("a,b\n1,\n")
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.csv"]


def test_the_name_appears_only_at_the_end(tmp_path):
    path = tmp_path / "kept.npz"
    with replacing(path) as part:
        part.write_bytes(b"x" * 10)
        assert not path.exists()
        assert part.suffix == ".part"
    assert path.read_bytes() == b"x" * 10


def test_what_numpy_writes_is_read_back(tmp_path):
    path = tmp_path / "arrays.npz"
    write_whole(path, lambda file: np.savez(file, a=np.arange(3)))
    with np.load(path) as file:
        assert file["a"].tolist() == [0, 1, 2]
