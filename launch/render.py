"""What the launchers share: the `mmv` command after `--`, and templates filled in."""

import argparse
import shlex
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own options, and the words of the `mmv` command after `--`."""
    cut = argv.index("--") if "--" in argv else len(argv)
    args, command = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if not command:
        parser.error(
            "what to start is missing: end with -- and an mmv command, such as: -- pretrain"
            " --config experiments/X.py --workdir DIR"
        )
    return args, command


def add_staging(parser: argparse.ArgumentParser) -> None:
    """Adds `--stage-to` to a launcher."""
    parser.add_argument(
        "--stage-to",
        metavar="FOLDER",
        help="of each host's own disk: the store is copied there first (`mmv stage`), and read"
        " there",
    )


def staged(command: list[str], folder: str | None) -> list[str]:
    """The command, reading its store from where it was staged."""
    return command if folder is None else [*command, f"--config.data.store={folder}"]


def render(template: str, **values) -> str:
    """The text of a file in launch/templates with `values` filled in.

    The filter `quote` makes a value one word of the shell. A missing value is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment.get_template(template).render(values)


def write(out: Path, text: str, submit: str) -> None:
    """Write the rendered file and print how to submit it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(f"{out} is written; nothing has been started. Look at it, then: {submit}")
