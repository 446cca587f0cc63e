"""Ends a run that has come to a halt, and says why: a stuck process, a step or a storage that
hangs.

JAX waits for ever for a process that lives and does nothing. So every process tells the others by a
thread of its own that it lives, and another thread compares what it hears with the limits.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax

from mmv_jax.errors import UserError
from mmv_jax.report.progress import say
from mmv_jax.train.moved import Progress
from mmv_jax.train.peers import Peers, find_peers, host_name
from mmv_jax.train.phases import OF_A_STEP, Phases

BEAT_S = 2.0  # between two beats
LOOK_S = 0.5  # between two looks at what was heard
# that process 0 waits for the others to end, since the service of all ends with it
FAREWELL_S = 5.0
DONE = "done"  # the phase of a process whose run has ended well
STORAGE = ("save", "restore", "opening")  # phases in which files are waited for
MOVES = ("save", "restore")  # phases in which bytes move all the time


@dataclass(frozen=True)
class Limits:
    """The group `watchdog` of a config: after how many seconds something counts as stuck.

    Attributes:
      peer_s: without a beat of a process, without an answer of the workdir's storage, or within a
        save or a restore without a byte that moves.
      step_s: of a step, at the least; compiling, saving and probing do not count.
      medians: of a step, in medians of the last steps.
      storage_s: of one save, one restore, or of opening store and labels.
    """

    peer_s: float = 45.0
    step_s: float = 60.0
    medians: float = 20.0
    storage_s: float = 1800.0

    def __post_init__(self) -> None:
        """
        Raises:
          UserError: a limit that a healthy run would pass at once.
        """
        least = {"peer_s": 3 * BEAT_S}  # a beat or two may be late
        for name in ("peer_s", "step_s", "medians", "storage_s"):
            value = getattr(self, name)
            if not value > 0 or value < least.get(name, 0.0):
                above = f"{least[name]:g} or more" if name in least else "above 0"
                raise UserError(f"config.watchdog.{name} is {value!r}, but must be {above}.")


@dataclass
class Heard:
    """What a process has heard of the others. Times are of its own clock: no two clocks are
    compared.

    Attributes:
      answered: when the service answered last.
      changed: when the beat of each process changed last.
      beats: the last one of each.
      ending: why the run is to end, and the exit code.
    """

    answered: float
    changed: dict[int, float] = field(default_factory=dict)
    beats: dict[int, dict[str, Any]] = field(default_factory=dict)
    ending: tuple[str, int] | None = None

    def take(self, beats: Mapping[int, dict[str, Any]], now: float) -> None:
        """Notes the beats that a look at the service gave."""
        self.answered = now
        for index, beat in beats.items():
            if self.beats.get(index) != beat:
                self.changed[index] = now
        self.beats = {**self.beats, **beats}


def name_of(index: int, beats: Mapping[int, Mapping[str, Any]]) -> str:
    """A process by its number, and by its host where that is known."""
    host = beats.get(index, {}).get("host")
    return f"process {index}" + (f" on {host}" if host else "")


def halt_of_others(heard: Heard, own: int, limits: Limits, now: float) -> str | None:
    """Which process is stuck, in words; None where all of them beat."""
    if now - heard.answered > limits.peer_s:
        return (
            f"{name_of(0, heard.beats)} is stuck: its coordination service has not answered for"
            f" {now - heard.answered:.0f} s"
        )
    for index, since in sorted(heard.changed.items()):
        beat = heard.beats.get(index, {})
        if index != own and beat.get("phase") != DONE and now - since > limits.peer_s:
            return (
                f"{name_of(index, heard.beats)} is stuck: it has given no sign of life for"
                f" {now - since:.0f} s (its last: step {beat.get('step')}, {beat.get('phase')})"
            )
    return None


def halt_of_own(
    phases: Phases,
    limits: Limits,
    beats: Mapping[int, Mapping[str, Any]],
    idle: float = 0.0,
) -> str | None:
    """What takes too long in this process, in words, and whom it waits for; None where nothing
    does.

    Args:
      beats: of the other processes; all but process 0 know that of process 0 alone.
      idle: seconds for which this process has moved no byte.
    """
    (name, seconds), (of_step, usual) = phases.now(), phases.step_seconds()
    if name in STORAGE and seconds > limits.storage_s:
        return f"the storage hangs: {name} has taken {seconds:.0f} s ({here(phases)})"
    if name in MOVES and (still := idle_of_all(min(idle, seconds), beats)) > limits.peer_s:
        return (
            f"the storage hangs: no byte has moved for {still:.0f} s of a {name} ({here(phases)})"
        )
    longest = max(limits.step_s, limits.medians * (usual or 0.0))
    if name not in OF_A_STEP or of_step <= longest:
        return None
    words = (
        f"step {phases.step} hangs: it has taken {of_step:.0f} s, the limit is {longest:.0f} s"
        + (f" and the median {usual:.3g} s" if usual else "")
        + f" ({here(phases)})"
    )
    # All wait for the process that is behind, or that does something else than the step.
    for index, beat in sorted(beats.items()):
        behind = beat.get("step", phases.step) < phases.step
        if behind or beat.get("phase") not in ("step", DONE):
            return (
                f"{words}. {name_of(index, beats)} is at step {beat.get('step')} with"
                f" {beat.get('phase')} since {beat.get('since', 0):.0f} s"
            )
    return words


def idle_of_all(own: float, beats: Mapping[int, Mapping[str, Any]]) -> float:
    """Seconds for which no process has moved a byte; 0 where one does something else, for which the
    others wait.
    """
    others = [beat for beat in beats.values() if beat.get("phase") != DONE]
    if any(beat.get("phase") not in MOVES for beat in others):
        return 0.0
    # A save ends for all together: the others wait while one of them still writes.
    return min([own, *(beat.get("idle", 0.0) for beat in others)])


def here(phases: Phases) -> str:
    """This process and what it does."""
    return f"process {jax.process_index()} on {host_name()}, {phases.now()[0]}"


class Watchdog:
    """Watches one run: see `watching`.

    Args:
      peers: None for a single process, which only warns.
      storage: seconds since the workdir's storage answered last, where that is known.
    """

    def __init__(self, phases: Phases, limits: Limits, peers: Peers | None):
        self.storage: Callable[[], float] = lambda: 0.0
        self.heard = Heard(answered=time.monotonic())
        self.phases, self._limits, self._peers = phases, limits, peers
        self._progress, self._idle = Progress(), 0.0
        self._over = threading.Event()
        self._leaving = threading.Lock()
        self._warned = ""
        threads = [self._watch] if peers is None else [self._watch, self._exchange]
        for target in threads:
            threading.Thread(target=target, daemon=True).start()

    def input_seconds(self) -> dict[int, float]:
        """Seconds that the other processes have waited for rows, by number, as far as heard of."""
        beats = self.heard.beats
        return {index: beat["input"] for index, beat in beats.items() if "input" in beat}

    def hosts(self) -> dict[str, str]:
        """The host of each process by its number, as far as heard of."""
        beats = self.heard.beats
        return {str(index): beat["host"] for index, beat in beats.items() if "host" in beat}

    def name_of(self, index: int) -> str:
        """A process by its number, and by its host where that is known."""
        return name_of(index, self.heard.beats)

    def end_well(self) -> None:
        """The run has ended: nothing is watched any more."""
        self._over.set()
        if self._peers:
            self._peers.beat(self._beat() | {"phase": DONE})

    def end_with(self, error: BaseException) -> None:
        """This process's run has failed. Of several, all are told and this one exits here: JAX's
        own way out would wait minutes for those that hang.
        """
        if self._peers is None:
            self._over.set()
            return
        # A lost peer breaks the sums in which it took part, often before its beat is missed.
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(self._limits.peer_s + 2 * BEAT_S + 2 * FAREWELL_S)
        if not isinstance(error, UserError | KeyboardInterrupt | OSError):
            traceback.print_exception(error)
        # An OSError's own text has a path, which may be a patient's.
        told = error.strerror if isinstance(error, OSError) else str(error)
        words = told or type(error).__name__
        self._leave(f"{here(self.phases)}: {words}", getattr(error, "exit_code", 1))

    def _beat(self) -> dict[str, Any]:
        phase, since = self.phases.now()
        seconds = self.phases.seconds()
        return {
            # It changes with every beat, since time passes; that is what is looked at.
            "at": time.monotonic(),
            "host": host_name(),
            "step": self.phases.step,
            "phase": phase,
            "since": round(since, 1),
            "idle": round(self._told_idle(since), 1),
            "input": round(seconds.get("input", 0.0), 3),
        }

    def _told_idle(self, since: float) -> float:
        """Seconds for which this process has moved no byte; what process 0 tells is of all, since
        the others read its beat alone.
        """
        own = min(self._idle, since)
        return own if jax.process_index() else idle_of_all(own, self._others())

    def _others(self) -> dict[int, dict[str, Any]]:
        return {i: b for i, b in self.heard.beats.items() if i != jax.process_index()}

    def _exchange(self) -> None:
        """Tells and hears, again and again. Any call may hang, so this thread decides nothing."""
        assert self._peers is not None
        while not self._over.wait(BEAT_S):
            try:
                self._peers.beat(self._beat())
                self.heard.take(self._peers.beats(), time.monotonic())
                first = self._peers.index == 0
                told = self._peers.complaint() if first else self._peers.told_to_end()
            except jax.errors.JaxRuntimeError:
                continue  # the service is gone: `answered` grows old
            if told:
                self.heard.ending = told

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            code, self._idle = 1, self._progress.idle()
            words = self._halt()
            if self._peers and self.heard.ending:
                words, code = self.heard.ending
            if words and self._peers:
                self._leave(words, code)
            elif words:
                self._warn(words)

    def _halt(self) -> str | None:
        """What has come to a halt, in words."""
        if self._peers:
            words = halt_of_others(self.heard, self._peers.index, self._limits, time.monotonic())
            if words:
                return words
        silent = self.storage()
        if silent > self._limits.peer_s:
            return (
                f"the storage of the workdir hangs: it has not answered for {silent:.0f} s"
                f" ({here(self.phases)})"
            )
        return halt_of_own(self.phases, self._limits, self._others(), self._idle)

    def _warn(self, words: str) -> None:
        """Once a step and phase."""
        about = f"{self.phases.step} {self.phases.now()[0]}"
        if about != self._warned:
            self._warned = about
            say(f"warning: {words}. It may go on by itself; Ctrl-C ends it.")

    def _leave(self, words: str, code: int) -> None:
        """Tells the others, and ends this process at once."""
        # Two threads may come here; the first one ends the process.
        self._leaving.acquire()
        on = "the same command goes on from the last checkpoint"
        ending = "" if code == UserError.exit_code else f" The run ends here; {on}."
        print(f"mmv pretrain: {words.rstrip('.')}.{ending}", file=sys.stderr, flush=True)
        # In a thread: where process 0 is stuck, telling it never comes back.
        teller = threading.Thread(target=self._tell, args=(words, code), daemon=True)
        teller.start()
        teller.join(FAREWELL_S)
        os._exit(code)

    def _tell(self, words: str, code: int) -> None:
        assert self._peers is not None
        try:
            if self._peers.index:
                if not self.heard.ending:
                    self._peers.complain(words, code)
                self._peers.leave()
                return
            self._peers.end(words, code)
            # The others read the end with their next beat; the stuck one never does.
            until = time.monotonic() + FAREWELL_S
            while len(self._peers.left()) < self._peers.count - 1 and time.monotonic() < until:
                time.sleep(LOOK_S)
        except jax.errors.JaxRuntimeError:
            pass  # the service is gone, and nobody is left to be told


@contextmanager
def watching(phases: Phases, limits: Limits) -> Iterator[Watchdog]:
    """Watches the run inside. Where it comes to a halt every process of several ends with a
    non-zero code within a minute, and the first line says why; a single process only warns.
    """
    watchdog = Watchdog(phases, limits, find_peers())
    try:
        yield watchdog
    except BaseException as error:
        watchdog.end_with(error)
        raise
    watchdog.end_well()
