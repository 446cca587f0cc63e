"""`mmv`: parses a command, calls one function, and turns what happened into an exit code."""

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmv_jax.errors import UserError

COMMANDS: dict[
    str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]
] = {}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mmv`. Returns 0, 1 (the work failed) or 2 (wrong use); a user's mistake is one line,
    never a traceback.
    """
    parser = argparse.ArgumentParser(prog="mmv", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (add_arguments, _) in COMMANDS.items():
        summary, _, example = (add_arguments.__doc__ or "").partition("\n")
        described = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=_dedent(example),
            formatter_class=described,
            allow_abbrev=False,
        )
        add_arguments(command)
    args, rest = parser.parse_known_args(argv)
    unknown = [
        word for word in rest if not word.startswith("--config.") or not hasattr(args, "config")
    ]
    if unknown:
        parser.error(f"{args.command} does not know {' '.join(unknown)}")
    args.overrides = rest
    # Orbax and Grain speak of their own affairs there
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        return COMMANDS[args.command][1](args)
    except UserError as error:
        print(f"mmv {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"mmv {args.command}: {_without_path(error, args)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mmv {args.command}: stopped.", file=sys.stderr)
        return 1


def _without_path(error: OSError, args: argparse.Namespace) -> str:
    """What the system says, and the argument that it speaks of: the path itself may be a
    patient's.
    """
    what = (
        error.strerror
        or f"reading or writing failed ({type(error).__name__}). Is there room on the disk?"
    )
    if not isinstance(error.filename, str | os.PathLike):
        return what
    where = Path(error.filename).absolute()
    for name, value in vars(args).items():
        for given in value if isinstance(value, list) else [value]:
            if (isinstance(given, Path) or name == "store") and where.is_relative_to(
                Path(given).absolute()
            ):
                return f"{name.upper()}: {what}"
    return what


def _dedent(text: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in text.rstrip().splitlines())


def _local(text: str) -> Path:
    """A path that this machine sees. Checkpoints and logs are renamed and appended to, which
    buckets cannot; stores alone may lie in one.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an address, and a folder is needed: mount the bucket or a shared file"
            " system (docs/launch.md)"
        )
    return Path(text)


def command(name: str, add_arguments: Callable) -> Callable:
    """Registers a function as `mmv NAME`; the docstring of `add_arguments` is its help: a line,
    then an example.
    """

    def register(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
        COMMANDS[name] = (add_arguments, run)
        return run

    return register


def _phantom_arguments(parser: argparse.ArgumentParser) -> None:
    """Writes phantom studies with known truth as DICOM, NIfTI and PNG files, with a manifest.

    example: mmv phantom runs/phantoms --kind thorax-cxr,thorax-ct --studies 100 --seed 0
    """
    parser.add_argument("out", type=_local, metavar="OUT")
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
    parser.add_argument("kind", choices=("folder", "mimic-cxr", "chexpert", "nih-cxr14", "ct-rate"))
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--out", type=_local, required=True, metavar="FILE.csv")


@command("manifest", _manifest_arguments)
def _manifest(args) -> int:
    from mmv_jax.manifests.listing import write_manifest_of

    print(f"{write_manifest_of(args.kind, args.root, args.out)} studies in {args.out}")
    return 0


def _ingest_arguments(parser: argparse.ArgumentParser) -> None:
    """Reads the files of manifests into a block store; a file that is refused goes to
    quarantine.jsonl and stops nothing.

    example: mmv ingest chest.csv ct.csv --store stores/chest --workers 8
    """
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST")
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
        progress=progress("ingest: read"),
    )
    print(report)
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
    parser.add_argument("--workdir", type=_local, required=True, metavar="DIR")


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
    parser.add_argument("workdir", type=_local, metavar="WORKDIR")


@command("status", _status_arguments)
def _status(args) -> int:
    from mmv_jax.train.status import status

    print(status(args.workdir))
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Measures what an encoder is worth: metrics.json and a self-contained report.html.

    example: mmv evaluate --config experiments/eval_demo.py --checkpoint runs/mine --workdir
      runs/mine/evaluate
    """
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.py")
    parser.add_argument(
        "--checkpoint", type=_local, metavar="DIR", help="the workdir of a run, or one of its steps"
    )
    parser.add_argument("--workdir", type=_local, required=True, metavar="DIR")


@command("evaluate", _evaluate_arguments)
def _evaluate(args) -> int:
    from mmv_jax.bac import evaluate as mammograms
    from mmv_jax.config import load_config
    from mmv_jax.evaluate.run import evaluate
    from mmv_jax.outcomes import run as outcomes

    config = load_config(args.config, args.overrides)
    if "mammograms" in config:
        print(mammograms.evaluate_config(config, args.checkpoint, args.workdir))
    elif "cohort" in config:  # a table of areas and outcomes: no images, no encoder
        print(outcomes.evaluate_config(config, args.workdir))
    else:
        print(evaluate(config, args.checkpoint, args.workdir))
    return 0


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Writes the features of every study of a store: features.parquet, and patch tokens where
    asked.

    example: mmv embed --checkpoint runs/mine --store stores/chest --out runs/mine/features
    """
    parser.add_argument("--checkpoint", type=_local, required=True, metavar="DIR")
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", type=_local, required=True, metavar="DIR")
    parser.add_argument(
        "--tokens",
        default="cls",
        help="comma separated: cls, patch (patch writes every patch token as zarr)",
    )


@command("embed", _embed_arguments)
def _embed(args) -> int:
    from mmv_jax.evaluate.encoders.embed import embed

    print(embed(args.checkpoint, args.store, args.out, tokens=tuple(args.tokens.split(","))))
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    """Writes the encoder of a checkpoint for others: its weights (safetensors), or its forward pass
    as a program (stablehlo).

    example: mmv export --checkpoint runs/mine --format safetensors --out encoder.safetensors
    """
    parser.add_argument("--checkpoint", type=_local, required=True, metavar="DIR")
    parser.add_argument("--format", choices=("safetensors", "stablehlo"), required=True)
    parser.add_argument("--out", type=_local, required=True, metavar="PATH")


@command("export", _export_arguments)
def _export(args) -> int:
    from mmv_jax.export import export

    print(export(args.checkpoint, args.format, args.out))
    return 0


def _fit_bac_arguments(parser: argparse.ArgumentParser) -> None:
    """Fits the segmentation of calcified breast arteries to a store of mammograms with truth; goes
    on where the workdir has a checkpoint.

    example: mmv fit-bac --config experiments/bac.py --workdir runs/bac/fit
    """
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.py")
    parser.add_argument("--workdir", type=_local, required=True, metavar="DIR")


@command("fit-bac", _fit_bac_arguments)
def _fit_bac(args) -> int:
    from mmv_jax.bac.fit import fit
    from mmv_jax.config import load_config

    fit(load_config(args.config, args.overrides), args.workdir)
    return 0


def _bac_arguments(parser: argparse.ArgumentParser) -> None:
    """Measures calcified breast arteries on mammograms: mm² and severity of views, breasts and
    women, overlays, DICOM segmentations.

    example: mmv bac mammograms/*.dcm --checkpoint runs/bac/fit --out runs/bac/out
      --config.measure.of_views=max
    """
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILES",
        help="DICOM or PNG files, or a manifest that lists them",
    )
    parser.add_argument(
        "--checkpoint", type=_local, required=True, metavar="DIR", help="the workdir of mmv fit-bac"
    )
    parser.add_argument("--out", type=_local, required=True, metavar="DIR")
    parser.add_argument(
        "--key", type=Path, help="the key of the pseudonyms; default OUT.key, made where missing"
    )
    # the rules of measuring come with the checkpoint; --config.measure.x=v changes one
    parser.set_defaults(config=None)


@command("bac", _bac_arguments)
def _bac(args) -> int:
    from mmv_jax.bac.run import measure_files

    print(
        measure_files(
            args.files, args.checkpoint, args.out, overrides=args.overrides, key_path=args.key
        )
    )
    return 0


BENCHES = ("attention", "step", "packing", "input", "probe")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Times a part beside its peer, in turn, in one run.

    example: mmv bench attention --json
    """
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument(
        "--json", action="store_true", help="one object with ours, peer and ratio of each case"
    )


@command("bench", _bench_arguments)
def _bench(args) -> int:
    bench = getattr(importlib.import_module(f"mmv_jax.bench.{args.name}"), f"bench_{args.name}")
    result = bench()
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


if __name__ == "__main__":
    sys.exit(main())
