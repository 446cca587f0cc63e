"""The table of commands, and what several of them need to read their words."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Arguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]

# Words that several commands share.
CONFIG_HELP = "a name that `mmv configs` lists, or a file of your own"
CHECKPOINT_HELP = "the --workdir of a run, or one of its steps"
WEIGHTS_HELP = f"{CHECKPOINT_HELP}; or a safetensors file of `mmv export`, or released weights"
WORKERS_HELP = "processes (default: one a core)"

COMMANDS: dict[str, tuple[Arguments, Run]] = {}


def command(name: str, add_arguments: Arguments) -> Callable[[Run], Run]:
    """Registers a function as `mmv NAME`. The docstring of `add_arguments` is its help: a line,
    what a user can do with it, and an example (`help_of`).
    """

    def register(run: Run) -> Run:
        # The order of registration is the order in `mmv --help`.
        COMMANDS[name] = (add_arguments, run)
        return run

    return register


class Help(NamedTuple):
    """The help of a command: a line, its paragraphs, and an example to copy."""

    summary: str
    text: str
    example: str


def help_of(add_arguments: Arguments) -> Help:
    """The help that stands in the docstring of a command's `add_arguments`."""
    words = inspect.getdoc(add_arguments) or ""
    before, _, example = words.partition("example: ")
    summary, _, text = before.partition("\n\n")
    return Help(" ".join(summary.split()), text.strip(), example.rstrip())


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
    what = "a file of your own that adds a reader, a data set, a loss, ...; may be repeated"
    parser.add_argument(
        "--plugins", type=Path, action="append", default=[], metavar="FILE.py", help=what
    )
