"""Commands that make and look at stores: phantom, manifest, ingest, inspect."""

import argparse
import os
from pathlib import Path

from mmv_jax.commands.table import add_plugins, command, local_path


def _phantom_arguments(parser: argparse.ArgumentParser) -> None:
    """Writes phantom studies with known truth as DICOM, NIfTI and PNG files, with a manifest.

    example: mmv phantom runs/phantoms --kind thorax-cxr,thorax-ct --studies 100 --seed 0
    """
    parser.add_argument("out", type=local_path, metavar="OUT")
    parser.add_argument(
        "--kind",
        default="thorax-cxr,thorax-ct",
        help="comma separated: thorax-cxr, thorax-ct, breast",
    )
    parser.add_argument("--studies", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    tie = (
        "of a thorax: 0, chest tubes are independent of pneumothorax; 1, a tube is exactly where a"
        " pneumothorax is (default 0.3)"
    )
    parser.add_argument("--tube-tie", type=float, metavar="0..1", help=tie)
    parser.add_argument(
        "--bac",
        type=float,
        metavar="0..1",
        help="of breasts: the share of women with a calcified artery (default 0.75)",
    )
    parser.add_argument(
        "--film",
        type=float,
        metavar="0..1",
        help="of breasts: the share of women whose views are scanned films (default 0.3)",
    )
    parser.add_argument(
        "--pixels", type=int, default=256, help="rows and columns of a radiograph of 358 mm"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())


@command("phantom", _phantom_arguments)
def _phantom(args) -> int:
    from mmv_jax.phantom.write import write_phantoms
    from mmv_jax.report.progress import progress

    # What was not given is left out, so that the defaults of `write_phantoms` apply.
    dials = {
        name: getattr(args, name)
        for name in ("tube_tie", "bac", "film")
        if getattr(args, name) is not None
    }
    options = {
        "workers": args.workers,
        "pixels": args.pixels,
        "progress": progress("phantoms: written, of each kind,"),
    }
    print(
        write_phantoms(args.out, args.kind.split(","), args.studies, args.seed, **options, **dials)
    )
    return 0


def _manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Lists the studies of a folder, or of a known data set with its own splits and labels, as a
    manifest (CSV).

    example: mmv manifest folder /data/chest --out chest.csv
    """
    # The table is not imported for a help text: a wrong word lists what there is.
    kinds = "folder, or a data set: mimic-cxr, chexpert, nih-cxr14, ct-rate, or a plug-in's"
    parser.add_argument("kind", metavar="KIND", help=kinds)
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--out", type=local_path, required=True, metavar="FILE.csv")
    add_plugins(parser)


@command("manifest", _manifest_arguments)
def _manifest(args) -> int:
    from mmv_jax.manifests.listing import write_manifest_of

    print(f"{write_manifest_of(args.kind, args.root, args.out, print)} studies in {args.out}")
    return 0


def _ingest_arguments(parser: argparse.ArgumentParser) -> None:
    """Reads the files of manifests into a block store; a file that is refused goes to
    quarantine.jsonl and stops nothing.

    example: mmv ingest chest.csv ct.csv --store stores/chest --workers 8
    """
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST")
    # No `local_path`: a store may lie in a bucket.
    parser.add_argument("--store", required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray outgrows one machine (extra: ray)",
    )
    parser.add_argument(
        "--unit",
        choices=("HU",),
        help=(
            "of studies whose manifest line names no unit: HU makes NIfTI, MHA and NRRD Hounsfield"
            " units"
        ),
    )
    parser.add_argument(
        "--key",
        type=Path,
        help=(
            "the key of the pseudonyms, to share between stores; default STORE.key, made where"
            " missing"
        ),
    )
    late = (
        "refuse a line that takes longer to read; large files have 1 s more per 2 MiB (default 5)"
    )
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help=late)
    share = "end with 1 where more of the lines than this share were refused (default 0.5)"
    parser.add_argument("--max-refused", type=float, default=0.5, metavar="0..1", help=share)
    written = (
        "writing in the pixels, by colour or by the header's word: refuse it, take it in and warn,"
        " or blank what looks like it (default: refuse colour, warn of the rest)"
    )
    parser.add_argument("--burnt-in", choices=("refuse", "warn", "mask"), help=written)
    add_plugins(parser)


@command("ingest", _ingest_arguments)
def _ingest(args) -> int:
    from mmv_jax.report.progress import progress
    from mmv_jax.store.ingest import ingest

    report = ingest(
        args.manifests,
        args.store,
        workers=args.workers,
        engine=args.engine,
        key_path=args.key,
        unit=args.unit,
        timeout_s=args.timeout,
        max_refused=args.max_refused,
        burnt_in=args.burnt_in,
        progress=progress("ingest: read"),
    )
    print(report)
    # 1 where nothing was taken in, or where more was refused than `--max-refused` allows.
    return 0 if report.ok else 1


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what a store holds: counts, shapes, spacings, intensities; with --verify reads every
    block.

    example: mmv inspect stores/chest --verify --sheet sheet.png
    """
    parser.add_argument("store", metavar="STORE")
    parser.add_argument(
        "--verify", action="store_true", help="read every block and compare its checksum"
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="a contact sheet of some studies"
    )


@command("inspect", _inspect_arguments)
def _inspect(args) -> int:
    from mmv_jax.report.progress import progress
    from mmv_jax.store.inspect import contact_sheet, describe, verify

    print(describe(args.store))
    if args.sheet:
        contact_sheet(args.store, args.sheet)
        print(f"contact sheet: {args.sheet}")
    if args.verify:
        faults = verify(args.store, progress("verify: read"))
        print("\n".join(faults) if faults else "every block is as it was written")
        return 1 if faults else 0
    return 0


def _key_arguments(parser: argparse.ArgumentParser) -> None:
    """Writes a CSV that joins a store's keyed names with your own identifiers again.

    example: mmv key stores/chest manifest.csv --key stores/chest.key --out names.csv
    """
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=local_path, required=True, metavar="CSV")


@command("key", _key_arguments)
def _key(args) -> int:
    from mmv_jax.store.identifiers import write_identifiers

    print(write_identifiers(args.store, args.manifests, args.key, args.out))
    return 0
