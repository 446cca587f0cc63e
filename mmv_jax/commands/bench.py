"""The command bench."""

import argparse
import importlib
import json
from pathlib import Path

from mmv_jax.commands.table import command
from mmv_jax.errors import UserError

BENCHES = ("attention", "step", "packing", "input", "probe")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Time a part of the package beside its peer, in turn, in one run.

    It prints a ratio for each case: above 1, ours is faster. A peer that is not installed is left
    out and named.

    example: mmv bench attention --json
    """
    parser.add_argument("name", choices=BENCHES, help="the part to time")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print all cases as one JSON object",
    )
    parser.add_argument(
        "--before",
        metavar="FOLDER",
        help="input: a checkout of another version, whose rows are made in turn",
    )


@command("bench", _bench_arguments)
def _bench(args) -> int:
    # The file and the function are named after the bench: `bench/step.py` has `bench_step`.
    bench = getattr(importlib.import_module(f"mmv_jax.bench.{args.name}"), f"bench_{args.name}")
    if args.before and args.name != "input":
        raise UserError(
            f"--before is of `mmv bench input`; `mmv bench {args.name}` has no such turn."
        )
    if args.before and not Path(args.before, "mmv_jax", "__init__.py").is_file():
        raise UserError(f"--before {args.before} is no checkout: it has no mmv_jax/__init__.py.")
    result = bench(before=args.before) if args.before else bench()
    if args.json:
        print(json.dumps(result))
        return 0
    for case in result["cases"]:
        print(
            f"{case['case']:<40} ours {case['ours']:.4g} {case['unit']}  {case['peer_name']}"
            f" {case['peer']:.4g}  ratio {case['ratio']:.2f}"
        )
    for note in result["notes"]:
        print(f"note: {note}")
    return 0
