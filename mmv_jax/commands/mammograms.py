"""Commands of calcified breast arteries: fit-bac, bac."""

import argparse
from pathlib import Path

from mmv_jax.commands.table import CONFIG_HELP, add_plugins, command, local_path


def _fit_bac_arguments(parser: argparse.ArgumentParser) -> None:
    """Fit the segmentation of calcified breast arteries.

    It needs a store of mammograms with masks of the calcifications, such as `mmv phantom --kind
    breast` makes. The command given again resumes. `mmv bac` then measures with it.

    example: mmv fit-bac --config bac --workdir runs/bac/fit
    """
    parser.add_argument("--config", required=True, metavar="NAME|FILE.py", help=CONFIG_HELP)
    parser.add_argument(
        "--workdir", type=local_path, required=True, metavar="DIR", help="the folder of the run"
    )


@command("fit-bac", _fit_bac_arguments, resumes=True)
def _fit_bac(args) -> int:
    from mmv_jax.bac.fit import fit
    from mmv_jax.commands.keys import load_for

    fit(load_for("mmv fit-bac", args.config, args.overrides), args.workdir)
    return 0


def _bac_arguments(parser: argparse.ArgumentParser) -> None:
    """Measure calcified breast arteries on mammograms, in mm².

    It writes tables a view, a breast and a woman (area, severity), a page a woman, overlays and
    maps of breast and pectoral muscle to look at, DICOM segmentations and reports. A view that
    cannot be measured is named with the reason. It is no medical device.
    `--config.measure.KEY=VALUE` changes a rule of measuring, as in
    `--config.measure.of_views=max`.

    example: mmv bac mammograms/*.dcm --checkpoint runs/bac/fit --out runs/bac/out
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
        help="the --workdir of mmv fit-bac",
    )
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="the folder to write to"
    )
    parser.add_argument(
        "--key",
        type=Path,
        help="secret key of the pseudonyms (default OUT.key, made where missing)",
    )
    # the rules of measuring come with the checkpoint; --config.measure.x=v changes one
    parser.set_defaults(config=None)
    add_plugins(parser)


@command("bac", _bac_arguments, resumes=True)
def _bac(args) -> int:
    from mmv_jax.bac.run import measure_files

    print(
        measure_files(
            args.files, args.checkpoint, args.out, overrides=args.overrides, key_path=args.key
        )
    )
    return 0
