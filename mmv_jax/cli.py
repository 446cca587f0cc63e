"""`mmv`: parses a command, calls one function, and turns what happened into an exit code."""

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from mmv_jax.commands.table import COMMANDS, RESUMED, help_of
from mmv_jax.config import PREFIX, load_config, values_of
from mmv_jax.errors import UserError

# They register their commands, in the order in which `mmv --help` lists them.
for group in (
    "configs",
    "stores",
    "boxes",
    "store_edits",
    "runs",
    "encoders",
    "convert",
    "mammograms",
    "bench",
):
    importlib.import_module(f"mmv_jax.commands.{group}")

AGAIN_S = 1.0  # until SIGTERM is raised again where something has caught it
TERMINATED = 143  # 128 + SIGTERM, the code that shells give to a process that it ended

WHAT = """Pretrain, evaluate and use one vision encoder for 2D and 3D medical studies."""
AFTER = """Start with `mmv demo`: phantoms, a store, an encoder and a report, in minutes.
With your own files: manifest, ingest, pretrain, evaluate, in this order.
`mmv COMMAND --help` says what a command reads and writes. Commands with --config take
--config.KEY=VALUE for every key that `mmv config NAME` lists.
Exit codes: 0 done, 1 the work failed, 2 the command or an input was wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mmv`. Returns 0, 1 (the work failed) or 2 (wrong use); a user's mistake is one line,
    never a traceback.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    unknown = [
        word for word in rest if not word.startswith("--config.") or not hasattr(args, "config")
    ]
    if unknown:
        parser.error(f"{args.command} does not know {' '.join(unknown)}{_meant(unknown, args)}")
    args.overrides = rest
    # Orbax and Grain speak of their own affairs there. Orbax prints what went wrong with a save in
    # hundreds of lines, from several threads, and raises it to us besides.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        with _ending_on_sigterm() if args.command in RESUMED else nullcontext():
            _load_named(args)
            return COMMANDS[args.command][1](args)
    except UserError as error:
        print(f"mmv {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"mmv {args.command}: {_without_path(error, args)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        again = " The same command goes on from here." if args.command in RESUMED else ""
        print(f"mmv {args.command}: stopped.{again}", file=sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else 1


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. Whatever cleans up after Ctrl-C cleans up after it too."""


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into an exception: by itself it ends the process at once, which leaves
    temporary files, locks and workers behind. Not for commands that have nothing to clean up: a
    long call of the compiler keeps the exception waiting.
    """

    def end(number: int, frame: FrameType | None) -> None:
        # JAX catches whatever is raised while it traces. So it is raised again, unless it is being
        # handled: what cleans up is not disturbed.
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        if not isinstance(sys.exception(), Terminated):
            raise Terminated

    # Only the main thread may do so; one that ignores the signal, as behind some shells, goes on.
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, with their help texts."""
    # No abbreviations: a mistyped option must not pass for another one.
    parser = argparse.ArgumentParser(
        prog="mmv",
        description=WHAT,
        epilog=AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (add_arguments, _) in COMMANDS.items():
        said = help_of(add_arguments)
        command = commands.add_parser(
            name,
            help=said.summary,
            description=f"{said.summary}\n\n{said.text}",
            epilog=f"example: {said.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_arguments(command)
    return parser


def _load_named(args: argparse.Namespace) -> None:
    """Loads the plug-ins of the command line. Only commands that know --plugins import anything."""
    if hasattr(args, "plugins") or getattr(args, "config", None):
        from mmv_jax.plugins import forget_plugins, load_plugins

        # `main` may be called several times in a process, by tests for example.
        forget_plugins()
        load_plugins(getattr(args, "plugins", ()))


def _without_path(error: OSError, args: argparse.Namespace) -> str:
    """What the system says, and the argument that it speaks of: the path itself may be a
    patient's.
    """
    # Ray's and fsspec's connections raise these without the system's words.
    other = "Is there room on the disk?"
    if isinstance(error, ConnectionError | TimeoutError):
        other = "Does the server answer, and does it ask for a token?"
    what = error.strerror or f"reading or writing failed ({type(error).__name__}). {other}"
    if not isinstance(error.filename, str | os.PathLike):
        return what
    from mmv_jax.files import meant_by

    where = meant_by(Path(error.filename).absolute())
    for name, value in vars(args).items():
        for given in value if isinstance(value, list) else [value]:
            # A store is kept as text, since it may be an address; all other places are paths.
            is_place = isinstance(given, Path) or (name == "store" and given is not None)
            if is_place and where.is_relative_to(Path(given).absolute()):
                return f"{name.upper()}: {what}"
    return what


class _Version(argparse.Action):
    """Prints the versions of the package and of what its numbers rest on."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        names = ("mmv_jax", "jax", "jaxlib", "flax", "orbax-checkpoint")
        print("  ".join(f"{name} {version(name)}" for name in names))
        parser.exit()


def _meant(unknown: Sequence[str], args: argparse.Namespace) -> str:
    """The word that sets a value of the config, where `--steps=20` was given for it."""
    name, _, value = unknown[0].removeprefix("--").partition("=")
    try:
        names = [known for known, _ in values_of(load_config(args.config))]
    except (AttributeError, TypeError, UserError):
        return ""  # a command without a config, or a config with a mistake of its own
    same = [known for known in names if known == name or known.endswith(f".{name}")]
    value = value or next((word for word in unknown[1:] if not word.startswith("--")), "VALUE")
    return f". To change the config, write {PREFIX}{same[0]}={value}" if same else ""


if __name__ == "__main__":
    sys.exit(main())
