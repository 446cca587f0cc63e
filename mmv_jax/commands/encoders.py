"""Commands that use a trained encoder: evaluate, report, embed, export."""

import argparse

from mmv_jax.commands.table import add_plugins, command, local_path


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Measures what an encoder is worth: metrics.json and a self-contained report.html.

    example: mmv evaluate --config experiments/eval_demo.py --checkpoint runs/mine --workdir
      runs/mine/evaluate
    """
    parser.add_argument("--config", required=True, metavar="NAME|FILE.py")
    parser.add_argument(
        "--checkpoint",
        type=local_path,
        metavar="DIR",
        help="the workdir of a run, or one of its steps",
    )
    parser.add_argument("--workdir", type=local_path, required=True, metavar="DIR")


@command("evaluate", _evaluate_arguments)
def _evaluate(args) -> int:
    from mmv_jax.commands.keys import load_for
    from mmv_jax.face.runs import evaluate

    config = load_for("mmv evaluate", args.config, args.overrides)
    print(evaluate(config, args.checkpoint, args.workdir))
    return 0


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    """Makes report.html anew from report.json, which every evaluation writes beside it.

    example: mmv report runs/mine/evaluate
    """
    parser.add_argument(
        "path", type=local_path, metavar="DIR|FILE", help="a workdir of mmv evaluate, or the file"
    )


@command("report", _report_arguments)
def _report(args) -> int:
    from mmv_jax.report.page import remake

    print(f"report: {remake(args.path)}")
    return 0


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Writes the features of every study of a store: features.parquet, and patch tokens where
    asked.

    example: mmv embed --checkpoint runs/mine --store stores/chest --out runs/mine/features
    """
    parser.add_argument("--checkpoint", type=local_path, required=True, metavar="DIR")
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR")
    parser.add_argument(
        "--tokens",
        default="cls",
        help="comma separated: cls, patch (patch writes every patch token as zarr)",
    )
    add_plugins(parser)


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
    parser.add_argument("--checkpoint", type=local_path, required=True, metavar="DIR")
    parser.add_argument("--format", choices=("safetensors", "stablehlo"), required=True)
    parser.add_argument("--out", type=local_path, required=True, metavar="PATH")
    add_plugins(parser)


@command("export", _export_arguments)
def _export(args) -> int:
    from mmv_jax.export import export

    print(export(args.checkpoint, args.format, args.out))
    return 0
