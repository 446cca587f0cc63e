"""A program that runs `mmv` and kills itself and its workers at a named moment.

    python tests/store/killed.py MODULE:NAME:COUNT:WHEN ARGUMENTS OF MMV ...

Calls of MODULE.NAME are counted in each process. At the call of this COUNT the whole process group
gets SIGKILL, before or after it (WHEN). `-` as the first argument kills nobody.

    python tests/store/killed.py serve

Reads lines of JSON, `[MOMENT, ARGUMENT, ...]`, and writes an exit code for each. Every command is a
fork of a process that has imported all it needs, which takes a tenth of the time.
"""

import functools
import importlib
import json
import os
import signal
import sys

MOMENT = "MMV_TEST_MOMENT"
HERE = "MMV_TEST_HERE"  # not empty: files are read in this process, without workers


def dies_at(moment: str) -> None:
    """Replaces the function that a moment names, in this process."""
    module, name, count, when = moment.split(":")
    *owners, last = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    real, calls = getattr(owner, last), [0]

    @functools.wraps(real)
    def counted(*given, **named):
        calls[0] += 1
        if when == "before" and calls[0] == int(count):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        found = real(*given, **named)
        if when == "after" and calls[0] == int(count):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        return found

    setattr(owner, last, counted)


def small_parts() -> None:
    """Makes parts of two studies and tasks of five lines, so that few files make several."""
    from mmv_jax.store import jobs, write

    write.PART_STUDIES, jobs.TASK_LINES = 2, 5


def serve() -> None:
    """Forks before TensorStore has a thread: only the forks open a store."""
    import planted

    from mmv_jax.cli import main
    from mmv_jax.readers.read import import_readers
    from mmv_jax.store.ingest import ENGINES

    ENGINES["local"] = planted.run_here
    import_readers()
    small_parts()
    for line in sys.stdin:
        moment, *words = json.loads(line)
        if not (child := os.fork()):
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            dies_at(moment)
            os._exit(main(words))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


# Workers are spawned: they import this file again, and find the moment in the environment.
if __name__ == "__main__" and sys.argv[1] == "serve":
    serve()
    sys.exit()
if __name__ in ("__main__", "__mp_main__"):
    if __name__ == "__main__":
        os.environ[MOMENT] = sys.argv[1]
    small_parts()
    if os.environ[MOMENT] != "-":
        dies_at(os.environ[MOMENT])
if __name__ == "__main__":
    from mmv_jax.cli import main

    if os.environ.get(HERE):
        import planted

        from mmv_jax.store.workers import ENGINES

        ENGINES["local"] = planted.run_here

    sys.exit(main(sys.argv[2:]))
