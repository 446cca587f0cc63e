"""The table of commands, and what several of them need to read their words."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmv_jax.buckets import is_address, place
from mmv_jax.errors import UserError

Arguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]

# Words that several commands share.
CONFIG_HELP = "a name that `mmv configs` lists, or a file of your own"
CHECKPOINT_HELP = "the --workdir of a run, or one of its steps; a folder, gs:// or s3://"
WEIGHTS_HELP = f"{CHECKPOINT_HELP}; or a safetensors file of `mmv export`, or released weights"
RUN_HELP = "the folder of the run, or its gs:// or s3:// address"
WORKERS_HELP = "processes (default: one a core)"

COMMANDS: dict[str, tuple[Arguments, Run]] = {}
RESUMED = set[str]()  # the commands that go on where they were stopped


def command(name: str, add_arguments: Arguments, *, resumes: bool = False) -> Callable[[Run], Run]:
    """Registers a function as `mmv NAME`. The docstring of `add_arguments` is its help: a line,
    what a user can do with it, and an example (`help_of`).

    Args:
      resumes: whether the command, given again, goes on where it was stopped.
    """

    def register(run: Run) -> Run:
        # The order of registration is the order in `mmv --help`.
        COMMANDS[name] = (add_arguments, run)
        if resumes:
            RESUMED.add(name)
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
    """A path of this machine, for what other libraries write or read by its name."""
    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"{text} is an address, and a folder or file of this machine is needed here"
            " (docs/how-to/buckets.md says what may lie in a bucket)"
        )
    return Path(text)


def any_path(text: str) -> Path:
    """A path of this machine, or of a bucket."""
    try:
        return place(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Adds `--plugins` to a command without a config that could name them."""
    what = "a file of your own that adds a reader, a data set, a loss, ...; may be repeated"
    parser.add_argument(
        "--plugins", type=Path, action="append", default=[], metavar="FILE.py", help=what
    )
