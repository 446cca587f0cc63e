"""A run whose workdir is in a bucket on loopback: logged, saved, cut off anywhere, and resumed.

What a run leaves that is killed at some moment is what the bucket holds at that moment: it is
copied after every write, and a resume begins from some of the copies.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from bucket import Bucket, served
from nano import nano_config, on_one_device, share_run

from mmv_jax import mirror
from mmv_jax.buckets import place
from mmv_jax.checkpoint import restore_items
from mmv_jax.compare.runs import open_runs
from mmv_jax.errors import UserError
from mmv_jax.train import loop
from mmv_jax.train import running as module
from mmv_jax.train.log import read_metrics
from mmv_jax.train.log_files import METRICS
from mmv_jax.train.running import FILE, running
from mmv_jax.train.status import status
from mmv_jax.unsealed import COMMITTED

STEPS = 7  # saved after 3, 6 and 7
RUN = "runs/a"
SCRIPT = Path(__file__).with_name("kills.py")


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BEAT_S", 0.1)
        patch.setattr(module, "WATCH_S", 0.4)
        # Only what is waited for is put, and nothing by chance.
        patch.setattr(mirror, "EVERY_S", 600.0)
        # The step and the device of test_short_runs.py: what runs do is the same in every place.
        share_run(patch, "short on one device")
        on_one_device(patch)
        yield


@dataclass
class Left:
    """A run in a bucket, and what the bucket held after each write: (name, objects)."""

    bucket: Bucket
    workdir: Path
    moments: list[tuple[str, dict]]


def short_run(store, workdir: Path) -> None:
    config = nano_config(store, dino=1.0)
    config.steps = STEPS
    loop.pretrain(config, workdir)


@pytest.fixture(scope="module")
def unbroken(store, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("disk")
    short_run(store, workdir)
    return workdir


@pytest.fixture(scope="module", params=["gs", pytest.param("s3", marks=pytest.mark.full)])
def left(store, request):
    moments: list[tuple[str, dict]] = []
    with served(request.param) as bucket:
        bucket.after_put = lambda name: moments.append((name, dict(bucket.objects)))
        workdir = place(f"{request.param}://bucket/{RUN}")
        short_run(store, workdir)
        bucket.after_put = lambda name: None
        yield Left(bucket, workdir, moments)


def outcome(workdir: Path) -> tuple[list, dict[str, np.ndarray]]:
    """The losses, and every array of the last checkpoint."""
    trees, _ = restore_items(workdir, ("encoder", "state"))
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    losses = [(line["step"], line["loss"]) for line in read_metrics(workdir)]
    return losses, {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def check_same(workdir: Path, unbroken: Path) -> None:
    (losses, state), (expected, other) = outcome(workdir), outcome(unbroken)
    assert losses == expected and len(losses) == STEPS
    assert state.keys() == other.keys()
    for name, array in other.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_a_run_in_a_bucket_is_that_on_a_disk(left, unbroken):
    check_same(left.workdir, unbroken)
    assert all(name.startswith(f"{RUN}/") for name in left.bucket.objects)
    steps = {name.split("/")[3] for name in left.bucket.objects if "/checkpoints/" in name}
    seals = {name.split("/")[-1] for name in left.bucket.objects if "/seals/" in name}
    assert steps == {"6", "7"} and seals == {"6.json", "7.json"}  # the first one was deleted


def test_no_step_is_saved_before_its_lines(left):
    saved = 0
    for name, objects in left.moments:
        parts = name.removeprefix(f"{RUN}/checkpoints/").split("/")
        if len(parts) == 2 and parts[1] == COMMITTED:
            log = [x for key, (_, x) in sorted(objects.items()) if f"/{METRICS}/" in key]
            steps = [json.loads(line)["step"] for line in b"".join(log).splitlines()]
            assert set(range(int(parts[0]))) <= set(steps)
            saved += 1
    assert saved == 3


def moment(left: Left, which: str) -> dict:
    """What the bucket held at a moment of the save of step 6."""
    folder = f"{RUN}/checkpoints/6/"
    names = [name for name, _ in left.moments]
    at = {
        "within the save": next(n for n, name in enumerate(names) if name.startswith(folder)) + 4,
        "before the seal": names.index(f"{folder}{COMMITTED}"),
    }[which]
    return left.moments[at][1]


@pytest.mark.parametrize(
    "which", ["within the save", pytest.param("before the seal", marks=pytest.mark.full)]
)
def test_a_run_that_was_killed_goes_on_to_the_last_bit(left, store, unbroken, which):
    whole, left.bucket.objects = left.bucket.objects, dict(moment(left, which))
    assert not json.loads(left.bucket.objects[f"{RUN}/{FILE}"][1]).get("ended")
    assert f"{RUN}/seals/6.json" not in left.bucket.objects
    try:
        short_run(store, left.workdir)
        check_same(left.workdir, unbroken)
    finally:
        left.bucket.objects = whole


def test_status_and_compare_read_a_run_in_a_bucket(left, unbroken, tmp_path):
    said = status(left.workdir)
    assert f"{STEPS} of {STEPS} (100%)" in said and "step 7, whole" in said
    assert left.bucket.objects[f"{RUN}/status.png"][1].startswith(b"\x89PNG")
    runs = open_runs([left.workdir, unbroken])
    assert [line["loss"] for line in runs[0].lines] == [line["loss"] for line in runs[1].lines]
    assert any("/tensorboard/events" in name for name in left.bucket.objects)
    # What is copied to a disk is a run too.
    for name, (_, content) in left.bucket.objects.items():
        at = tmp_path / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(content)
    assert f"{STEPS} of {STEPS} (100%)" in status(tmp_path / RUN)


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(left, monkeypatch):
    workdir = left.workdir.parent / "held"
    refused = pytest.raises(UserError, match=f"process {os.getpid()} on .* is training there")
    with running(workdir), refused, running(workdir):
        pass
    words = {"pid": 7, "host": "elsewhere", "since": 1.0, "token": "t", "beat": 3}
    (workdir / FILE).write_text(json.dumps(words))  # as SIGKILL leaves it
    with running(workdir):
        pass
    # Two that find a dead one at the same time: the bucket takes the file of the first.
    (workdir / FILE).write_text(json.dumps(words))

    def another_begins(path):
        path.write_text(json.dumps(words | {"pid": 8}))
        return False

    monkeypatch.setattr(module, "beats", another_begins)
    refused = pytest.raises(UserError, match="process 8 on elsewhere is training there")
    with refused, running(workdir):
        pass


@pytest.mark.full
@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_five_kills_change_no_bit(tmp_path, kind):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "5", "150", "0", kind],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert json.loads(done.stdout)["kills"] == 5
