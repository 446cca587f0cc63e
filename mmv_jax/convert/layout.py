"""Layouts of published checkpoints: how their tensors are named, and what each becomes.

A new layout is one file, and one line in `table.py`.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmv_jax.convert.stored import FLOATS, QUANTISED, StoredTensor
from mmv_jax.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Words in the names of weights that are an average over the steps of a training.
AVERAGES = {"teacher", "ema", "averaged"}
Change = Callable[[np.ndarray], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Rule:
    r"""What becomes of the tensors whose whole name matches.

    Attributes:
      name: a regular expression; numbers of blocks, (\d+), come before any other group.
      targets: their new names, in which \1 is the first group. None: they are not used. A part
        after # joins pieces along the first axis: "x#0" comes before "x#1".
      change: the values of all targets from those of the tensor; None: one target, as it is.
      needed: whether the layout has such tensors always.
    """

    name: str
    targets: tuple[str, ...] | None = None
    change: Change | None = None
    needed: bool = True


def keep(name: str, target: str, **options: Any) -> Rule:
    """A rule for one new name."""
    return Rule(name, (target,), **options)


def unused(*names: str) -> tuple[Rule, ...]:
    """Rules for tensors that a tower's features do not need."""
    return tuple(Rule(name, needed=False) for name in names)


def thirds(value: np.ndarray) -> list[np.ndarray]:
    """Queries, keys and values, which lie along the first axis of one tensor."""
    return np.split(value, 3)


@dataclass(frozen=True)
class Tower:
    """The tensors of a vision tower, without the prefix of the whole model, and what is said
    beside them.

    Attributes:
      beside: the JSON files of the folder, by name.
      side: pixels of an image's side that the user asks for; None: as published.
    """

    tensors: Mapping[str, StoredTensor]
    beside: Mapping[str, Mapping[str, Any]]
    side: int | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
          UserError: there is none of this name.
        """
        if name not in self.tensors:
            raise UserError(f"the tensor {name} is missing. The checkpoint is not whole.")
        return self.tensors[name].shape

    def kernel(self, name: str) -> tuple[int, int]:
        """Width, and side of a patch in pixels, of the kernel of patches.

        Raises:
          UserError: there is none of this name, or it is not of square patches of three channels.
        """
        shape = self.shape(name)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise UserError(
                f"the tensor {name} has the shape {shape}. Kernels of square patches of three"
                " channels are read."
            )
        return shape[0], shape[2]

    def count(self, prefix: str) -> int:
        """The number of blocks whose names begin with a prefix and a number, which counts from 0.

        Raises:
          UserError: a block is missing.
        """
        found = re.compile(rf"{re.escape(prefix)}(\d+)\.")
        numbers = {int(hit[1]) for name in self.tensors if (hit := found.match(name))}
        if not numbers or numbers != set(range(len(numbers))):
            raise UserError(f"its blocks {prefix}* are {sorted(numbers)}. Some are missing.")
        return len(numbers)


@dataclass(frozen=True)
class PublishedLayout:
    """A way in which checkpoints are published.

    Attributes:
      about: whose it is, for `--help`.
      marks: tensors by which a tower is recognised; the prefix before the first one is the whole
        model's.
      unmarked: tensors that it never has.
      rules: the first that matches a name counts.
      config: the tower's `config.json`.
      preprocessing: side in pixels, means and deviations, where the folder does not say them.
      tidy: another name for each tensor, before the rules.
    """

    about: str
    marks: tuple[str, ...]
    rules: Callable[[Tower], tuple[Rule, ...]]
    config: Callable[[Tower], dict[str, Any]]
    preprocessing: Callable[[Tower, Mapping[str, Any]], dict[str, Any]]
    unmarked: tuple[str, ...] = ()
    tidy: Callable[[str], str] = str


def found_prefix(layout: PublishedLayout, names: Iterable[str]) -> str | None:
    """The prefix of a layout's tower among the names of a checkpoint; None: it has no such tower.

    Of several the average of the weights is taken, such as "teacher." beside "student.".

    Raises:
      UserError: there are several, and none or more than one is such an average.

    Example:
      >>> from mmv_jax.convert.dino import DINOV3
      >>> names = ["module.rope_embed.periods", "module.blocks.0.attn.qkv.weight"]
      >>> found_prefix(DINOV3, names)
      'module.'
    """
    names = {layout.tidy(name) for name in names}
    first = layout.marks[0]
    prefixes = [
        prefix
        for prefix in sorted(
            (n.removesuffix(first) for n in names if n.endswith(first)), key=_by_depth
        )
        # "x" of "prefixx.y" is another name.
        if (not prefix or prefix.endswith("."))
        and all(prefix + mark in names for mark in layout.marks)
        and not any(prefix + mark in names for mark in layout.unmarked)
    ]
    averaged = [prefix for prefix in prefixes if is_average(prefix)]
    found = averaged if averaged and len(prefixes) > 1 else prefixes
    # A tower within another model, such as a decoder, has the longer name.
    if len(found) > 1 and found[0].count(".") == found[1].count("."):
        names = " or ".join(prefix.removesuffix(".") for prefix in found)
        raise UserError(f"it has several such towers. Say which: --weights {names}.")
    return found[0] if found else None


def is_average(name: str) -> bool:
    """Whether a copy of weights is by its name the average over a training, which papers use.

    Example:
      >>> [is_average(name) for name in ("teacher.backbone.", "state_dict_ema", "student.", "gema")]
      [True, True, False, False]
    """
    return bool(AVERAGES & set(re.split(r"[._/]", name)))


def _by_depth(prefix: str) -> tuple[int, str]:
    return prefix.count("."), prefix


@dataclass(frozen=True)
class Renamed:
    """New names and values of a tower, and what happened to each tensor, a line each."""

    tensors: dict[str, np.ndarray]
    mapped: list[str]
    unused: list[str]


def rename(tower: Tower, rules: Iterable[Rule]) -> Renamed:
    """Apply the rules to every tensor of a tower.

    Raises:
      UserError: a tensor has no rule, or a rule that is needed has no tensor.
    """
    wanted = {rule: re.compile(rule.name) for rule in single(rules)}
    met: dict[Rule, set[tuple[str, ...]]] = {rule: set() for rule in wanted}
    pieces: dict[str, dict[int, np.ndarray]] = {}
    mapped, left = {}, set()
    for name, tensor in tower.tensors.items():
        hits = ((rule, found) for rule, exp in wanted.items() if (found := exp.fullmatch(name)))
        rule, match = next(hits, (None, None))
        if rule is None or match is None:
            raise UserError(
                f"the tensor {name} is none of this layout. It is another model, whose features"
                " would be wrong."
            )
        # Which blocks it was found in.
        met[rule].add(match.groups()[: rule.name.count(r"(\d+)")])
        if rule.targets is None:
            left.add(starred(name))
            continue
        targets = [match.expand(target) for target in rule.targets]
        if tensor.kind not in FLOATS:
            raise UserError(f"the tensor {name}: {QUANTISED.format(tensor.kind)}")
        value = tensor.read()
        try:
            parts = [value] if rule.change is None else list(rule.change(value))
        except (ValueError, IndexError):
            raise UserError(_misshapen(name, value.shape)) from None
        for target, part in zip(targets, parts):
            base, _, number = target.partition("#")
            pieces.setdefault(base, {})[int(number or 0)] = part
        mapped[starred(name)] = ", ".join(starred(target) for target in targets)
    _refuse_gaps(met)
    _refuse_shapes(tower)
    return Renamed(
        {name: np.concatenate([parts[n] for n in sorted(parts)]) for name, parts in pieces.items()},
        [f"{name} -> {where}" for name, where in sorted(mapped.items())],
        sorted(left),
    )


def single(rules: Iterable[Rule]) -> list[Rule]:
    """Rules without alternatives: one for each of (weight|bias), so that each is missed.

    Example:
      >>> [rule.name for rule in single([keep("norm([12]).(weight|bias)", "")])][1:3]
      ['norm(1).(bias)', 'norm(2).(weight)']
    """
    out = []
    for rule in rules:
        parts = re.split(r"\(((?:\w+\|)+\w+|\[\d+\])\)", rule.name)
        # Every second part is a list of alternatives: of words, or of digits.
        choices = [re.findall(r"\d", x) if x[0] == "[" else x.split("|") for x in parts[1::2]]
        for chosen in itertools.product(*choices) if rule.needed else [None]:
            if chosen is None:
                out.append(rule)
                continue
            words = [f"({word})" for word in chosen] + [""]
            name = "".join(part + word for part, word in zip(parts[::2], words))
            out.append(replace(rule, name=name))
    return out


def _refuse_gaps(met: Mapping[Rule, set[tuple[str, ...]]]) -> None:
    """Refuse a tower in which a needed tensor is missing, in one block or at all."""
    blocks: dict[str, set[tuple[str, ...]]] = {}
    for rule, found in met.items():
        if rule.needed:
            # What stands before the last number: blocks of one kind are all alike.
            blocks.setdefault(_kind_of_block(rule), set()).update(found)
    for rule, found in met.items():
        if rule.needed and (not found or found != blocks[_kind_of_block(rule)]):
            name = rule.name
            for number in min(blocks[_kind_of_block(rule)] - found, default=("0", "0")):
                name = name.replace(r"(\d+)", number, 1)
            name = re.sub(r"\\(.)", r"\1", re.sub(r"[()]", "", name))
            raise UserError(f"the tensor {name} is missing. The checkpoint is not whole.")


def _refuse_shapes(tower: Tower) -> None:
    """Refuse a tensor whose shape is not that of its neighbours: blocks of one stage are alike, and
    a bias has a number for each row of its weight.
    """
    first: dict[str, tuple[int, ...]] = {}
    for name in tower:
        shape, weight = tower.shape(name), f"{name.removesuffix('bias')}weight"
        rows = tower.shape(weight)[:1] if name.endswith(".bias") and weight in tower else shape
        # Only the number of the block is starred, not that of its stage.
        block = re.sub(r"\.\d+\.(?!.*\.\d+\.)", ".*.", name)
        # The first block of a stage of a ResNet has other widths.
        like = shape if re.match(r"layer\d+\.", name) else first.setdefault(block, shape)
        if not shape == rows == like:
            raise UserError(_misshapen(name, shape))


def _misshapen(name: str, shape: tuple[int, ...]) -> str:
    return f"the tensor {name} has the shape {shape}, which does not fit the others. It is damaged."


def _kind_of_block(rule: Rule) -> str:
    before, number, _ = rule.name.rpartition(r"(\d+)")
    return before + number if number else rule.name


def starred(name: str) -> str:
    """A name with * for the numbers of blocks, so that one line stands for all."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def square(tokens: int, special: int, name: str) -> int:
    """The side of a square grid of patches, of a table with so many tokens.

    Raises:
      UserError: they are no square.
    """
    side = int(np.sqrt(max(tokens - special, 0)))
    if side * side != tokens - special or not side:
        raise UserError(
            f"{name} has {tokens} places: not a square of patches and {special} special tokens."
        )
    return side


def preprocessor(side: int, mean: Iterable[float], std: Iterable[float]) -> dict[str, Any]:
    """`preprocessor_config.json` as transformers writes it."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def refuse_side(tower: Tower) -> None:
    """Refuse another side of the image, where a table of positions fixes it."""
    if tower.side is not None:
        raise UserError("--side: this model has a table of positions, which fixes its side.")
