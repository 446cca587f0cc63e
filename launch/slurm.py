r"""Render a batch script for SLURM: one task a GPU (or a CPU node), joined by srun's variables.

example: python launch/slurm.py --out vitb.sbatch --nodes 8 --tasks-per-node 8 \
             --gpus-per-node 8 --time 2-00:00:00 \
             -- pretrain --config experiments/vitb_mimic_ctrate.py --workdir /shared/runs/vitb
"""

import argparse
import shlex
import sys
from pathlib import Path

from check import Place, check
from render import add_staging, parse, render, staged, write


def make_parser() -> argparse.ArgumentParser:
    """The options of a batch script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.sbatch")
    parser.add_argument("--name", default="mmv")
    parser.add_argument("--nodes", type=int, required=True)
    tasks = "with GPUs: as many as GPUs, since a task of JAX under SLURM takes one"
    parser.add_argument("--tasks-per-node", type=int, default=1, help=tasks)
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--cpus-per-task", type=int, default=8)
    time = "of one piece of the run; it is queued again until the command is done"
    parser.add_argument("--time", default="1-00:00:00", help=time)
    for name, meaning in (
        ("partition", "where the job waits"),
        ("account", "that is charged"),
        ("qos", "quality of service"),
        ("constraint", "features that a node must have, as in 'h100&ib'"),
        ("mem", "of a node, such as 500G; 0 for all of it"),
    ):
        parser.add_argument(f"--{name}", metavar=name.upper(), help=meaning)
    container = "a .sif, run by apptainer; any other name goes to srun --container-image (pyxis)"
    parser.add_argument("--container", metavar="IMAGE", help=container)
    mounts = "folders that the container sees, as /shared:/shared,/scratch:/scratch"
    parser.add_argument("--container-mounts", metavar="MOUNTS", help=mounts)
    no_requeue = "end with a lost node or a pre-emption, instead of being queued again"
    parser.add_argument("--no-requeue", action="store_true", help=no_requeue)
    python = "of the environment on the cluster, or in the container, that has mmv_jax"
    parser.add_argument("--python", default=sys.executable, help=python)
    add_staging(parser)
    return parser


def main(argv: list[str]) -> int:
    """Writes the batch script that the words of a command line ask for; returns the exit status."""
    parser = make_parser()
    args, command = parse(parser, argv)
    if args.gpus_per_node not in (0, args.tasks_per_node):
        parser.error(
            f"--tasks-per-node is {args.tasks_per_node}, but with --gpus-per-node"
            f" {args.gpus_per_node} it must be that too: one task a GPU"
        )
    if args.container_mounts and not args.container:
        parser.error("--container-mounts needs --container")
    devices = args.nodes * args.tasks_per_node
    config = check(parser, command, Place(devices, f"{args.nodes} nodes"))
    if args.stage_to and config is None:
        parser.error("--stage-to copies the store of a pretraining; this command has none")
    text = render(
        "slurm.sbatch",
        command=staged(command, args.stage_to),
        store=config and config.data.store,
        folder=Path.cwd(),
        **{name: value for name, value in vars(args).items() if name != "out"},
    )
    write(args.out, text, f"sbatch {shlex.quote(str(args.out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
