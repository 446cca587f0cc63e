"""Commands of a training run: preflight, pretrain, status, compare."""

import argparse
import json
import os
import sys
from pathlib import Path

from ml_collections import ConfigDict

from mmv_jax.commands.table import command, local_path
from mmv_jax.errors import UserError


def _preflight_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what a run will need, from the accelerator's own compiler: memory, FLOPs, collectives,
    time. No accelerator is used.

    example: mmv preflight --config experiments/vitl_pod.py --topology v5p:4x4x8
      --config.rows.per_step=512
    """
    parser.add_argument("--config", required=True, metavar="NAME|FILE.py")
    parser.add_argument(
        "--topology",
        metavar="NAME",
        help="v5e:4x4, v5p:4x4x8, v6e:16x16, tpu7x:2x2x1 or h100:8; default config.topology",
    )
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="compile for N virtual devices of this machine's processor instead",
    )
    reached = (
        "model FLOPs utilisation to reckon with; default 0.4 (PaLM reached 0.46, arXiv 2204.02311)"
    )
    parser.add_argument("--mfu", type=float, default=0.4, metavar="0..1", help=reached)
    parser.add_argument("--json", action="store_true", help="one object with every figure")


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
    )
    print(json.dumps(figures.as_json()) if args.json else sheet(figures))
    # A script can stop on 1, before it rents anything.
    return 0 if figures.fits else 1


def _pretrain_arguments(parser: argparse.ArgumentParser) -> None:
    """Pretrains an encoder; goes on by itself where the workdir has a checkpoint.

    example: mmv pretrain --config demo --workdir runs/mine --config.steps=500
    """
    parser.add_argument("--config", required=True, metavar="NAME|FILE.py")
    parser.add_argument("--workdir", type=local_path, required=True, metavar="DIR")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config, store, labels and workdir, run one step, and keep nothing",
    )
    parser.add_argument(
        "--sweep",
        metavar="NAME=A,B,...",
        help="train once a value, in turn, each in its own folder of the workdir:"
        " optimizer.peak_lr=1e-3,2e-3",
    )


@command("pretrain", _pretrain_arguments)
def _pretrain(args) -> int:
    from mmv_jax.commands.keys import load_for
    from mmv_jax.parallel import initialize_distributed

    if args.sweep:
        return _sweep(args)
    # First of all: whatever asks for a device would start JAX without the other processes.
    initialize_distributed()
    config = load_for("mmv pretrain", args.config, args.overrides)
    if args.dry_run:
        from mmv_jax.train.dry_run import dry_run

        print(dry_run(config, args.workdir))
        return 0
    return 0 if _finishes(config, args.workdir) else _stopped()


def _finishes(config: ConfigDict, workdir: Path) -> bool:
    """Trains; False where the run was told to stop before its last step."""
    from mmv_jax.face.runs import pretrain

    return pretrain(config, workdir) >= config.steps


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
    """Says of a run: is it learning, how fast, what next; and draws its curves.

    example: mmv status runs/mine
    """
    parser.add_argument("workdir", type=local_path, metavar="WORKDIR")


@command("status", _status_arguments)
def _status(args) -> int:
    from mmv_jax.train.status import status

    print(status(args.workdir))
    return 0


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Compares runs: last figures, curves, what their configs differ in, and where they were
    evaluated the same test studies.

    example: mmv compare runs/a runs/b --out a-and-b.html
    """
    parser.add_argument(
        "runs", type=local_path, nargs="+", metavar="RUN", help="a --workdir, two at least"
    )
    page = "the page that is written; default compare.html"
    parser.add_argument(
        "--out", type=local_path, default=Path("compare.html"), metavar="FILE.html", help=page
    )


@command("compare", _compare_arguments)
def _compare(args) -> int:
    from mmv_jax.compare.page import compare

    print(compare(args.runs, args.out))
    return 0
