"""The table of commands, and what several of them need to read their words."""

import argparse
from collections.abc import Callable
from pathlib import Path

Arguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]

COMMANDS: dict[str, tuple[Arguments, Run]] = {}


def command(name: str, add_arguments: Arguments) -> Callable[[Run], Run]:
    """Registers a function as `mmv NAME`; the docstring of `add_arguments` is its help: a line,
    then an example.
    """

    def register(run: Run) -> Run:
        # The order of registration is the order in `mmv --help`.
        COMMANDS[name] = (add_arguments, run)
        return run

    return register


def local_path(text: str) -> Path:
    """A path that this machine sees. Checkpoints and logs are renamed and appended to, which
    buckets cannot; stores alone may lie in one.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an address, and a folder is needed: mount the bucket or a shared file"
            " system (docs/launch.md)"
        )
    return Path(text)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Adds `--plugins` to a command without a config that could name them."""
    what = "your own code, which registers entries (readers, data sets, ...); may be repeated"
    parser.add_argument(
        "--plugins", type=Path, action="append", default=[], metavar="FILE.py", help=what
    )
