"""Ctrl-C: the first one lets the step end and be saved, a second one ends the process at once."""

import os
import signal
import subprocess
import sys

import pytest

from mmv_jax.train.signals import stop_signal

# Two Ctrl-C while a step takes for ever; what should follow the step is never reached.
TWICE = """
import os, signal, time
from mmv_jax.train.signals import stop_signal

with stop_signal() as stop:
    assert not stop(0)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop(0)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)
    print("saved")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_step_end(number, capsys):
    before = signal.getsignal(number)
    with stop_signal() as stop:
        assert not stop(0)
        os.kill(os.getpid(), number)
        assert stop(0)
    assert signal.getsignal(number) == before
    if number == signal.SIGINT:
        assert "Ctrl-C again ends at once" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_at_once():
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 130
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert "which is saved" in done.stderr
