"""Two processes on loopback that make one run: they share the rows of a step, its heads or its
tokens, and a workdir in a bucket.
"""

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path

import jax
import numpy as np
import pytest

from mmv_jax.cli import main
from mmv_jax.parallel import make_mesh
from mmv_jax.train import loop

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "tests" / "train" / "nano.py"
STEPS, EVERY = 60, 3
# Sides that two divides: heads, and tokens of each kind of row.
DIVIDED = ("rows.prefix=64", "rows.visible_share=0.5", "encoder.depth=2", "encoder.heads=4")
ALONE = tuple(f"objective.{name}=0" for name in ("mae", "ibot", "koleo"))  # DINO


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return runpy.run_path(str(NANO))["write_studies"](tmp_path_factory.mktemp("two") / "store")


def words_of(store: Path, workdir: object, *changes: str) -> list[str]:
    own = [f"--config.{change}" for change in (f"data.store={store}", *ALONE, *changes)]
    return ["pretrain", "--config", str(NANO), "--workdir", str(workdir), *own]


def start(words: list[str], count: int = 2, **environment: str) -> list[subprocess.Popen]:
    """The processes of one run, with a device each."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": f"{count}"}
    shared |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **environment}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "mmv_jax.cli", *words],
            env=os.environ | shared | {"JAX_PROCESS_ID": str(n)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """The exit code of each, and what it said."""
    try:
        said = [process.communicate(timeout=900)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, words) for process, words in zip(processes, said)]


def losses_of(workdir: Path) -> list[tuple[int, float]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def run_alone(words: list[str], workdir: Path, monkeypatch, axes: dict[str, int]):
    """The losses of the same run in this process, on so many of its devices."""
    mesh = make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))])
    monkeypatch.setattr(loop, "make_mesh", wraps(make_mesh)(lambda **axes: mesh))
    assert main(words) == 0
    return losses_of(workdir)


@pytest.mark.full
@pytest.mark.parametrize("axis", ["tensor", "sequence"])
def test_two_processes_that_share_rows_give_the_losses_of_one(store, tmp_path, monkeypatch, axis):
    changes = (*DIVIDED, "steps=4")
    words = words_of(store, tmp_path / "two", f"mesh.{axis}=2", *changes)
    for code, said in ended(start(words)):
        assert code == 0, said
    words = words_of(store, tmp_path / "one", *changes)
    expected = run_alone(words, tmp_path / "one", monkeypatch, {"data": 1})
    found = losses_of(tmp_path / "two")
    assert [step for step, _ in found] == [0, 1, 2, 3]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("hosts", [1, 4])
def test_a_run_of_two_hosts_goes_on_with_half_and_with_twice_as_many(
    store, tmp_path, monkeypatch, hosts
):
    changes = ("rows.per_step=4", "steps=8", "checkpoint.every=4", "checkpoint.keep=3")
    words = words_of(store, tmp_path / "two", "mesh.data=2", *changes)
    for code, said in ended(start(words)):
        assert code == 0, said
    other = shutil.copytree(tmp_path / "two", tmp_path / "other")
    # Back to step 4: what came later is taken away.
    shutil.rmtree(other / "checkpoints" / "8")
    lines = (other / "metrics.jsonl").read_text().splitlines(keepends=True)
    (other / "metrics.jsonl").write_text("".join(lines[:4]))
    words = words_of(store, other, f"mesh.data={hosts}", *changes)
    if hosts == 1:
        losses = run_alone(words, other, monkeypatch, {"data": 1})
    else:
        for code, said in ended(start(words, hosts)):
            assert code == 0, said
        losses = losses_of(other)
    assert [step for step, _ in losses] == list(range(8))
    # The steps before are those of the copy, the others were made anew.
    np.testing.assert_allclose(losses, losses_of(tmp_path / "two"), rtol=1e-5)
    assert (other / "checkpoints" / "8").exists()


@pytest.mark.full
# Where process 0 dies, JAX itself ends the other at once: its service lived there.
@pytest.mark.parametrize(
    "kind, killed, why",
    [
        ("gs", 1, f"process 1 on {socket.gethostname()} is stuck"),
        ("s3", 0, "another task died"),
    ],
)
def test_two_processes_in_one_bucket_go_on_after_one_is_killed(
    store, tmp_path, monkeypatch, kind, killed, why
):
    monkeypatch.syspath_prepend(ROOT / "tests" / "store")
    from bucket import served

    changes = (f"steps={STEPS}", f"checkpoint.every={EVERY}", "mesh.data=2")
    expected = run_alone(
        words_of(store, tmp_path / "one", *changes), tmp_path / "one", monkeypatch, {"data": 2}
    )
    with served(kind) as bucket:
        workdir = f"{kind}://bucket/runs/two"
        words = words_of(store, workdir, *changes, "watchdog.peer_s=20.0")
        processes = start(words, **bucket.environment)
        sealed = f"runs/two/seals/{EVERY}.json"
        while sealed not in bucket.objects and processes[killed].poll() is None:
            time.sleep(0.02)
        processes[killed].send_signal(signal.SIGKILL)
        codes = ended(processes)
        assert codes[killed][0] == -signal.SIGKILL
        code, said = codes[1 - killed]
        assert code not in (0, -signal.SIGKILL) and why in said
        for code, said in ended(start(words, **bucket.environment)):
            assert code == 0, said
        found = lines_in(bucket, "runs/two")
        whole = {name for name in bucket.objects if name.startswith("runs/two/seals/")}
    assert [step for step, _ in found] == [*range(STEPS)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert f"runs/two/seals/{STEPS}.json" in whole


def lines_in(bucket, folder: str) -> list[tuple[int, float]]:
    """Step and loss of each line of a run's log, as it stands in the bucket."""
    from mmv_jax.buckets import place
    from mmv_jax.train.log import read_metrics

    scheme = "gs" if "TENSORSTORE_GCS_HTTP_URL" in bucket.environment else "s3"
    lines = read_metrics(place(f"{scheme}://bucket/{folder}"))
    return [(line["step"], line["loss"]) for line in lines]
