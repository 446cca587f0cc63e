"""What counts as stuck, by a clock set by hand; and two processes of which one is stopped."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import tensorstore as ts

from mmv_jax.errors import UserError
from mmv_jax.train.moved import LEAST, Progress, moved_bytes
from mmv_jax.train.peers import Peers
from mmv_jax.train.phases import Phases
from mmv_jax.train.watchdog import DONE, Heard, Limits, halt_of_others, halt_of_own, watching

LIMITS = Limits()


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def at_work(seconds: float, *, phase: str = "step", usual: float = 2.0) -> Phases:
    """After five steps of `usual` seconds, in the next one for `seconds` with `phase`."""
    clock = Clock()
    phases = Phases(clock)
    for step in range(6):
        phases.next_step(step)
        clock.now += usual if step < 5 else 0.0
    phases._enter(phase)
    clock.now += seconds
    return phases


def test_the_seconds_of_all_phases_add_up_to_the_wall_time():
    clock = Clock()
    phases = Phases(clock)
    for step in range(3):
        phases.next_step(step)
        clock.now += 1
        with phases("input"):
            clock.now += 2
        with phases("save"):
            clock.now += 4
            assert phases.now() == ("save", 4)
    assert phases.seconds() == {"opening": 0, "step": 3, "input": 6, "save": 12}
    # saving is no part of a step's time
    assert phases.step_seconds() == (3, 3)


@pytest.mark.parametrize(
    "phase, usual, seconds, halts",
    [
        ("step", 1.0, 59, False),
        ("step", 1.0, 61, True),
        ("input", 1.0, 61, True),
        ("step", 5.0, 99, False),
        ("step", 5.0, 101, True),
        ("compile", 1.0, 5000, False),
        ("probe", 1.0, 5000, False),
        ("save", 1.0, 1000, False),
        ("save", 1.0, 1801, True),
        ("restore", 1.0, 1801, True),
    ],
)
def test_a_step_may_take_a_minute_or_twenty_medians(phase, usual, seconds, halts):
    words = halt_of_own(at_work(seconds, phase=phase, usual=usual), LIMITS, {})
    assert (words is not None) == halts
    if halts:
        assert phase in words and socket.gethostname() in words


SAVES = {"host": "b", "step": 5, "phase": "save", "idle": 50.0}


@pytest.mark.parametrize(
    "seconds, idle, peer, halts",
    [
        (44, 500, {}, False),  # of the time before the save nothing counts
        (46, 500, {}, True),
        (1000, 44, {}, False),  # slow
        (46, 500, SAVES, True),
        (1000, 500, SAVES | {"idle": 3.0}, False),  # that one still writes
        (1000, 500, SAVES | {"phase": "probe"}, False),  # all wait for that one
        (46, 500, SAVES | {"phase": DONE}, True),
    ],
)
@pytest.mark.parametrize("phase", ["save", "restore"])
def test_a_save_without_a_byte_that_moves_hangs(phase, seconds, idle, peer, halts):
    beats = {1: peer} if peer else {}
    words = halt_of_own(at_work(seconds, phase=phase), LIMITS, beats, float(idle))
    assert (words is not None) == halts
    assert not halts or words.startswith(
        f"the storage hangs: no byte has moved for 46 s of a {phase}"
    )


def test_process_0_tells_of_all_for_how_long_no_byte_has_moved():
    with watching(Phases(), LIMITS) as watchdog:
        pass  # its threads have ended
    watchdog._idle = 50.0
    assert watchdog._told_idle(40.0) == 40
    watchdog.heard.take({0: SAVES, 1: SAVES | {"idle": 3.0}, 2: SAVES}, now=0.0)
    assert watchdog._told_idle(60.0) == 3


def test_a_slow_save_makes_progress_and_a_hanging_one_does_not():
    clock, counted = Clock(), {"files": 5 * LEAST, "network": 0}
    progress = Progress(lambda: dict(counted), clock)
    for _ in range(50):  # a large file, which no other counter sees before its end
        clock.now += 1
        counted["network"] += LEAST
        assert progress.idle() == 0
    for _ in range(50):  # signs of life
        clock.now += 1
        counted["network"] += LEAST // 100
    assert progress.idle() == 50
    counted["files"] += LEAST
    assert progress.idle() == 0


def test_bytes_of_files_are_counted(tmp_path):
    before = moved_bytes()
    kept = ts.KvStore.open({"driver": "file", "path": f"{tmp_path}/"}).result()
    kept["a"] = bytes(3 * LEAST)
    after = moved_bytes()
    assert after["files"] - before["files"] >= 3 * LEAST
    if "calls" in after:
        assert after["calls"] - before["calls"] >= 3 * LEAST
    assert all(isinstance(value, int) and value >= before[name] for name, value in after.items())


def test_a_step_that_hangs_names_the_process_that_is_elsewhere():
    beats = {
        1: {"host": "b", "step": 5, "phase": "step", "since": 62.0},
        2: {"host": "c", "step": 5, "phase": "input", "since": 61.0},
        3: {"host": "d", "step": 6, "phase": DONE, "since": 1.0},
    }
    words = halt_of_own(at_work(70), LIMITS, beats)
    assert words.startswith("step 5 hangs: it has taken 70 s, the limit is 60 s and the median 2 s")
    assert words.endswith("process 2 on c is at step 5 with input since 61 s")


def test_a_process_without_a_new_beat_is_stuck_and_one_that_is_done_is_not():
    heard = Heard(answered=0.0)
    beat = {"host": "b", "step": 7, "phase": "step", "at": 1.0}
    heard.take({1: beat, 2: {**beat, "phase": DONE}}, now=0.0)
    # The same beats again and again, from a service that answers.
    heard.take({1: beat, 2: {**beat, "phase": DONE}}, now=44.0)
    assert halt_of_others(heard, 0, LIMITS, now=44.0) is None
    heard.take({1: {**beat, "at": 2.0}}, now=44.5)
    assert halt_of_others(heard, 0, LIMITS, now=60.0) is None
    heard.take({1: {**beat, "at": 2.0}}, now=89.0)
    words = halt_of_others(heard, 0, LIMITS, now=89.6)
    assert words is not None and "step 7" in words
    assert words.startswith("process 1 on b is stuck: it has given no sign of life for 45 s")


def test_a_service_that_does_not_answer_is_process_0():
    heard = Heard(answered=0.0)
    heard.take({0: {"host": "a"}}, now=1.0)
    words = halt_of_others(heard, 1, LIMITS, now=50.0)
    assert words.startswith("process 0 on a is stuck: its coordination service has not answered")


class Service:
    """The key-value store of JAX's service, in memory."""

    def __init__(self):
        self.kept = {}

    def key_value_set(self, key, value, allow_overwrite):
        self.kept[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.kept.items() if key.startswith(folder)]


def test_process_0_reads_all_beats_and_the_first_complaint():
    service = Service()
    peers = [Peers(service, index, 3) for index in range(3)]
    for peer in peers:
        peer._root = "run"
        peer.beat({"step": peer.index})
    assert peers[0].beats() == {n: {"step": n} for n in range(3)}
    assert peers[0].complaint() is None
    peers[2].complain("no room", 2)
    assert peers[0].complaint() == ("no room", 2)
    peers[1].leave()
    assert peers[0].left() == {1}


def test_a_single_process_warns_once_and_goes_on(capsys):
    phases = Phases()
    with watching(phases, Limits(step_s=0.1)):
        phases.next_step(0)
        until = time.monotonic() + 10
        said = ""
        while "hangs" not in said and time.monotonic() < until:
            time.sleep(0.1)
            said += capsys.readouterr().err
        time.sleep(0.7)
        said += capsys.readouterr().err
    assert said.count("warning: step 0 hangs") == 1


# Waits for a signal in a step, in which the other process does not come.
STUCK = """
import sys, time
from mmv_jax.parallel import initialize_distributed
initialize_distributed()
from mmv_jax.train.phases import Phases
from mmv_jax.train.watchdog import Limits, watching
with watching(Phases(), Limits(peer_s=6.0)) as watchdog:
    until = time.monotonic() + 60
    while len(watchdog.heard.beats) < (1 if watchdog._peers.index else 2):
        assert time.monotonic() < until
        time.sleep(0.1)
    print("beats", flush=True)
    time.sleep(300)
"""


def free_ports() -> list[int]:
    """Two ports on which nobody listened a moment ago."""
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in (first, second)]


def started(port: int) -> list[subprocess.Popen]:
    """Two processes of one run."""
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", STUCK],
            env=os.environ | shared | {"JAX_PROCESS_ID": str(n), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]


def test_the_other_of_two_processes_ends_where_one_is_stopped():
    # In one run it is the first process, in another the second: they wait at the same time.
    runs = [started(port) for port in free_ports()]
    processes = [process for run in runs for process in run]
    try:
        for process in processes:
            assert process.stdout.readline() == "beats\n"
        for stopped, run in enumerate(runs):
            run[stopped].send_signal(signal.SIGSTOP)
        for stopped, run in enumerate(runs):
            _, said = run[1 - stopped].communicate(timeout=120)
            assert run[1 - stopped].returncode == 1
            (line,) = said.strip().splitlines()
            assert line.startswith(
                f"mmv pretrain: process {stopped} on {socket.gethostname()} is stuck"
            )
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("wrong", ({"peer_s": 1.0}, {"step_s": 0.0}, {"medians": -1.0}))
def test_limits_that_a_healthy_run_would_pass_are_refused(wrong):
    with pytest.raises(UserError, match=rf"config.watchdog.{next(iter(wrong))} is "):
        Limits(**wrong)
