"""The steps of a run, one after the other: what is fed, watched, written, saved and rolled back."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mmv_jax.checkpoint import Checkpoints
from mmv_jax.data.pipeline import BEGIN, Rows
from mmv_jax.errors import WorkFailed
from mmv_jax.parallel import on_mesh
from mmv_jax.train.feed import ahead
from mmv_jax.train.goodput import Goodput
from mmv_jax.train.guard import Guard, RollBack
from mmv_jax.train.health import Health, Patience
from mmv_jax.train.log import Log, Silence
from mmv_jax.train.phases import Phases
from mmv_jax.train.signals import stop_signal
from mmv_jax.train.speed import Speed
from mmv_jax.train.state import TrainState, join_items, split_items
from mmv_jax.train.step import StepFunction
from mmv_jax.train.steps import take_steps
from mmv_jax.train.traces import Traces

Batches = Generator[dict[str, Any], None, None]


@dataclass
class Writer:
    """Writes the metrics of a step to the log, with its speed, the health of its features and what
    the wall time went into; and has the guard see them.

    Args:
      every: steps between two looks at the features.
      last: number of the run's last step.
      slow: says a process by its number, for people.
    """

    log: Log | Silence
    speed: Speed
    health: Health
    goodput: Goodput
    guard: Guard
    every: int
    last: int
    slow: Callable[[int], str]

    def __post_init__(self) -> None:
        self._patience = Patience(
            "Lower config.optimizer.peak_lr, or set config.encoder.qk_norm=True."
        )

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """
        Raises:
          WorkFailed: the loss was not finite for several steps in a row, or it spikes again and
            again.
          RollBack: there were too many spikes.
        """
        self.health.add(np.asarray(metrics.pop("features"), np.float32))
        numbers = {name: np.asarray(value) for name, value in metrics.items()}
        due = step % self.every == 0 or step == self.last
        figures = self.health.figures() if due else {}
        spent = self.goodput.figures(step) if due else {}
        self.log.write(step, {**numbers, **self.speed.figures(step, numbers), **figures, **spent})
        if figures:
            plain = {name: float(value) for name, value in numbers.items()}
            for words in self.health.verdict(plain, figures):
                self.log.say(f"step {step}: {words}")
        if "straggler" in spent:
            self.log.say(
                f"step {step}: {self.slow(int(spent['straggler']))} waits for its rows"
                f" {spent['input_worst_s']:.3g} s a step, the median process"
                f" {spent['input_median_s']:.3g} s"
            )
        self._patience.see(step, skipped=bool(numbers["skipped"]))
        spike = bool(numbers["spike"])
        if spike and not self.guard.is_left_out(step):
            self.log.say(
                f"step {step}: left out, since its loss {float(numbers['loss']):.4g} or its"
                f" gradient's norm {float(numbers['grad_norm']):.4g} is a spike"
            )
        self.guard.see(
            step, loss=float(numbers["loss"]), norm=float(numbers["grad_norm"]), spike=spike
        )


@dataclass
class Steps:
    """A run whose parts are made: what its loop needs.

    Attributes:
      total: number of the run's steps.
      batches: global arrays of the steps from one on.
      shapes: of the state, to restore into.
      carried: what stands beside every checkpoint.
      traces: profiles of this process.
    """

    total: int
    mesh: Mesh
    step_fn: StepFunction
    probe: Callable[[int, TrainState], dict[str, float]]
    batches: Callable[[Rows, int], Batches]
    shapes: TrainState
    checkpoints: Checkpoints
    writer: Writer
    phases: Phases
    traces: Traces
    carried: dict[str, Any]

    def train(self, state: TrainState, rows: Rows, first: int) -> TrainState:
        """Takes the steps from `first` on; goes back to a checkpoint where the loss spikes too
        often.

        Raises:
          WorkFailed: there is no checkpoint to go back to, or going back did not help.
        """
        with stop_signal() as stop, on_mesh(self.mesh), self.traces:
            while True:
                try:
                    state = self._go_on(state, rows, first=first, stop=stop)
                except RollBack as back:
                    first, state, rows = self._roll_back(back, rows)
                    continue
                # Waiting for the last save is no part of the last step, which has a limit.
                with self.phases("save"):
                    self.checkpoints.finish()
                return state

    def _go_on(
        self, state: TrainState, rows: Rows, *, first: int, stop: Callable[[int], bool]
    ) -> TrainState:
        begin = (0, 0)

        def take(step: int, state: TrainState, given: tuple[dict[str, Any], float]):
            nonlocal begin
            batch, waited_s = given
            begin = batch.pop(BEGIN)
            # the first step compiles
            with self.phases("compile" if step == first else "step"):
                state, metrics = self.step_fn(state, batch, self.writer.guard.limits(step))
            self.traces.at(step, metrics["loss"])
            with self.phases("probe"):
                figures = self.probe(step, state)
            return state, metrics | {"input_s": waited_s} | figures

        def save(step: int, state: TrainState, flush: Callable[[], None]) -> bool:
            stopping = stop(step)
            now = stopping or step + 1 == self.total
            if self.checkpoints.is_due(step + 1, now=now):
                # The guard must have seen this step: its history is saved with it.
                flush()
                self._save(step + 1, state, begin, now=now)
            if stopping:
                self.writer.log.say(
                    f"Told to stop: saved step {step + 1}. The same command goes on from there."
                )
            return stopping

        with ahead(self.batches(rows, first)) as batches:
            fed = self._fed(batches, first)
            return take_steps(take, state, fed, write=self.writer, save=save)

    def _fed(
        self, batches: Iterator[dict[str, Any]], first: int
    ) -> Iterator[tuple[int, tuple[dict[str, Any], float]]]:
        """The number of each step, its batch, and the seconds that it was waited for."""
        for step in range(first, self.total):
            self.phases.next_step(step)
            began = time.perf_counter()
            with self.phases("input"):
                batch = next(batches)
            yield step, (batch, time.perf_counter() - began)

    def _save(self, step: int, state: TrainState, begin: tuple[int, int], *, now: bool) -> None:
        with self.phases("save"):
            # a new one: the last may still be written
            seen = self.carried["pretraining"] | {
                "begin": begin,
                "guard": self.writer.guard.state(),
                "spent": self.writer.goodput.seconds(),
                "saved_at": time.time(),
            }
            # A step in a checkpoint is not done again, so its line must not be lost.
            self.writer.log.push()
            self.checkpoints.config = self.carried | {"pretraining": seen}
            self.checkpoints.save_if_due(step, split_items(state), now=now)

    def _roll_back(self, back: RollBack, rows: Rows) -> tuple[int, TrainState, Rows]:
        """The newest whole checkpoint from before the spikes, as (step, state, rows)."""
        writer = self.writer
        with self.phases("restore"):
            first, items = self.checkpoints.restore_newest(
                split_items(self.shapes), not_after=back.before
            )
            if not first:
                raise WorkFailed(
                    f"{writer.guard.diagnosis()} There is no checkpoint from before to go back to."
                    " Lower config.optimizer.peak_lr, or lengthen config.optimizer.warmup."
                )
            before: Mapping[str, Any] = self.checkpoints.config_of(first)["pretraining"]
        writer.log.say(
            f"{writer.guard.diagnosis()} Going back to checkpoint {first}; the steps"
            " around the spikes are left out."
        )
        writer.guard = writer.guard.go_back(before.get("guard"))
        return first, join_items(items), rows.begin_at(tuple(before.get("begin", (0, 0))))
