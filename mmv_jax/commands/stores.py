"""Commands that make and look at stores: phantom, manifest, ingest, inspect."""

import argparse
import os
from pathlib import Path

from mmv_jax.commands.table import WORKERS_HELP, add_plugins, any_path, command, local_path
from mmv_jax.errors import UserError


def _phantom_arguments(parser: argparse.ArgumentParser) -> None:
    """Write phantom studies with known truth as DICOM, NIfTI and PNG files.

    Radiographs and CTs of the same bodies, with findings, organ masks and measurements, or
    mammograms with calcified arteries. OUT/manifest.csv lists them for `mmv ingest`. The same
    seed gives the same studies.

    example: mmv phantom runs/phantoms --kind thorax-cxr,thorax-ct --studies 100 --seed 0
    """
    parser.add_argument("out", type=local_path, metavar="OUT", help="the folder to write to")
    parser.add_argument(
        "--kind",
        default="thorax-cxr,thorax-ct",
        help="comma separated: thorax-cxr, thorax-ct, breast",
    )
    parser.add_argument("--studies", type=int, default=100, help="of each kind (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")
    tie = (
        "thorax: how far a chest tube goes with a pneumothorax; 0 not at all, 1 always"
        " (default 0.3)"
    )
    parser.add_argument("--tube-tie", type=float, metavar="0..1", help=tie)
    parser.add_argument(
        "--bac",
        type=float,
        metavar="0..1",
        help="breast: share of women with a calcified artery (default 0.75)",
    )
    parser.add_argument(
        "--film",
        type=float,
        metavar="0..1",
        help="breast: share of women whose views are scanned films (default 0.3)",
    )
    for name, words in (
        ("looks", "of women not on film, the share with another detector's look (default 0)"),
        ("hard", "the chance of each harder distractor in a view (default 0)"),
        ("borders", "the share of films that show their borders (default 0)"),
    ):
        parser.add_argument(f"--{name}", type=float, metavar="0..1", help=f"of breasts: {words}")
    parser.add_argument(
        "--pixels",
        type=int,
        default=256,
        help="rows and columns of a radiograph, which is 358 mm wide (default 256)",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help=WORKERS_HELP)


@command("phantom", _phantom_arguments)
def _phantom(args) -> int:
    from mmv_jax.phantom.write import write_phantoms
    from mmv_jax.report.progress import progress

    # What was not given is left out, so that the defaults of `write_phantoms` apply.
    dials = {
        name: getattr(args, name)
        for name in ("tube_tie", "bac", "film", "looks", "hard", "borders")
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
    """List the studies of a folder, or of a public data set, in a manifest (CSV).

    A manifest has one line a study: its path, patient, split, unit and labels. Read it, add your
    labels and correct what the folder's names could not say, then give it to `mmv ingest`. A
    public data set brings its own splits and labels.

    example: mmv manifest folder /data/chest --out chest.csv
    """
    # The table is not imported for a help text: a wrong word lists what there is.
    kinds = (
        "folder, tcia (any download of that archive), or a data set by name: mimic-cxr, chexpert,"
        " nih-cxr14, padchest, vindr-cxr, rsna-pneumonia, siim-acr; ct-rate, lidc-idri, nlst,"
        " deeplesion, merlin, amos, inspect; vindr-mammo, cbis-ddsm, embed; or your own"
    )
    parser.add_argument("kind", metavar="KIND", help=kinds)
    root = (
        "the folder of the files; of `folder` also an archive, or a quoted pattern ('day*/*.zip')"
    )
    parser.add_argument("root", type=local_path, metavar="ROOT", help=root)
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="FILE.csv", help="the manifest to write"
    )
    unsure = "labels that a report neither states nor denies: empty (ignore), 1 or 0"
    parser.add_argument(
        "--uncertain", choices=("ignore", "ones", "zeros"), default="ignore", help=unsure
    )
    add_plugins(parser)


@command("manifest", _manifest_arguments)
def _manifest(args) -> int:
    from mmv_jax.manifests.listing import write_manifest_of

    count = write_manifest_of(args.kind, args.root, args.out, print, uncertain=args.uncertain)
    print(f"{count} studies in {args.out}")
    return 0


def _ingest_arguments(parser: argparse.ArgumentParser) -> None:
    """Read the files of manifests into a block store.

    DICOM, NIfTI, NRRD, MHA, PNG and JPEG are read, checked and written without what names
    a patient. A file that cannot be trusted is refused: STORE/quarantine.jsonl says why, and the
    others go on. What looks odd is taken in and told in STORE/warnings.jsonl. Run it again after
    an interruption or with more lines: what is in the store is not read twice.

    example: mmv ingest chest.csv ct.csv --store stores/chest --workers 8
    """
    parser.add_argument(
        "manifests",
        type=any_path,
        nargs="+",
        metavar="MANIFEST",
        help="CSV files of `mmv manifest`",
    )
    # No `local_path`: a store may lie in a bucket.
    parser.add_argument("--store", required=True, help="a folder, or an address such as gs://...")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help=WORKERS_HELP)
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray spreads the work over many machines (extra: ray)",
    )
    parser.add_argument(
        "--unit",
        choices=("HU",),
        help=(
            "unit of NIfTI, MHA and NRRD files whose manifest line names none: HU, Hounsfield units"
        ),
    )
    parser.add_argument(
        "--key",
        type=Path,
        help=(
            "secret key of the pseudonyms; give one to several stores to join their patients"
            " (default STORE.key, made where missing)"
        ),
    )
    late = "refuse a file that takes longer to read; 1 s more per 2 MiB of it (default 5)"
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help=late)
    share = "exit code 1 where a larger share of the lines was refused (default 0.5)"
    parser.add_argument("--max-refused", type=float, default=0.5, metavar="0..1", help=share)
    written = (
        "text in the pixels: refuse the file, warn, or blank the text (default: refuse coloured"
        " text, warn of lines of grey text and where the header says that there is some)"
    )
    parser.add_argument("--burnt-in", choices=("refuse", "warn", "mask"), help=written)
    corrected = "replace what the store holds of a study where its line says otherwise now"
    parser.add_argument("--correct", action="store_true", help=corrected)
    add_plugins(parser)


@command("ingest", _ingest_arguments, resumes=True)
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
        correct=args.correct,
        progress=progress("ingest: read"),
    )
    print(report)
    # 1 where nothing was taken in, or where more was refused than `--max-refused` allows.
    return 0 if report.ok else 1


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what a store holds: counts, shapes, spacings, intensities, labels.

    Look at it before you train. `--sheet` draws some studies. `--verify` reads every block and
    ends with exit code 1 where one is not as it was written.

    example: mmv inspect stores/chest --verify --sheet sheet.png
    """
    parser.add_argument("store", metavar="STORE", help="a folder, or an address such as gs://...")
    parser.add_argument(
        "--verify", action="store_true", help="read every block and compare its checksum"
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="draw a contact sheet of some studies"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="a page for whoever manages the data: refusals, leaks, duplicates, distributions",
    )
    parser.add_argument(
        "--rows",
        type=Path,
        metavar="FILE.png",
        help="training rows of --config, drawn as the encoder reads them, with places in mm",
    )
    parser.add_argument("--config", metavar="NAME|FILE.py", help="of a pretraining, for --rows")


@command("inspect", _inspect_arguments)
def _inspect(args) -> int:
    from mmv_jax.commands.store_pictures import draw_rows_of, write_report
    from mmv_jax.report.progress import progress
    from mmv_jax.store.inspect import contact_sheet, describe, verify

    if args.overrides and not args.config:
        raise UserError(f"inspect does not know {' '.join(args.overrides)} without --config.")
    if (args.rows is None) != (args.config is None):
        raise UserError("--rows FILE.png needs --config NAME|FILE.py, whose rows are drawn.")
    print(describe(args.store))
    if args.report:
        print(write_report(args.store, args.report))
    if args.rows:
        print(draw_rows_of(args.config, args.overrides, args.store, args.rows))
    if args.sheet:
        contact_sheet(args.store, args.sheet)
        print(f"contact sheet: {args.sheet}")
    if args.verify:
        faults = verify(args.store, progress("verify: read"))
        print("\n".join(faults) if faults else "every block is as it was written")
        return 1 if faults else 0
    return 0


def _key_arguments(parser: argparse.ArgumentParser) -> None:
    """Write a CSV that joins a store's pseudonyms with your own identifiers again.

    Only who holds the key and the manifests can do this. The CSV names patients: keep it where
    patients may be named.

    example: mmv key stores/chest manifest.csv --key stores/chest.key --out names.csv
    """
    parser.add_argument("store", metavar="STORE", help="the store whose pseudonyms to join")
    parser.add_argument(
        "manifests", nargs="+", type=any_path, metavar="MANIFEST", help="those that were ingested"
    )
    parser.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="the key that ingest used"
    )
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="CSV", help="the file to write"
    )


@command("key", _key_arguments)
def _key(args) -> int:
    from mmv_jax.store.identifiers import write_identifiers

    print(write_identifiers(args.store, args.manifests, args.key, args.out))
    return 0


def _stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Copy a store to a disk of this machine.

    Train from the copy where the store lies in a bucket or on a slow shared file system. Give the
    same command again where a copy was cut off: what is there is not copied again.

    example: mmv stage gs://BUCKET/store /scratch/store
    """
    parser.add_argument("store", metavar="STORE", help="a folder, or a gs:// or s3:// address")
    where = "of a local disk; made if it is not there"
    parser.add_argument("folder", type=local_path, metavar="FOLDER", help=where)


@command("stage", _stage_arguments, resumes=True)
def _stage(args) -> int:
    from mmv_jax.report.progress import progress
    from mmv_jax.store.stage import stage

    copied = stage(args.store, args.folder, progress("staged", "objects"))
    print(f"{args.folder} holds the store ({copied} objects copied)")
    return 0
