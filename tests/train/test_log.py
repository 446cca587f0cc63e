"""metrics.jsonl: exact, and whole again after a kill."""

import json
import os
import time

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from mmv_jax.errors import UserError
from mmv_jax.train.log import METRICS, Log, one_behind, read_metrics
from mmv_jax.train.steps import take_steps
from mmv_jax.train.wandb_board import LogOptions, WandbBoard


def test_floats_come_back_to_the_last_bit(tmp_path):
    values = (np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25)).astype(
        np.float32
    )
    with Log(tmp_path, 0, 50) as log:
        for step, value in enumerate(values):
            log.write(step, {"loss": value, "skipped": np.int32(0)})
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(50))
    assert [line["loss"] for line in lines] == values.tolist()
    assert all(isinstance(line["skipped"], int) for line in lines)


def test_half_a_line_swallows_neither_itself_nor_the_next(tmp_path):
    (tmp_path / METRICS).write_text(
        '{"step": 0, "loss": 3.0}\n{"step": 1, "loss": 2.0}\n{"step": 2, "lo'
    )
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]
    with Log(tmp_path, 1, 4) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": np.float32(step)})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (0, 3.0),
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
    ]


def test_the_later_line_of_a_step_stands(tmp_path):
    lines = [(0, 1.0), (1, 2.0), (2, 3.0), (1, 4.0)]
    (tmp_path / METRICS).write_text(
        "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in lines)
    )
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (0, 1.0),
        (1, 4.0),
        (2, 3.0),
    ]


def test_a_loss_that_is_not_finite_can_be_read_again(tmp_path):
    with Log(tmp_path, 0, 2) as log:
        log.write(0, {"loss": np.float32("nan")})
    assert np.isnan(read_metrics(tmp_path)[0]["loss"])


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    with Log(tmp_path, 0, 2, seconds=0.0) as log:
        log.write(0, {"loss": np.float32(0.5)})
        log.write(1, {"loss": np.float32(0.25)})
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith("step 2/2  loss 0.2500")


def test_the_rate_does_not_count_the_first_step_which_compiles(tmp_path, capsys, monkeypatch):
    clock = iter([0.0, 60.0, 61.0, 62.0])  # opened, then one step an item
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Log(tmp_path, 10, 100, seconds=0.5) as log:
        for step in (10, 11, 12):
            log.write(step, {"loss": np.float32(0.5)})
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("step 11/100") and "60.0 s with compiling" in first
    assert "1.00 steps/s  1.4 min left" in last


def test_other_boards_get_every_step_and_are_closed(tmp_path):
    class Board:
        def __init__(self):
            self.seen, self.closed = [], False

        def write(self, step, numbers):
            self.seen.append((step, numbers["loss"]))

        def close(self):
            self.closed = True

    board = Board()
    with Log(tmp_path, 0, 1, more=[board]) as log:
        log.write(0, {"loss": np.float32(0.5)})
    assert board.seen == [(0, 0.5)] and board.closed


def test_weights_and_biases_keeps_a_run_offline_and_goes_on_with_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 1):  # a resume does a step again
        board = WandbBoard("chest", tmp_path, {"steps": 2})
        board.write(first, {"loss": 0.5})
        board.close()
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    name = (tmp_path / "wandb" / "run_id").read_text()
    assert {path.name for path in runs} == {f"run-{name}.wandb"}
    deadline = time.monotonic() + 30
    # The service that writes the file ends a little after the run.
    while not all(b"loss" in path.read_bytes() for path in runs):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_weights_and_biases_without_its_package_is_a_users_mistake(monkeypatch):
    monkeypatch.setattr("mmv_jax.train.wandb_board.find_spec", lambda name: None)
    assert LogOptions().wandb == ""
    with pytest.raises(UserError, match=r"pip install 'mmv_jax\[wandb\]'"):
        LogOptions(wandb="chest")


def events_of(tmp_path) -> list[Event]:
    """What TensorBoard would read: records of a length of 8 bytes, a checksum of 4, the event and
    another checksum.
    """
    events = []
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            events.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return events


def test_tensorboard_has_every_step_and_where_a_run_went_on(tmp_path):
    with Log(tmp_path, 3, 5) as log:
        log.write(3, {"loss": np.float32(0.5), "tokens": np.int32(7)})
        log.write(4, {"loss": np.float32(0.25)})
    version, start, *steps = events_of(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, start.session_log.START)
    assert [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in steps] == [
        (3, {"loss": 0.5, "tokens": 7}),
        (4, {"loss": 0.25}),
    ]


def test_a_full_disk_ends_a_run_and_does_not_hang_it(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, os.strerror(28))

    with Log(tmp_path, 0, 9) as log:
        monkeypatch.setattr(RecordWriter, "write", full)
        with pytest.raises(OSError, match="No space left"):
            log.write(0, {"loss": np.float32(0.5)})


def test_each_step_is_written_once_one_step_late_and_the_last_on_leaving():
    written = []
    with one_behind(lambda step, metrics: written.append((step, metrics["loss"]))) as report:
        for step in range(3):
            report(step, {"loss": step / 2})
            assert len(written) == step
    assert written == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_the_last_step_is_written_where_the_next_batch_cannot_be_read():
    written = []

    def run():
        with one_behind(lambda step, metrics: written.append(step)) as report:
            report(7, {})
            raise OSError("no such batch")

    with pytest.raises(OSError, match="no such batch"):
        run()
    assert written == [7]


def test_a_step_whose_writing_ends_the_run_is_written_once():
    written = []

    def write(step, metrics):
        written.append(step)
        raise RuntimeError("diverged")

    def run():
        with one_behind(write) as report:
            report(0, {})
            report(1, {})

    with pytest.raises(RuntimeError, match="diverged"):
        run()
    assert written == [0]


def test_the_loop_writes_a_step_late_and_ends_where_it_is_told():
    happened = []

    def take(step, state, batch):
        happened.append(f"take {step}")
        return state + batch, {"sum": state + batch}

    def save(step, state, flush):
        happened.append(f"save {step} {state}")
        return state >= 3

    found = take_steps(
        take,
        0,
        zip(range(5, 9), (1, 2, 4, 8)),
        write=lambda step, numbers: happened.append(f"write {step} {numbers['sum']}"),
        save=save,
    )
    assert found == 3
    assert happened == ["take 5", "save 5 1", "take 6", "write 5 1", "save 6 3", "write 6 3"]
