"""Turn a published checkpoint into a folder that transformers, and so an evaluation, reads."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.convert.beside import declared_in
from mmv_jax.convert.card import CARD, checked_names
from mmv_jax.convert.layout import PublishedLayout, Renamed, Tower, found_prefix, is_average, rename
from mmv_jax.convert.stored import Groups, Tensors, digest_of, files_of, read_groups
from mmv_jax.convert.table import LAYOUTS
from mmv_jax.errors import UserError
from mmv_jax.models.channels import PREPROCESSING, channels, side_of
from mmv_jax.models.folder_files import check_numbers
from mmv_jax.models.odd_folder import odd_folder
from mmv_jax.provenance import now, versions
from mmv_jax.report.progress import say

CONFIG, WEIGHTS = "config.json", "model.safetensors"
USUAL = "as published for this layout"  # preprocessing that no file says
# Of these a table of positions allows one side alone; the others interpolate theirs.
FIXED_SIDE = ("vit", "clip_vision_model", "siglip_vision_model")
BESIDE = (CONFIG, "open_clip_config.json", PREPROCESSING)
# A training keeps several copies of its weights: after averages these come, then all others.
COPIES = ("", "state_dict", "model", "model_state_dict", "student")


@dataclass(frozen=True)
class ConversionRequest:
    """What a user says of a checkpoint.

    Attributes:
      licence: of the weights.
      trained_on: names of data sets, or "none" or "unknown" (`card.checked_names`).
      layout: its name; None: recognised by its tensors.
      weights: the copy, such as "teacher"; None: an average (`layout.is_average`), or the first of
        `COPIES`.
      side: pixels of an image's side, where a model lets one choose; None: as published.
    """

    licence: str
    trained_on: Sequence[str]
    layout: str | None = None
    weights: str | None = None
    side: int | None = None


@dataclass(frozen=True)
class Converted:
    """A folder that was written, and what happened to each tensor."""

    folder: Path
    card: Mapping[str, Any]
    preprocessing: Mapping[str, Any]

    @property
    def _if_a_card_says_else(self) -> str:
        usual = self.card["preprocessing"] == USUAL and "image_mean" in self.preprocessing
        return f" (if a card says else, put {PREPROCESSING} beside the weights)" if usual else ""

    def __str__(self) -> str:
        card, seen = self.card, self.preprocessing
        lines = [*card["mapped"], *(f"{name} -> not used" for name in card["not_used"])]
        lines += [f"{name}: sha256 {digest}" for name, digest in card["files"].items()]
        if card["other_copies"]:
            lines.append(f"weights: {card['weights']}; also there: {card['other_copies']}")
        lines += [
            f"layout: {card['layout']}, {card['tensors']} tensors, {card['parameters']} parameters",
            f"preprocessing, {card['preprocessing']}: {_in_words(seen)}{self._if_a_card_says_else}",
            f"trained on: {', '.join(card['trained_on'])}; licence: {card['licence']}",
            f"written: {self.folder}",
        ]
        return "\n".join(lines)


def convert_encoder(source: Path, out: Path, asked: ConversionRequest) -> Converted:
    """Write the vision tower of a checkpoint as a folder: `config.json`, `model.safetensors`,
    `preprocessor_config.json`, and `conversion.json`, which says where all of it comes from.

    Nothing is downloaded, and no code and no pickle of the checkpoint is run. The folder appears
    whole or not at all.

    Args:
      source: a file, or a folder with one checkpoint and its config files.
    Raises:
      UserError: the checkpoint is of no known layout, is damaged or not whole; or `out` exists.
    """
    names = checked_names(asked.trained_on)
    if out.exists():
        raise UserError(f"--out {out}: it exists. Give the name of a new folder.")
    files = files_of(source)
    beside = _beside(files[0].parent)
    groups = read_groups(files)
    weights, layout_name, prefix = _chosen(source, groups, asked)
    layout = LAYOUTS[layout_name]
    tower = Tower(_within(groups[weights], layout, prefix), beside, asked.side)
    try:
        config = layout.config(tower)
        check_numbers(files[0].parent.name, config)
        for odd in odd_folder(files[0].parent, config):
            say(odd)
        said = PREPROCESSING in beside
        seen = dict(beside[PREPROCESSING]) if said else layout.preprocessing(tower, config)
        if not said and "image_mean" in seen:
            seen = declared_in(tower, config) or seen
        _refuse_images(files[0].parent, config)
        made = rename(tower, layout.rules(tower))
        _refuse_width(made, config)
    except UserError as error:
        raise UserError(f"{source.name}, read as {layout_name}: {error}") from None
    rest = sorted(groups[weights].keys() - _names(groups[weights], layout, prefix))
    card = {
        "files": {path.name: digest_of(path) for path in files},
        "layout": layout_name,
        "weights": weights,
        "other_copies": ", ".join(sorted(name for name in groups if name != weights)[:8]),
        "preprocessing": f"of its {PREPROCESSING}" if said else USUAL,
        "licence": asked.licence,
        "trained_on": names,
        "tensors": len(made.tensors),
        "parameters": int(sum(value.size for value in made.tensors.values())),
        "mapped": made.mapped,
        "not_used": [*made.unused, *_heads(rest)],
        "date": now(),
        "versions": versions(),
    }
    _write(out, {CONFIG: config, PREPROCESSING: seen, CARD: card}, made)
    return Converted(out, card, seen)


def _beside(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The JSON files beside a checkpoint that some layouts need."""
    found = {}
    for name in BESIDE:
        if (folder / name).is_file():
            try:
                found[name] = json.loads((folder / name).read_text())
            except ValueError:
                found[name] = None
            if not isinstance(found[name], dict):
                raise UserError(f"{folder.name}: its {name} is damaged.")
    return found


def _chosen(source: Path, groups: Groups, asked: ConversionRequest) -> tuple[str, str, str]:
    """Name of the copy of the weights, of their layout, and the prefix of the tower."""
    own = asked.weights
    if own is not None and own not in groups:
        # In one dictionary a copy is the first part of the names of its tensors.
        groups[own] = {
            name: tensor
            for tensors in [*groups.values()]
            for name, tensor in tensors.items()
            if name.startswith(f"{own}.")
        }
    if own is not None and not groups[own]:
        del groups[own]
        there = ", ".join(repr(name) for name in sorted(groups)[:8])
        raise UserError(f"{source.name}: it has no weights {asked.weights!r}. It has {there}.")
    # A training names its average in many ways: "ema", "state_dict_ema".
    averages = sorted(name for name in groups if is_average(name) and "optimizer" not in name)
    usual = [name for name in COPIES if name in groups]
    copies = list(dict.fromkeys([*averages, *usual, *sorted(groups)]))
    layouts = list(LAYOUTS) if asked.layout is None else [asked.layout]
    for copy in copies if own is None else [own]:
        for name in layouts:
            try:
                prefix = found_prefix(LAYOUTS[name], groups[copy])
            except UserError as error:
                raise UserError(f"{source.name}: {error}") from None
            if prefix is not None:
                return copy, name, prefix
    shown = sorted(groups[copies[0]])[:3] if copies else ["no tensor"]
    raise UserError(
        f"{source.name}: its tensors are of no layout that is read"
        f" ({', '.join(layouts)}). They begin with {', '.join(shown)}."
    )


def _refuse_images(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse images that the tower cannot have, or that would all be alike."""
    if "image_size" not in config:  # of a network for volumes
        return
    channels(folder)
    side = side_of(folder)
    if config["model_type"] in FIXED_SIDE and side not in (None, config["image_size"]):
        raise UserError(
            f"{PREPROCESSING} beside it says a side of {side} pixels, and its table of positions is"
            f" of {config['image_size']}. One of the two is another model's."
        )


def _refuse_width(made: Renamed, config: Mapping[str, Any]) -> None:
    """Refuse a token, a table or a norm outside of the blocks that is not as wide as the model."""
    width = config.get("hidden_size")
    for name, value in made.tensors.items():
        outside = name.startswith(("embeddings.", "layernorm", "norm.", "pre_", "post_"))
        wide = value.shape[-1:] if value.ndim in (1, 2, 3) else (width,)
        if width and outside and wide != (width,):
            raise UserError(
                f"the tensor {name} has the shape {value.shape}, and the model is {width} wide. It"
                " is damaged."
            )


def _names(tensors: Tensors, layout: PublishedLayout, prefix: str) -> set[str]:
    return {name for name in tensors if layout.tidy(name).startswith(prefix)}


def _within(tensors: Tensors, layout: PublishedLayout, prefix: str) -> Tensors:
    """The tensors of the tower, by their names in it."""
    return {
        layout.tidy(name).removeprefix(prefix): tensors[name]
        for name in _names(tensors, layout, prefix)
    }


def _heads(names: Sequence[str]) -> list[str]:
    """What lies outside of the tower, a line for each of its parts."""
    return sorted({f"{name.split('.')[0]}.*" for name in names})


def _in_words(seen: Mapping[str, Any]) -> str:
    wanted = ["crop_size", "size", "image_mean", "image_std", "rescale_factor", "do_normalize"]
    wanted += ["spacing_mm", "hu"]  # of CT
    return ", ".join(f"{name} {seen[name]}" for name in wanted if name in seen)


def _write(out: Path, files: Mapping[str, Mapping[str, Any]], made: Renamed) -> None:
    from safetensors.numpy import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, so that the last step is one rename on one disk.
    part = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".part", dir=out.parent))
    try:
        tensors = {name: np.ascontiguousarray(x) for name, x in made.tensors.items()}
        # The format is that of transformers, which refuses a file that names none.
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        for name, content in files.items():
            (part / name).write_text(json.dumps(content, indent=2) + "\n")
        part.chmod(0o755)
        (part / WEIGHTS).chmod(0o644)  # safetensors' own file is for its owner alone
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
