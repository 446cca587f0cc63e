"""Who holds a workdir: on this machine by a lock, beyond it by a file that beats."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from mmv_jax.errors import UserError
from mmv_jax.files import write_whole
from mmv_jax.train import running as module
from mmv_jax.train.running import FILE, machine, process_of, running

HELD = """
import sys, time
from pathlib import Path
from mmv_jax.train.running import running
with running(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.1)
    monkeypatch.setattr(module, "WATCH_S", 0.6)


def left_by(workdir, **about):
    """A workdir with the file of a run that did not end well."""
    words = {"pid": 7, "host": "elsewhere", "machine": "m", "since": 1.0, "token": "t", "beat": 3}
    workdir.mkdir(exist_ok=True)
    write_whole(workdir / FILE, json.dumps(words | about))
    return workdir


def test_a_second_run_is_refused_and_one_that_was_killed_is_not_in_the_way(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", HELD, str(tmp_path)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        refused = pytest.raises(UserError, match=f"process {first.pid} on .* is training there")
        with refused, running(tmp_path):
            pass
        first.kill()
    began = time.monotonic()
    with running(tmp_path):
        assert process_of(tmp_path).pid == os.getpid()
        assert process_of(tmp_path).is_alive
    assert time.monotonic() - began < module.WATCH_S  # the lock had told


@pytest.mark.parametrize("has_locks", [True, False], ids=["locks", "a mounted bucket"])
def test_the_run_of_another_machine_that_is_gone_is_taken_over(tmp_path, monkeypatch, has_locks):
    if not has_locks:
        monkeypatch.setattr(module, "try_lock", lambda file: None)
    with running(left_by(tmp_path / "run")):
        assert process_of(tmp_path / "run").host == socket.gethostname()


def test_a_lock_that_a_lost_machine_keeps_is_taken_over_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "try_lock", lambda file: False)
    with running(left_by(tmp_path / "run")):
        pass


@pytest.mark.parametrize("locked", [True, None, False])
def test_the_run_of_another_machine_that_beats_is_left_alone(tmp_path, monkeypatch, locked):
    monkeypatch.setattr(module, "try_lock", lambda file: locked)
    workdir, over = left_by(tmp_path / "run"), threading.Event()

    def beat():
        for n in range(100):
            left_by(workdir, beat=n)
            if over.wait(0.1):
                return

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        refused = pytest.raises(UserError, match="process 7 on elsewhere is training there")
        with refused, running(workdir):
            pass
    finally:
        over.set()
        beating.join()


def test_a_run_that_ended_well_is_not_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WATCH_S", 600.0)
    with running(left_by(tmp_path / "run", ended=True)):
        pass
    # Its own name on another machine, such as that of a pod that came back on another node.
    words = json.loads((tmp_path / "run" / FILE).read_text())
    assert words["ended"] and words["machine"] == machine()


def test_the_file_beats_while_the_run_goes_on(tmp_path):
    with running(tmp_path) as owner:
        first = json.loads((tmp_path / FILE).read_text())["beat"]
        until = time.monotonic() + 20
        while owner._about["beat"] < first + 3:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert owner.silence() < 20
