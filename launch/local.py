r"""Start an `mmv` command in several processes on this machine, joined on loopback.

Use it as a rehearsal of many hosts, or for one process a GPU.

example: python launch/local.py --processes 2 -- pretrain --config experiments/demo.py --workdir
  runs/two --config.mesh.data=2
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

from render import parse

PAUSE_S = 0.2  # between checks of the processes
# Time for the other processes to end after one has failed: their collectives wait for it.
PATIENCE_S = 60.0


def main(argv: list[str]) -> int:
    """Start the processes; return the exit code of the first one that failed, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--devices", type=int, default=1, help="virtual CPU devices of each process"
    )
    args, command = parse(parser, argv)
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(args.processes),
    }
    shared["JAX_NUM_CPU_DEVICES"] = str(args.devices)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mmv_jax.cli", *command],
            env={**os.environ, **shared, "JAX_PROCESS_ID": str(n)},
        )
        for n in range(args.processes)
    ]
    # On SIGTERM the processes agree on a step, save it and end. A terminal sends Ctrl-C to them
    # itself.
    signal.signal(
        signal.SIGTERM,
        lambda *_: [process.terminate() for process in processes if process.poll() is None],
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return wait(processes)


def free_port() -> int:
    """A port on which nobody listened a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait(processes: list[subprocess.Popen]) -> int:
    """Wait for all processes. Once one has failed, the others are killed after a minute."""
    failed, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        codes = [process.returncode for process in processes if process.returncode]
        if codes and not failed:
            failed, since = codes[0], time.monotonic()
        if failed and time.monotonic() - since > PATIENCE_S:
            for process in processes:
                process.kill()
        time.sleep(PAUSE_S)
    failed = failed or next((process.returncode for process in processes if process.returncode), 0)
    return 1 if failed < 0 else failed  # below 0: ended by a signal


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
