"""Commands of a training run: preflight, pretrain, status, compare."""

import argparse
import json
import os
import sys
from pathlib import Path

from ml_collections import ConfigDict

from mmv_jax.buckets import is_address
from mmv_jax.commands.table import CONFIG_HELP, RUN_HELP, any_path, command
from mmv_jax.errors import UserError


def _preflight_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what a run will need, before you rent the accelerators.

    The accelerator's own compiler compiles the step for the topology: memory, FLOPs, bytes of
    collectives, time a step. No accelerator is used (extra: preflight). Exit code 1: it does not
    fit.

    example: mmv preflight --config vitl_pod --topology v5p:4x4x8 --config.rows.per_step=512
    """
    parser.add_argument("--config", required=True, metavar="NAME|FILE.py", help=CONFIG_HELP)
    parser.add_argument(
        "--topology",
        metavar="NAME",
        help="v5e:4x4, v5p:4x4x8, v6e:16x16, tpu7x:2x2x1 or h100:8 (default config.topology)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="compile for N virtual devices of this machine's CPU instead",
    )
    reached = (
        "model FLOPs utilisation to reckon with (default 0.4; PaLM reached 0.46, arXiv 2204.02311)"
    )
    parser.add_argument("--mfu", type=float, default=0.4, metavar="0..1", help=reached)
    parser.add_argument(
        "--worker-rows",
        type=_positive,
        metavar="N",
        help="rows a second that one data worker makes, as `mmv bench input` measures it",
    )
    parser.add_argument("--json", action="store_true", help="print every figure as one JSON object")


def _positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


@command("preflight", _preflight_arguments)
def _preflight(args) -> int:
    from mmv_jax.commands.keys import load_for
    from mmv_jax.preflight.estimate import preflight
    from mmv_jax.preflight.summary import sheet

    figures = preflight(
        load_for("mmv pretrain", args.config, args.overrides),
        args.topology,
        args.devices,
        mfu=args.mfu,
        worker_rows_per_s=args.worker_rows,
    )
    print(json.dumps(figures.as_json()) if args.json else sheet(figures))
    # A script can stop on 1, before it rents anything.
    return 0 if figures.fits else 1


def _pretrain_arguments(parser: argparse.ArgumentParser) -> None:
    """Pretrain an encoder on a store; resume where the workdir has a checkpoint.

    The workdir gets config.json, metrics.jsonl, TensorBoard's files and checkpoints. The same
    command, given again, resumes bit for bit. Ctrl-C and SIGTERM save first. `mmv status DIR`
    says how it goes, also while it runs.

    example: mmv pretrain --config demo --workdir runs/mine --config.steps=500
    """
    parser.add_argument("--config", required=True, metavar="NAME|FILE.py", help=CONFIG_HELP)
    parser.add_argument("--workdir", type=any_path, required=True, metavar="DIR", help=RUN_HELP)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config, store, labels and workdir, run one step, keep nothing",
    )
    parser.add_argument(
        "--sweep",
        metavar="NAME=A,B,...",
        help="one run a value, each in a folder of its own: optimizer.peak_lr=1e-3,2e-3",
    )


@command("pretrain", _pretrain_arguments, resumes=True)
def _pretrain(args) -> int:
    from mmv_jax.commands.keys import load_for
    from mmv_jax.commands.phases import phases_of
    from mmv_jax.parallel import initialize_distributed

    if args.sweep:
        return _sweep(args)
    # First of all: whatever asks for a device would start JAX without the other processes.
    initialize_distributed()
    config = load_for("mmv pretrain", args.config, args.overrides)
    if args.dry_run:
        from mmv_jax.train.dry_run import dry_run

        # Later phases begin from the first one's weights, so their keys alone can be checked.
        print(dry_run(*phases_of(config, args.workdir)[0]))
        return 0
    return 0 if _finishes(config, args.workdir) else _stopped()


def _keep_compiled(folder: str | Path) -> None:
    """Keeps compiled programs in a folder, so that a run that goes on need not compile again;
    JAX_COMPILATION_CACHE_DIR has precedence.
    """
    import jax

    if is_address(folder):
        from mmv_jax.orbax_buckets import register_file_system

        register_file_system()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _finishes(config: ConfigDict, workdir: Path) -> bool:
    """Trains, phase by phase; False where the run was told to stop before its last step."""
    from mmv_jax.commands.phases import phases_of
    from mmv_jax.face.runs import pretrain

    _keep_compiled(config.get("compile_cache") or workdir / "compiled")
    phases = phases_of(config, workdir)
    for number, (own, folder) in enumerate(phases, start=1):
        if len(phases) > 1:
            print(f"phase {number} of {len(phases)}: {folder}")
        if pretrain(own, folder) < own.steps:
            return False
    return True


def _stopped() -> int:
    """The exit code of a run that was told to stop: it has ended well, but some schedulers restart
    a job only on a non-zero code.
    """
    return int(os.environ.get("MMV_STOPPED_EXIT_CODE", "0"))


def _sweep(args) -> int:
    """Trains once a value of `--sweep`. A run that fails is named, and the next one begins."""
    from mmv_jax.commands.keys import load_for
    from mmv_jax.parallel import initialize_distributed

    # At the first "=" only, so that a value may hold another one.
    name, equals, values = args.sweep.partition("=")
    if not equals or not all(values.split(",")) or args.dry_run:
        raise UserError(
            f"--sweep {args.sweep}: give one name and its values, as in"
            " --sweep optimizer.peak_lr=1e-3,2e-3, and no --dry-run."
        )
    initialize_distributed()
    # All are read before the first one trains: a mistake in the last shows at once.
    runs = {
        f"{name}={value}": load_for(
            "mmv pretrain", args.config, [*args.overrides, f"--config.{name}={value}"]
        )
        for value in values.split(",")
    }
    failed = []
    for run, config in runs.items():
        print(f"sweep: {run}")
        try:
            # A signal to stop means the whole sweep, not only the run that trains now.
            if not _finishes(config, args.workdir / run):
                return _stopped()
        except Exception as error:  # whatever ends a run, the next one does not depend on it
            print(f"sweep: {run} failed: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(run)
    print(f"sweep: {len(runs) - len(failed)} of {len(runs)} runs ended well in {args.workdir}")
    return 1 if failed else 0


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    """Say of a run whether it learns, how fast it is and when it ends.

    It reads the logs of a run that trains or has ended, prints the last figures, the last saved
    step and warnings, and draws the curves (status.png in the workdir).

    example: mmv status runs/mine
    """
    parser.add_argument("workdir", type=any_path, metavar="DIR", help="the --workdir of a run")


@command("status", _status_arguments)
def _status(args) -> int:
    from mmv_jax.train.status import status

    print(status(args.workdir))
    return 0


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Compare runs on one page: curves, config differences, paired test results.

    Where two runs were evaluated on the same test studies, their difference has a paired
    confidence interval.

    example: mmv compare runs/a runs/b --out a-and-b.html
    """
    parser.add_argument(
        "runs",
        type=any_path,
        nargs="+",
        metavar="RUN",
        help="the --workdir of a run; two at least",
    )
    page = "the page to write (default compare.html)"
    parser.add_argument(
        "--out", type=any_path, default=Path("compare.html"), metavar="FILE.html", help=page
    )


@command("compare", _compare_arguments)
def _compare(args) -> int:
    from mmv_jax.compare.page import compare

    print(compare(args.runs, args.out))
    return 0
