"""The command that makes masks of boxes."""

import argparse

from mmv_jax.commands.table import any_path, command, local_path


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text} is not COLUMN=VALUE, such as pneumonia=0")
    return name, value


def _boxes_arguments(parser: argparse.ArgumentParser) -> None:
    """Make masks of boxes in a CSV, and a manifest that has them.

    A line of the CSV is a box: the study_id or the name of the study's file, then x, y, w, h or
    xmin, ymin, xmax, ymax in pixels from the top left, and of a volume the slice from the feet,
    counted from 0. Boxes that leave their image are refused, with their lines. The masks are read
    again before the manifest is written. A task of kind `localisation` finds such boxes.

    example: mmv boxes cxr.csv --boxes cxr_boxes.csv --mask finding --out cxr-boxes.csv
    """
    parser.add_argument("manifest", type=any_path, metavar="MANIFEST", help="of the studies")
    parser.add_argument(
        "--boxes", type=local_path, required=True, metavar="FILE.csv", help="a line a box"
    )
    parser.add_argument("--mask", required=True, metavar="NAME", help="the column is NAME_mask")
    parser.add_argument(
        "--label", action="append", default=[], help="boxes with this label alone; may be repeated"
    )
    free = "studies with this label and no box are free of it (an empty mask); may be repeated"
    parser.add_argument(
        "--free", type=_pair, action="append", default=[], metavar="COLUMN=VALUE", help=free
    )
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="FILE.csv", help="the new manifest"
    )


@command("boxes", _boxes_arguments)
def _boxes(args) -> int:
    from mmv_jax.manifests.boxes import write_boxes

    options = {"mask": args.mask, "labels": args.label, "free": dict(args.free)}
    count = write_boxes(args.manifest, args.boxes, args.out, **options)
    print(f"{count} studies with boxes in {args.out}")
    return 0
