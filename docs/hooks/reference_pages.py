"""Writes the reference of commands and of config keys from the code, while the site is built."""

import argparse
import re

from mkdocs.structure.files import File

import mmv_jax.cli  # noqa: F401  its import registers the commands
from mmv_jax.commands.keys import KINDS
from mmv_jax.commands.table import COMMANDS, help_of
from mmv_jax.config import NEEDED


def on_files(files, config):
    """Adds the generated pages to those of the folder."""
    pages = {"reference/commands.md": commands(), "reference/config-keys.md": config_keys()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def commands() -> str:
    """A section for each command: what it does, an example, and its options."""
    parts = ["# Commands\n\n`mmv --version` prints the versions of what is installed.\n"]
    for name, (add_arguments, _) in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"mmv {name}", add_help=False)
        add_arguments(parser)
        said = help_of(add_arguments)
        example = " ".join(said.example.split())
        text = re.sub(r"^  (mmv .*)$", r"\n```sh\n\1\n```\n", said.text, flags=re.MULTILINE)
        parts.append(f"## mmv {name}\n\n{said.summary}\n\n{text}\n\n```sh\n{example}\n```\n")
        options = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        if options:
            parts.append("| argument | meaning |\n| --- | --- |\n" + "".join(map(_row, options)))
    return "\n".join(parts)


def _row(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0:
        name += f" {action.metavar or action.dest.upper()}"
    words = [str(action.help or "")]
    if action.choices:
        words.append(f"One of {', '.join(map(str, action.choices))}.")
    if action.required and action.option_strings:
        words.append("Needed.")
    elif "(default" in words[0]:
        pass  # the help says it already, with its unit
    elif action.default not in (None, False, argparse.SUPPRESS, []) and action.nargs != 0:
        words.append(f"Default `{action.default}`.")
    return f"| `{name}` | {' '.join(filter(None, words))} |\n".replace("||", "\\|\\|")


def config_keys() -> str:
    """A table for each kind of config: every key, its default and its meaning."""
    parts = [
        "# Config keys\n\nA config is a Python file with `get_config()`. Every key can be set on"
        " the command line: `--config.rows.length=1024`. `mmv config NAME` prints the same with the"
        " values of that config. `*` stands for a name of yours.\n"
    ]
    for kind in KINDS:
        parts.append(f"## {kind.noun.removeprefix('an ').removeprefix('a ').capitalize()}\n")
        parts.append(
            f"Read by `{kind.command}`.\n\n| key | default | meaning |\n| --- | --- | --- |"
        )
        for name, key in sorted(kind.keys().items(), key=lambda item: ("." in item[0], item[0])):
            default = "needed" if key.default is NEEDED else f"`{key.default!r}`"
            meaning = " ".join((key.meaning or "").split()).replace("|", "\\|")
            parts[-1] += f"\n| `{name}` | {default} | {meaning} |"
        parts[-1] += "\n"
    return "\n".join(parts)
