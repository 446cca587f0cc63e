"""Commands that use a trained encoder: evaluate, report, embed, export."""

import argparse
from pathlib import Path

from ml_collections import ConfigDict

from mmv_jax.commands.table import (
    CHECKPOINT_HELP,
    WEIGHTS_HELP,
    add_plugins,
    any_path,
    command,
    local_path,
)
from mmv_jax.errors import UserError


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Measure what an encoder is worth on labelled studies, beside floors.

    It writes metrics.json, predictions.parquet and a report.html that needs no other file. A
    config names tasks, encoders and protocols. Without one, `--store` and `--label` measure
    labels of your manifest:
      mmv evaluate --store stores/chest --checkpoint runs/mine --label sex --label age
    The command given again goes on where it was interrupted.

    example: mmv evaluate --config eval_demo --checkpoint runs/mine --workdir runs/mine/evaluate
    """
    # Not required: `--store` and `--label` make a config of their own.
    parser.add_argument(
        "--config",
        metavar="NAME|FILE.py",
        help="an evaluation's config, or else --store and --label",
    )
    parser.add_argument("--store", help="without a config: the store whose labels are measured")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help="without a config: a column of the manifests; two values are classified, other"
        " numbers predicted; may be repeated",
    )
    parser.add_argument(
        "--checkpoint",
        type=any_path,
        metavar="DIR",
        help=WEIGHTS_HELP,
    )
    parser.add_argument(
        "--workdir",
        type=any_path,
        metavar="DIR",
        help="where the results go (with --label: by default RUN/evaluate)",
    )


@command("evaluate", _evaluate_arguments, resumes=True)
def _evaluate(args) -> int:
    # Imports stand inside the commands, so that `mmv --help` does not wait for JAX.
    from mmv_jax.commands.keys import load_for
    from mmv_jax.face.runs import evaluate

    if args.config is None:
        from mmv_jax.evaluate.from_labels import in_terms_of

        config, workdir = _of_labels(args)
        with in_terms_of(args.label):
            print(evaluate(config, args.checkpoint, workdir))
        return 0
    if args.store or args.label:
        raise UserError("--config names store and tasks: leave out --store and --label.")
    if args.workdir is None:
        raise UserError("--workdir is missing: give the folder where the results go.")
    config = load_for("mmv evaluate", args.config, args.overrides)
    print(evaluate(config, args.checkpoint, args.workdir))
    return 0


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    """Make report.html again from report.json, without computing anything.

    Every evaluation writes report.json. Use this after an update of the package.

    example: mmv report runs/mine/evaluate
    """
    parser.add_argument(
        "path",
        type=any_path,
        metavar="DIR|FILE",
        help="an evaluation's --workdir or report.json",
    )


@command("report", _report_arguments)
def _report(args) -> int:
    from mmv_jax.report.page import remake

    print(f"report: {remake(args.path)}")
    return 0


def _of_labels(args) -> tuple[ConfigDict, Path]:
    """The config of `--store` and `--label`, and where its results go."""
    from mmv_jax.checkpoint import STEPS
    from mmv_jax.commands.keys import evaluation_keys
    from mmv_jax.config import set_by_word
    from mmv_jax.evaluate.from_labels import config_of_labels
    from mmv_jax.released import weights_file

    if not args.store or not args.label or args.checkpoint is None:
        raise UserError(
            "give --config; or, without a config, --store, --checkpoint and a --label or more:"
            " mmv evaluate --store stores/chest --checkpoint runs/mine --label sex --label age"
        )
    if args.workdir is None and weights_file(args.checkpoint):
        raise UserError("--workdir is missing: weights in a file have no run to write beside.")
    config = config_of_labels(args.store, args.label, str(args.checkpoint))
    # Locked, so that an override with a mistyped name is refused.
    config.lock()
    for word in args.overrides:
        set_by_word(config, word, evaluation_keys())
    run, step = args.checkpoint, ""
    if run.parent.name == STEPS:  # nothing may be written into a step, which is sealed
        run, step = run.parent.parent, f"-{run.name}"
    return config, args.workdir or run / f"evaluate{step}"


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Write the features of every study of a store for your own analyses.

    features.parquet has one line a study: its pseudonym, patient, split and features. With
    `--tokens cls,patch` the features of every patch and their places in mm go to a zarr array.

    example: mmv embed --checkpoint runs/mine --store stores/chest --out runs/mine/features
    """
    parser.add_argument(
        "--checkpoint", type=any_path, required=True, metavar="DIR", help=WEIGHTS_HELP
    )
    parser.add_argument("--store", required=True, help="the store whose studies are encoded")
    parser.add_argument(
        "--out", type=any_path, required=True, metavar="DIR", help="the folder to write to"
    )
    parser.add_argument(
        "--tokens",
        default="cls",
        help="cls, patch or cls,patch (default cls)",
    )
    add_plugins(parser)


@command("embed", _embed_arguments, resumes=True)
def _embed(args) -> int:
    from mmv_jax.evaluate.encoders.embed import embed
    from mmv_jax.result_folder import only_writer

    with only_writer(args.out, "--out"):
        print(embed(args.checkpoint, args.store, args.out, tokens=tuple(args.tokens.split(","))))
    return 0


def _teach_arguments(parser: argparse.ArgumentParser) -> None:
    """Write a teacher's patch features beside a store, once, as targets to distil.

    `objective.distil` then trains an encoder to predict them; no PyTorch is needed while it
    trains. The licence, the training data and the patients that the teacher has seen are kept
    with the features and shown in every report.

    example: mmv teach --package efficientnet-lite0 --store stores/chest --out stores/lite0
        --licence Apache-2.0 --trained-on ImageNet-1k --patients none
    """
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--package", metavar="NAME", help="an installed teacher: efficientnet-lite0")
    which.add_argument("--folder", type=local_path, metavar="DIR", help="a Hugging Face folder")
    parser.add_argument("--store", required=True, help="the store whose studies are taught")
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="the folder to write to"
    )
    parser.add_argument(
        "--width", type=int, default=256, help="features kept of a token (default 256)"
    )
    parser.add_argument(
        "--side",
        type=int,
        metavar="PIXELS",
        help="side of the input of a --package: more pixels give more features of a study"
        " (default 224)",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE,...",
        help="teach only studies with one of these values; may be repeated (default all)",
    )
    parser.add_argument("--licence", required=True, help="licence of the teacher's weights")
    parser.add_argument("--trained-on", required=True, help="the data that it was trained on")
    parser.add_argument(
        "--patients",
        choices=("none", "unknown"),
        required=True,
        help="patients that it has seen: none if it was trained on no medical image",
    )
    add_plugins(parser)


@command("teach", _teach_arguments)
def _teach(args) -> int:
    from mmv_jax.evaluate.encoders.table import load_encoder
    from mmv_jax.evaluate.encoders.teach import teach

    if args.side is not None and args.folder:
        raise UserError("--side is for a --package. A --folder says its own size.")
    group = {"package": args.package} if args.package else {"folder": str(args.folder)}
    only = {}
    for words in args.where:
        name, given, values = words.partition("=")
        if not given:
            raise UserError(f"--where {words}: give a column and its values, label_source=NIH.")
        only[name] = values.split(",")
    group |= {} if args.side is None else {"side": args.side}
    name = args.package or args.folder.name
    encoder = load_encoder(name, group)
    # Encoders of others need not have these fields; some prepare their images by themselves.
    seen = {field: getattr(encoder, field, None) for field in ("side", "patch", "mean", "std")}
    card = {
        "name": name,
        "preprocessing": {field: value for field, value in seen.items() if value} or "its own",
        "licence": args.licence,
        "trained_on": args.trained_on,
        "patients": args.patients,
    }
    print(teach(encoder, args.store, args.out, card=card, width=args.width, only=only))
    return 0


# Written out, not imported from `export.write`: that file imports JAX.
FORMATS = ("safetensors", "huggingface", "stablehlo", "onnx")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    """Write a trained encoder in a format that others can open.

    safetensors: weights that describe themselves, with loaders in NumPy and PyTorch. huggingface:
    a folder for transformers' AutoModel. stablehlo, onnx: the forward pass as a program. Each has
    a model card.

    example: mmv export --checkpoint runs/mine --format safetensors --out encoder.safetensors
    """
    parser.add_argument(
        "--checkpoint", type=any_path, required=True, metavar="DIR", help=CHECKPOINT_HELP
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="see above")
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="PATH", help="the file or folder to write"
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="keep the weights in 16 bits, half the size (safetensors); loaders compute in 32",
    )
    parser.add_argument(
        "--weights",
        default="encoder",
        metavar="NAME",
        help="encoder, 'average 2', teacher or student, as an evaluation names those that val chose"
        " (default encoder)",
    )
    add_plugins(parser)


@command("export", _export_arguments)
def _export(args) -> int:
    from mmv_jax.export.write import export

    print(export(args.checkpoint, args.format, args.out, half=args.half, weights=args.weights))
    return 0
