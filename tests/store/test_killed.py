"""An ingest, or a change of a store, that is killed at a named moment and given again: the store is
bit for bit the one of a command that was never killed.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_files import radiograph, save, write_series
from killed import HERE, small_parts
from PIL import Image
from planted import run_here

from mmv_jax.cli import main
from mmv_jax.store import jobs, write
from mmv_jax.store.lock import LOCK
from mmv_jax.store.workers import ENGINES

ROOT = Path(__file__).resolve().parents[2]
HEADER = "study_id,path,patient_id,split,modality,finding\n"
WRITE, INGEST, EDIT = (f"mmv_jax.store.{name}" for name in ("write", "ingest", "edit"))
# what is done -> the store that it begins with, and the words of the command behind it
COMMANDS = {
    "ingest": ("", "ingest {in}/first.csv --store {out}/store --key {in}/key --workers 1"),
    "append": ("one", "ingest {in}/more.csv --store {out}/store --key {in}/key --workers 1"),
    "correct": (
        "one",
        "ingest {in}/first.csv --store {out}/store --key {in}/key --workers 1 --correct",
    ),
    "remove": ("one", "remove {out}/store {in}/gone.csv --key {in}/key"),
    "split": ("one", "split {out}/store --shares 1,1,1"),
    "merge": ("one", "merge {out}/store {in}/other --out {out}/joined"),
}
MOMENTS = {  # moment -> the command, and where it is killed
    "before the first part": ("ingest", f"{WRITE}:PartWriter.__init__:1:before"),
    "in a part": ("ingest", f"{WRITE}:PartWriter.add:4:after"),
    "between blocks and index of a part": ("ingest", f"{WRITE}:write_index:2:before"),
    "behind the index of a part": ("ingest", f"{WRITE}:write_index:3:after"),
    "in the middle of all warnings": ("ingest", f"{INGEST}:told_of_parts:1:before"),
    "before the warnings of parts go": ("ingest", f"{INGEST}:forget_told:1:before"),
    "before the index of all parts": ("ingest", f"{INGEST}:write_whole_index:1:before"),
    "in an appended part": ("append", f"{WRITE}:PartWriter.close:1:before"),
    "in the correction of lines": ("correct", f"{EDIT}:replace_index:1:after"),
    "between correction and removal": ("correct", f"{INGEST}:take_out:1:before"),
    "in a part that is read again": ("correct", f"{WRITE}:write_index:1:before"),
    "in a removal, voxels gone": ("remove", f"{EDIT}:replace_index:1:before"),
    "in a removal, an index written": ("remove", f"{EDIT}:remove_older_indices:1:before"),
    "in new splits": ("split", f"{EDIT}:replace_index:2:before"),
    "in a merge": ("merge", f"{EDIT}:_copied:2:after"),
}
SHORT = ("between blocks and index of a part", "behind the index of a part")
INDEX = "mmv_jax.store.index"
# Ten more moments of each change, at every step that writes: function, call, before or after it.
PHASES = {
    "remove": (
        f"{EDIT}:remove_whole_index:1:before", f"{EDIT}:forget_warnings:1:before",
        f"{EDIT}:take_out:1:before", f"{EDIT}:forget_told_of:2:before", f"{EDIT}:_blank:1:after",
        f"{INDEX}:_write:1:after", f"{EDIT}:replace_index:1:after",
        f"{EDIT}:retell_leaks:1:before", f"{EDIT}:retell_leaks:1:after",
        f"{EDIT}:write_whole_index:1:after",
    ),
    "split": (
        f"{EDIT}:changing:1:before", f"{EDIT}:remove_whole_index:1:after",
        f"{EDIT}:replace_index:1:before", f"{INDEX}:_write:1:after", f"{INDEX}:_write:2:before",
        f"{EDIT}:replace_index:3:after", f"{EDIT}:retell_leaks:1:before",
        f"{EDIT}:remove_older_indices:1:before", f"{EDIT}:write_whole_index:1:before",
        f"{EDIT}:write_whole_index:1:after",
    ),
    "merge": (
        f"{EDIT}:changing:1:before", f"{EDIT}:new_logs:1:before", f"{EDIT}:take_entries:1:before",
        f"{EDIT}:take_entries:1:after", f"{EDIT}:replace_index:1:before",
        f"{EDIT}:replace_index:1:after", f"{EDIT}:take_entries:2:before",
        f"{EDIT}:replace_index:4:before", f"{EDIT}:retell_leaks:1:before",
        f"{EDIT}:write_whole_index:1:after",
    ),
    "correct": (
        f"{INGEST}:_change:1:before", f"{EDIT}:remove_whole_index:1:after",
        f"{EDIT}:replace_index:1:before", f"{INDEX}:_write:1:after",
        f"{EDIT}:forget_told_of:1:before", f"{EDIT}:_blank:1:after",
        f"{EDIT}:write_whole_index:1:before", f"{EDIT}:write_whole_index:1:after",
        f"{WRITE}:write_index:1:after", f"{INGEST}:forget_told:1:before",
    ),
}  # fmt: skip
SHORT_PHASES = (("remove", 5), ("merge", 7))  # of these two the short form kills too


def write_files(folder: Path) -> None:
    """Radiographs, series of CT, one that is told and one that is missing; four manifests."""
    rng = np.random.default_rng(0)
    lines = []
    for n in range(12):
        if n % 4 == 3:
            stored = rng.integers(0, 2000, (4, 9, 10)).astype(np.int16)
            path = write_series(folder / f"f{n}", stored, SeriesInstanceUID=f"1.2.{n}")
        elif n % 4 == 1:
            pixels = rng.integers(0, 4000, (20, 16)).astype(np.uint16)
            flag = "YES" if n in (1, 5) else "NO"  # the second is told within 5 s of the first
            path = save(radiograph(pixels, BurnedInAnnotation=flag), folder / f"f{n}")
        else:
            path = folder / f"f{n}"
            Image.fromarray(rng.integers(0, 255, (20, 16), np.uint8)).save(path, "PNG")
        if n == 6:
            path.unlink()
        lines.append(f"s{n},{path.name},p{n // 2},train,X,{n % 3}\n")
    (folder / "first.csv").write_text(HEADER + "".join(lines[:9]))
    (folder / "more.csv").write_text(HEADER + "".join(lines[9:]))
    (folder / "gone.csv").write_text(HEADER + "".join(lines[n] for n in (0, 3, 7)))


@contextlib.contextmanager
def corrected(folder: Path) -> Iterator[None]:
    """The first manifest in its place, with other labels, and spacings that it did not have."""
    path = folder / "first.csv"
    before = path.read_text()
    header, *lines = before.splitlines()
    for n in (0, 2, 4):
        lines[n] = lines[n].rsplit(",", 1)[0] + ",9"
    spacing = {0: "0.5", 8: "0.7"}
    lines = [f"{line},{spacing.get(n, '')}" for n, line in enumerate(lines)]
    path.write_text("\n".join([header + ",spacing_mm", *lines]) + "\n")
    try:
        yield
    finally:
        path.write_text(before)


def words(command: str, files: Path, out: Path) -> list[str]:
    return command.replace("{in}", str(files)).replace("{out}", str(out)).split()


def killed(moment: str, command: list[str], *, here: bool) -> int:
    """Exit code of `mmv` in a process of its own that is killed at a moment.

    Args:
      here: whether it reads the files itself, without a worker, which takes half the time.
    """
    folder = Path(__file__).parent
    found = subprocess.run(
        [sys.executable, str(folder / "killed.py"), moment, *command],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", HERE: "1" if here else ""},
        start_new_session=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert found.returncode in (0, -9), found.stderr.decode()
    return found.returncode


@pytest.fixture(scope="module")
def fork() -> Iterator[Callable[[str, list[str]], int]]:
    """As `killed`, for many moments: all commands are forks of one process."""
    folder = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, str(folder / "killed.py"), "serve"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin and server.stdout
        reader, writer = server.stdout, server.stdin

        def run(moment: str, command: list[str]) -> int:
            writer.write(json.dumps([moment, *command]) + "\n")
            writer.flush()
            return int(reader.readline())

        yield run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the stores in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Iterator[Path]:
    """Files, manifests, a key, a store of the first manifest and one of further files."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patched:
        # What `small_parts` sets is put back at the end.
        patched.setattr(write, "PART_STUDIES", write.PART_STUDIES)
        patched.setattr(jobs, "TASK_LINES", jobs.TASK_LINES)
        patched.setitem(ENGINES, "local", run_here)
        small_parts()
        for manifest, store in (("first", "one"), ("more", "other")):
            text = f"ingest {{in}}/{manifest}.csv --store {{in}}/{store} --key {{in}}/key"
            assert main(words(text, folder, folder)) == 0
        yield folder


@pytest.fixture(scope="module")
def expected(files, tmp_path_factory) -> Callable[[str], dict[str, bytes]]:
    """What a command leaves that was never killed, by its name."""
    made: dict[str, dict[str, bytes]] = {}

    def get(name: str) -> dict[str, bytes]:
        if name not in made:
            out = tmp_path_factory.mktemp("never")
            assert main(begun(files, out, name)) == 0
            made[name] = contents(out)
        return made[name]

    return get


def begun(files: Path, out: Path, name: str) -> list[str]:
    """Words of a command; the store that it begins with is copied to `out`."""
    first, command = COMMANDS[name]
    if first:
        shutil.copytree(files / first, out / "store")
    return words(command, files, out)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(m, marks=() if m in SHORT else pytest.mark.full) for m in MOMENTS],
)
def test_what_was_killed_goes_on_to_the_same_store(files, expected, tmp_path, moment):
    name, where = MOMENTS[moment]
    with corrected(files) if name == "correct" else contextlib.nullcontext():
        never = expected(name)
        command = begun(files, tmp_path, name)
        assert killed(where, command, here=moment in SHORT) == -9
        assert contents(tmp_path) != never
        assert main(command) == 0
    assert contents(tmp_path) == never
    assert b"burnt_in" in never["store/warnings.jsonl"]


@pytest.mark.parametrize(
    "name,n",
    [
        pytest.param(name, n, marks=() if (name, n) in SHORT_PHASES else pytest.mark.full)
        for name, moments in PHASES.items()
        for n in range(len(moments))
    ],
)
def test_a_change_that_was_killed_goes_on(files, expected, fork, tmp_path, name, n):
    with corrected(files) if name == "correct" else contextlib.nullcontext():
        never = expected(name)
        command = begun(files, tmp_path, name)
        assert fork(PHASES[name][n], command) == -9
        assert contents(tmp_path) != never
        assert main(command) == 0
    assert contents(tmp_path) == never
