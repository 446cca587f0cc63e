r"""Render a JobSet for Google Kubernetes Engine: one pod a host, of a TPU slice or of GPU nodes.

example: python launch/gke.py --out vitl.yaml --name vitl --tpu v5p:4x4x8 --claim CLAIM \
             --image REGION-docker.pkg.dev/PROJECT/REPOSITORY/mmv:1 \
             -- pretrain --config experiments/vitl_pod.py --workdir /mnt/shared/vitl \
             --config.data.store=gs://BUCKET/store
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

from check import Place, check
from render import add_staging, parse, render, staged, write
from slices import Slice

# A DNS label, short enough that the names of its pods are DNS labels too.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


def make_parser() -> argparse.ArgumentParser:
    """The options of a JobSet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.yaml")
    parser.add_argument("--name", default="mmv")
    parser.add_argument(
        "--image",
        required=True,
        help="a container image with mmv_jax and, in its working directory, experiments/",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--tpu",
        type=Slice.parse,
        metavar="v5p:4x4x8",
        help="a slice, as `mmv preflight --topology` names it",
    )
    where.add_argument(
        "--gpu",
        metavar="nvidia-h100-80gb",
        help="value of the node label cloud.google.com/gke-accelerator",
    )
    claim = (
        "a PersistentVolumeClaim that all pods may write (ReadWriteMany: Filestore, Lustre); they"
        " see it as /mnt/shared, where the workdir goes"
    )
    parser.add_argument("--claim", required=True, help=claim)
    parser.add_argument("--hosts", type=int, default=1, help="GPU nodes")
    parser.add_argument("--gpus-per-host", type=int, default=8)
    parser.add_argument(
        "--service-account",
        default="default",
        help="the Kubernetes service account that may read the store",
    )
    parser.add_argument(
        "--spot",
        action="store_true",
        help="on machines that may be taken away at 25 seconds' notice",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=100,
        help="how often the run may go on from its last checkpoint",
    )
    add_staging(parser)
    return parser


def main(argv: list[str]) -> int:
    """Write the JobSet for a command line; return the exit status."""
    parser = make_parser()
    args, command = parse(parser, argv)
    if not NAME.fullmatch(args.name):
        parser.error(
            f"--name {args.name!r}: use at most 40 lower-case letters, digits and hyphens, a letter"
            " first"
        )
    hosts, chips = (
        (args.tpu.hosts, args.tpu.chips // args.tpu.hosts)
        if args.tpu
        else (args.hosts, args.gpus_per_host)
    )
    place = Place(
        args.tpu.devices if args.tpu else hosts * chips,
        f"{args.tpu.topology} of {args.tpu.generation.node_label}" if args.tpu else "all nodes",
        shared="/mnt/shared",
    )
    config = check(parser, command, place)
    if args.stage_to and config is None:
        parser.error("--stage-to copies the store of a pretraining; this command has none")
    values = {
        name: value
        for name, value in vars(args).items()
        if name not in ("out", "hosts", "gpus_per_host")
    }
    values["store"] = config and config.data.store
    command = staged(command, args.stage_to)
    write(
        args.out,
        render("jobset.yaml", command=command, hosts=hosts, chips=chips, **values),
        f"kubectl apply -f {shlex.quote(str(args.out))}",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
