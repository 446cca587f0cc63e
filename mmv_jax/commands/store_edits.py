"""Commands that change a store: remove, split, merge."""

import argparse
from pathlib import Path

from mmv_jax.commands.table import command


def _remove_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the studies of a manifest out of a store, with their voxels.

    For patients who withdrew, or studies that should not have been taken in. Reads MANIFEST for
    the names alone; no image file is opened. Zeros are written over the voxels. A run that was
    trained on the store before refuses to go on with it.

    example: mmv remove stores/chest withdrawn.csv --patients
    """
    parser.add_argument("store", metavar="STORE", help="the store to change")
    parser.add_argument(
        "manifests",
        type=Path,
        nargs="+",
        metavar="MANIFEST",
        help="CSV files that name the studies",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="key of the pseudonyms (default STORE.key)"
    )
    parser.add_argument(
        "--patients", action="store_true", help="every study of the patients, listed or not"
    )


@command("remove", _remove_arguments)
def _remove(args) -> int:
    from mmv_jax.store.edit import remove

    print(remove(args.store, args.manifests, args.key, patients=args.patients))
    return 0


def _shares(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError("three whole numbers, such as 80,10,10") from None


def _split_arguments(parser: argparse.ArgumentParser) -> None:
    """Give every patient of a store a split anew.

    By a hash of patient and seed, so that no patient is in two splits, and stores with one key give
    a patient the same one. No voxel is read or written.

    example: mmv split stores/chest --shares 80,10,10 --seed 0
    """
    parser.add_argument("store", metavar="STORE", help="the store to change")
    shares = "parts of the patients (default 80,10,10)"
    parser.add_argument(
        "--shares", type=_shares, default=(80, 10, 10), metavar="TRAIN,VAL,TEST", help=shares
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed deals otherwise")


@command("split", _split_arguments)
def _split(args) -> int:
    from mmv_jax.store.edit import deal_splits

    print(deal_splits(args.store, args.shares, args.seed))
    return 0


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Join stores that were made with one key into a new one.

    Copies parts as they are; the stores stay. A study that is in several is taken from the first. A
    patient in two splits is refused: give the stores the same splits first, by `mmv split`.

    example: mmv merge stores/site-a stores/site-b --out stores/both
    """
    parser.add_argument(
        "stores", nargs="+", metavar="STORE", help="stores that were made with one key"
    )
    parser.add_argument("--out", required=True, metavar="STORE", help="the new store to write")


@command("merge", _merge_arguments)
def _merge(args) -> int:
    from mmv_jax.store.edit import merge

    print(merge(args.stores, args.out))
    return 0
