"""The command that turns published checkpoints into folders: convert-encoder."""

import argparse
from pathlib import Path

from mmv_jax.commands.table import command, local_path


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Turn a published checkpoint into a folder that an evaluation reads.

    The folder has safetensors, config.json and preprocessor_config.json, as transformers writes
    them, and conversion.json: where all of it comes from. Nothing is downloaded. A pickle is never
    loaded: a process that can open no file and no socket says which tensors it names.
    docs/how-to/convert-encoders.md has a recipe for each encoder.

    example: mmv convert-encoder dinov2.pth --out models/b --licence Apache-2.0 --trained-on none
    """
    parser.add_argument(
        "source",
        type=local_path,
        metavar="FILE|DIR",
        help="a checkpoint (.safetensors, .bin, .pt, .pth, .pth.tar), or a folder with one",
    )
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="the new folder"
    )
    parser.add_argument("--licence", required=True, help="licence of the weights")
    parser.add_argument(
        "--trained-on",
        action="append",
        required=True,
        metavar="NAME",
        help="a data set of its training, spelt as the column `source` of your manifests, so that"
        " an evaluation counts its patients; may be repeated; or: none (no medical image), unknown",
    )
    parser.add_argument("--layout", metavar="NAME", help="by default recognised by its tensors")
    parser.add_argument(
        "--weights",
        metavar="NAME",
        help="which copy of the weights, where a training kept several (default: its teacher)",
    )
    parser.add_argument(
        "--side",
        type=int,
        metavar="PIXELS",
        help="side of its images, for models that take any (default: as published)",
    )


@command("convert-encoder", _convert_arguments)
def _convert(args) -> int:
    from mmv_jax.convert.write import ConversionRequest, convert_encoder

    asked = ConversionRequest(
        licence=args.licence,
        trained_on=args.trained_on,
        layout=args.layout,
        weights=args.weights,
        side=args.side,
    )
    print(convert_encoder(Path(args.source), Path(args.out), asked))
    return 0
