"""Commands of a training run: preflight, pretrain, status."""

import argparse
import json
import os
from pathlib import Path

from mmv_jax.commands.table import command, local_path


def _preflight_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what a run will need, from the accelerator's own compiler: memory, FLOPs, collectives,
    time. No accelerator is used.

    example: mmv preflight --config experiments/vitl_pod.py --topology v5p:4x4x8
      --config.rows.per_step=512
    """
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.py")
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
    from mmv_jax.config import load_config
    from mmv_jax.preflight.estimate import preflight
    from mmv_jax.preflight.summary import sheet

    figures = preflight(
        load_config(args.config, args.overrides), args.topology, args.devices, mfu=args.mfu
    )
    print(json.dumps(figures.as_json()) if args.json else sheet(figures))
    return 0 if figures.fits else 1


def _pretrain_arguments(parser: argparse.ArgumentParser) -> None:
    """Pretrains an encoder; goes on by itself where the workdir has a checkpoint.

    example: mmv pretrain --config experiments/demo.py --workdir runs/mine --config.steps=500
    """
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.py")
    parser.add_argument("--workdir", type=local_path, required=True, metavar="DIR")


@command("pretrain", _pretrain_arguments)
def _pretrain(args) -> int:
    from mmv_jax.config import load_config
    from mmv_jax.parallel import initialize_distributed
    from mmv_jax.train.loop import pretrain

    initialize_distributed()
    config = load_config(args.config, args.overrides)
    state = pretrain(config, args.workdir)
    # A run that was told to stop has ended well, but where whoever started it starts again what
    # failed alone, it has to say that it is not done.
    return (
        0 if int(state.step) >= config.steps else int(os.environ.get("MMV_STOPPED_EXIT_CODE", "0"))
    )


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
