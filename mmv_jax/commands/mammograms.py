"""Commands of calcified breast arteries: fit-bac, bac."""

import argparse
from pathlib import Path

from mmv_jax.commands.table import add_plugins, command, local_path


def _fit_bac_arguments(parser: argparse.ArgumentParser) -> None:
    """Fits the segmentation of calcified breast arteries to a store of mammograms with truth; goes
    on where the workdir has a checkpoint.

    example: mmv fit-bac --config experiments/bac.py --workdir runs/bac/fit
    """
    parser.add_argument("--config", required=True, metavar="NAME|FILE.py")
    parser.add_argument("--workdir", type=local_path, required=True, metavar="DIR")


@command("fit-bac", _fit_bac_arguments)
def _fit_bac(args) -> int:
    from mmv_jax.bac.fit import fit
    from mmv_jax.commands.keys import load_for

    fit(load_for("mmv fit-bac", args.config, args.overrides), args.workdir)
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
        "--checkpoint",
        type=local_path,
        required=True,
        metavar="DIR",
        help="the workdir of mmv fit-bac",
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR")
    parser.add_argument(
        "--key", type=Path, help="the key of the pseudonyms; default OUT.key, made where missing"
    )
    # the rules of measuring come with the checkpoint; --config.measure.x=v changes one
    parser.set_defaults(config=None)
    add_plugins(parser)


@command("bac", _bac_arguments)
def _bac(args) -> int:
    from mmv_jax.bac.run import measure_files

    print(
        measure_files(
            args.files, args.checkpoint, args.out, overrides=args.overrides, key_path=args.key
        )
    )
    return 0
