"""Commands that need nothing but the package: demo, configs, config."""

import argparse
import shlex
import textwrap
from pathlib import Path

from mmv_jax.commands.table import COMMANDS, CONFIG_HELP, command, local_path

WIDTH = 100
# what the demo leaves in its workdir
PLACES = (
    *("phantoms", "phantoms/manifest.csv", "store", "sheet.png", "pretrain"),
    "evaluate",
)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Go from phantoms to an encoder and a report of its worth, in minutes.

    It needs no data and no accelerator: about ten minutes on two cores. It prints each command
    that it runs, so that you can repeat them with your own files. The report is
    DIR/evaluate/report.html.

    example: mmv demo --workdir runs/demo
    """
    parser.add_argument(
        "--workdir",
        type=local_path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="the folder to write to (default runs/demo)",
    )


@command("demo", _demo_arguments)
def _demo(args) -> int:
    # Quoted and split again, as a shell does: a folder's name may have blanks.
    at = {name: shlex.quote(str(args.workdir / name)) for name in PLACES}
    store = f"--config.data.store={at['store']}"
    steps = [
        f"phantom {at['phantoms']} --kind thorax-cxr,thorax-ct --studies 100 --seed 0",
        f"ingest {at['phantoms/manifest.csv']} --store {at['store']}",
        f"inspect {at['store']} --sheet {at['sheet.png']}",
        f"pretrain --config demo --workdir {at['pretrain']} {store}",
        f"evaluate --config eval_demo --checkpoint {at['pretrain']}"
        f" --workdir {at['evaluate']} {store}",
    ]
    for line in steps:
        # Flushed, so that the line stands before what the command itself writes to stderr.
        print(f"mmv {line}", flush=True)
        if code := _run(shlex.split(line)):
            return code
    return 0


def _run(words: list[str]) -> int:
    """Runs one command in this process."""
    name, *rest = words
    add_arguments, run = COMMANDS[name]
    # As `cli.main` does it: words that the command does not know are overrides of its config.
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args, overrides = parser.parse_known_args(rest)
    args.command, args.overrides = name, overrides
    return run(args)


def _configs_arguments(parser: argparse.ArgumentParser) -> None:
    """List the configs that come with the package, with what each is for.

    Give a name to `--config`, or copy the file as a start of your own.

    example: mmv configs
    """


@command("configs", _configs_arguments)
def _configs(args) -> int:
    import ast

    from mmv_jax.config import packaged_configs

    for path in packaged_configs():
        purpose = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
        print(f"{path.stem:<18} {' '.join(purpose.split())}")
    return 0


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    """Explain a config: every key with its value, default and meaning.

    Every key that it lists can be set on the command line: `--config.steps=500`.

    example: mmv config demo
    """
    parser.add_argument("name", metavar="NAME|FILE.py", help=CONFIG_HELP)


@command("config", _config_arguments)
def _config(args) -> int:
    from mmv_jax.commands.keys import KINDS, all_keys, kind_of
    from mmv_jax.config import NEEDED, find_key, load_config, values_of

    # Without keys to check by: a file with a mistake in it can still be explained.
    config = load_config(args.name)
    kind = kind_of(config)
    keys = all_keys(kind or KINDS[0])
    values = dict(values_of(config))
    # A key with `*` stands for the user's own names, which are among the values.
    names = sorted({*values, *(name for name in keys if "*" not in name)}, key=_order)
    for name in names:
        key = find_key(keys, name)
        if key is None:
            continue
        default = "needed" if key.default is NEEDED else f"default {key.default!r}"
        value = f"{values[name]!r}" if name in values else f"{key.default!r}"
        print(f"{name} = {value}  ({default})")
        if key.meaning:
            print(
                textwrap.fill(key.meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")
            )
    return 0


def _order(name: str) -> tuple[bool, str]:
    """Top-level keys first, then group by group."""
    return "." in name, name
