r"""Render a shell script for TPU virtual machines.

It makes the slice, installs this checkout on every host, and runs the command on all of them.

example: python launch/tpu_vm.py --out vitb.sh --name vitb --zone us-east5-a --tpu v5p:4x4x4 \
             --nfs 10.0.0.2:/share -- pretrain --config experiments/vitb_mimic_ctrate.py \
             --workdir /mnt/shared/vitb --config.data.store=gs://BUCKET/store
"""

import argparse
import shlex
import sys
from pathlib import Path

from check import Place, check
from render import add_staging, parse, render, staged, write
from slices import Slice


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.sh")
    parser.add_argument("--name", default="mmv")
    parser.add_argument("--zone", required=True)
    parser.add_argument(
        "--tpu",
        type=Slice.parse,
        required=True,
        metavar="v5p:4x4x4",
        help="a slice, as `mmv preflight --topology` names it",
    )
    nfs = (
        "what NFS (Filestore) exports to the slice's network; every host mounts it as /mnt/shared,"
        " where the workdir goes"
    )
    parser.add_argument("--nfs", required=True, metavar="HOST:/FOLDER", help=nfs)
    parser.add_argument("--spot", action="store_true", help="on machines that may be taken away")
    add_staging(parser)
    args, command = parse(parser, argv)
    if args.tpu.accelerator_type is None:
        parser.error("that generation has no such virtual machines; use launch/gke.py")
    place = Place(
        args.tpu.devices, args.tpu.accelerator_type, shared="/mnt/shared", sends_commit=True
    )
    config = check(parser, command, place)
    if args.stage_to and config is None:
        parser.error("--stage-to copies the store of a pretraining; this command has none")
    values = {
        "name": args.name,
        "zone": args.zone,
        "spot": args.spot,
        "tpu": args.tpu,
        "nfs": args.nfs,
        "words": shlex.join(staged(command, args.stage_to)),
        "stage": shlex.join(["stage", str(config.data.store), args.stage_to])
        if config is not None and args.stage_to
        else "",
    }
    write(args.out, render("tpu_vm.sh", **values), f"bash {shlex.quote(str(args.out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
