r"""Render a batch script for SLURM: one task a GPU (or a CPU node), joined by srun's variables.

example: python launch/slurm.py --out vitb.sbatch --nodes 8 --tasks-per-node 8 \
             --gpus-per-node 8 --time 2-00:00:00 \
             -- pretrain --config experiments/vitb_mimic_ctrate.py --workdir /shared/runs/vitb
"""

import argparse
import shlex
import sys
from pathlib import Path

from render import parse, render, write


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.sbatch")
    parser.add_argument("--name", default="mmv")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument(
        "--tasks-per-node",
        type=int,
        default=1,
        help="with GPUs: as many as GPUs, since a task of JAX under SLURM takes one",
    )
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--cpus-per-task", type=int, default=8)
    parser.add_argument(
        "--time",
        default="1-00:00:00",
        help="of one piece of the run; it is queued again until the command is done",
    )
    parser.add_argument("--partition")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="of the environment on the cluster that has mmv_jax",
    )
    args, command = parse(parser, argv)
    if args.gpus_per_node not in (0, args.tasks_per_node):
        parser.error(
            f"--tasks-per-node is {args.tasks_per_node}, but with --gpus-per-node"
            f" {args.gpus_per_node} it must be that too: one task a GPU"
        )
    text = render(
        "slurm.sbatch",
        command=command,
        folder=Path.cwd(),
        **{name: value for name, value in vars(args).items() if name != "out"},
    )
    write(args.out, text, f"sbatch {shlex.quote(str(args.out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
