"""Engines that run tasks: worker processes of this machine, or Ray.

A decoder that crashes ends its worker, but never the ingest.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection, get_context

from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.plugins import Plugin, named_plugins
from mmv_jax.store.task import Event, IngestTask, Place, Reading, Refusal, Told, Written

TaskFn = Callable[[IngestTask], Iterator[Event]]
TICK_S = 0.5  # interval between checks of the clock
TIMEOUT_S = 5.0  # wall time allowed for a line
# Large files get one more second for so many bytes: half the speed of JPEG 2000 on one busy core.
BYTES_A_SECOND = 2 << 20
PASSED_A_SECOND = 16 << 20  # of a gzipped tar that is inflated on the way to a member
DEATHS = 2  # a task is given up after so many deaths of workers outside any file


@dataclass(frozen=True)
class _Done:
    pass


@dataclass(frozen=True)
class _Failed:
    cause: str


def run_local(
    task_fn: TaskFn, tasks: Iterable[IngestTask], *, workers: int, timeout_s: float
) -> Generator[Event, None, None]:
    """Run tasks in worker processes; yield events in the order in which they happen.

    A file that crashes its process, or takes longer than `timeout_s` (s) to read, is refused. The
    unwritten files before it and the files after it continue as two tasks, so no file is read more
    than twice for it.

    Raises:
      WorkFailed: a task failed for a reason that no file caused, such as a full disk.
    """
    waiting = deque(tasks)
    crew = [_Worker(task_fn) for _ in range(min(workers, len(waiting)))]
    try:
        yield from _work_off(waiting, crew, timeout_s)
    finally:
        for worker in crew:
            worker.stop()


def _work_off(
    waiting: deque[IngestTask], crew: Sequence["_Worker"], timeout_s: float
) -> Iterator[Event]:
    """Events of all tasks, run by the workers of a crew; see `run_local`."""
    while waiting or any(worker.task for worker in crew):
        for worker in crew:
            if worker.task is None and waiting:
                worker.start(waiting.popleft())
        # Only workers with a task can send; the timeout lets a hung decoder be noticed.
        ready = connection.wait([w.pipe for w in crew if w.task], timeout=TICK_S)
        for worker in crew:
            if worker.task is None:
                continue
            if worker.pipe in ready:
                yield from worker.receive()
            # After the pipe is empty: a worker may have finished its line just before it died.
            if worker.is_dead or worker.is_late(timeout_s):
                late = not worker.is_dead
                yield from worker.refuse_file("timeout" if late else "decoder_died", timeout_s)
                # In front, so that lines of one part are not spread over the ingest.
                waiting.extendleft(worker.rest())
                worker.replace_process()


@dataclass
class _Worker:
    """One process, its task, and the file that it reads."""

    task_fn: TaskFn
    task: IngestTask | None = None
    reading: Place | None = None
    since: float = 0.0
    size: int = 0  # bytes of the file that it reads, as it found them
    is_dead: bool = False
    settled: set[Place] = field(default_factory=set)  # refused, or in a finished part

    def __post_init__(self):
        self.replace_process()

    def replace_process(self) -> None:
        if hasattr(self, "process"):
            self.stop()
        # A fork would inherit the locks of JAX's and TensorStore's threads.
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(named_plugins(), theirs, self.task_fn), daemon=True
        )
        self.process.start()
        # Our copy of the worker's end must close, or its death would not end the pipe.
        theirs.close()
        self.task, self.reading, self.is_dead = None, None, False

    def start(self, task: IngestTask) -> None:
        self.task, self.reading, self.settled = task, None, set()
        try:
            self.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            self.is_dead = True

    def receive(self) -> Iterator[Event]:
        """Yield all messages that the process has sent, and notice its end."""
        try:
            while self.task and self.pipe.poll():
                yield from self._take(self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self.is_dead = True

    def _take(self, event) -> Iterator[Event]:
        if isinstance(event, _Failed):
            raise WorkFailed(
                f"Ingest stopped: {event.cause}. What is finished stays; run the same command to"
                " resume."
            )
        if isinstance(event, _Done):
            self.task = None
            return
        self.reading = event.place if isinstance(event, Reading | Told) else None
        if isinstance(event, Reading):
            self.size = event.size
        # Each message restarts the clock: the timeout is for one line, not for a task.
        self.since = time.monotonic()
        self.settled |= (
            set(event.places)
            if isinstance(event, Written)
            else {event.place}
            if isinstance(event, Refusal)
            else set()
        )
        yield event

    def allowed_s(self, timeout_s: float) -> float:
        """Seconds that the current line may take."""
        jobs = self.task.jobs if self.task else ()
        job = next((job for job in jobs if job.place == self.reading), None)
        if job is None:
            return timeout_s
        size = max(job.size, self.size)
        return timeout_s + size / BYTES_A_SECOND + job.passed / PASSED_A_SECOND

    def is_late(self, timeout_s: float) -> bool:
        if self.task is None or self.reading is None:
            return False
        return time.monotonic() - self.since > self.allowed_s(timeout_s)

    def refuse_file(self, code: str, timeout_s: float) -> Iterator[Event]:
        if self.reading is not None:
            reason = (
                f"reading took longer than {self.allowed_s(timeout_s):.3g} s of wall time"
                " (--timeout)"
                if code == "timeout"
                else "the decoder ended its process on this file"
            )
            yield Refusal(self.reading, code, reason)

    def rest(self) -> list[IngestTask]:
        """Remaining tasks of a dead process: the lines before and after the file that killed it.

        Raises:
          WorkFailed: workers died outside any file too often.
        """
        assert self.task is not None
        left = [job for job in self.task.jobs if job.place not in self.settled]
        if self.reading is None:
            if self.task.deaths + 1 >= DEATHS:
                raise WorkFailed(
                    f"A worker died {DEATHS} times with exit code {self.process.exitcode} between"
                    " files: too little memory is the usual cause. Use fewer --workers."
                    " What is finished stays."
                )
            return [replace(self.task, jobs=tuple(left), deaths=self.task.deaths + 1)]
        # Lines before the file were read but not written; lines after it were not read.
        at = next(n for n, job in enumerate(left) if job.place == self.reading)
        return [
            replace(self.task, jobs=tuple(jobs)) for jobs in (left[:at], left[at + 1 :]) if jobs
        ]

    def stop(self) -> None:
        self.process.kill()  # parts are complete or absent: nothing to tidy up
        self.process.join()
        self.pipe.close()


def _work(plugins: tuple[Plugin, ...], pipe, task_fn: TaskFn) -> None:
    """Main loop of a worker process. `plugins` come first: they are loaded as they are received."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # decoders print file names and tags
    os.dup2(silence, 2)
    try:
        while True:
            task = pipe.recv()
            try:
                for event in task_fn(task):
                    pipe.send(event)
                pipe.send(_Done())
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                # Sent as text: not every exception can be pickled.
                pipe.send(_Failed(f"{type(error).__name__}: {error}"))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone


def run_ray(
    task_fn: TaskFn, tasks: Iterable[IngestTask], *, workers: int, timeout_s: float
) -> Generator[Event, None, None]:
    """Run tasks on a Ray cluster (`RAY_ADDRESS`), or on Ray on this machine.

    At most `workers` tasks run at a time.

    On its node, a task runs as in `run_local` with one worker, so broken files are handled in the
    same way. Ray repeats the tasks of a lost node; `write_task` guarantees that this changes
    nothing that is finished.

    Raises:
      UserError: Ray is not installed.
      WorkFailed: Ray gave up on a task.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "engine ray needs the package ray. Install it with: pip install 'mmv_jax[ray]', or use"
            " --engine local."
        ) from error
    if not ray.is_initialized() and "RAY_ADDRESS" in os.environ:
        # Output of decoders may contain names, so it stays out of the driver's log.
        ray.init(log_to_driver=False)
    elif not ray.is_initialized():
        ray.init(log_to_driver=False, num_cpus=workers, include_dashboard=False)
    remote = ray.remote(num_cpus=1, max_retries=3)(run_on_node)
    waiting, running = deque(tasks), list[ray.ObjectRef]()
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(remote.remote(named_plugins(), task_fn, waiting.popleft(), timeout_s))
        done, running = ray.wait(running)
        try:
            yield from (event for events in ray.get(done) for event in events)
        except ray.exceptions.RayError as error:
            cause = str(getattr(error, "cause", error)).splitlines()[0]
            raise WorkFailed(f"Ray gave up on a task: {cause} What is finished stays.") from error


def run_on_node(
    plugins: tuple[Plugin, ...], task_fn: TaskFn, task: IngestTask, timeout_s: float
) -> list[Event]:
    """Runs in a process of Ray, which is of one driver. Its worker ends with it."""
    crew = [KEPT.pop((plugins, task_fn), None) or _Worker(task_fn)]
    while KEPT:  # of an earlier ingest of the same driver
        KEPT.popitem()[1].stop()
    try:
        events = list(_work_off(deque([task]), crew, timeout_s))
    except BaseException:
        crew[0].stop()
        raise
    KEPT[plugins, task_fn] = crew[0]
    return events


# The worker of a process of Ray, from one task to the next: a new one imports for 1.5 s.
KEPT: dict[tuple[tuple[Plugin, ...], TaskFn], _Worker] = {}


ENGINES = {"local": run_local, "ray": run_ray}
