"""The weights that a run begins from: those of a public encoder, or of another run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding
from ml_collections import ConfigDict

from mmv_jax.buckets import place
from mmv_jax.checkpoint import restore_items
from mmv_jax.errors import UserError
from mmv_jax.models.encoder import SIZES
from mmv_jax.models.lora import without_adapters
from mmv_jax.models.odd_folder import odd_folder
from mmv_jax.models.public import PublicEncoder
from mmv_jax.models.public_files import CONFIG, read_json
from mmv_jax.objectives.recipes import with_recipe
from mmv_jax.objectives.term import EARLIER
from mmv_jax.released import restore_weights, weights_file
from mmv_jax.report.progress import say
from mmv_jax.train.state import TrainState

UNKNOWN, NONE = "unknown", "none"


@dataclass(frozen=True)
class Init:
    """Where the first weights of a run come from; by default they are drawn.

    A resume reads its own checkpoint and not these weights again.

    Attributes:
      folder: a Hugging Face folder of DINOv2, DINOv3, RAD-DINO, ViT or ViT-MAE. What `encoder` and
        `data.coordinates` leave out is set as its weights need it.
      run: a run that this one goes on from with other data, crops, length or objective: its
        workdir, one of its steps, a safetensors file, or released weights by name.
      patients: of the folder: "none" if its training saw no medical image, else "unknown". An
        evaluation then says whether overlap with its test patients can be counted.
    """

    folder: str = ""
    run: str = ""
    patients: str = UNKNOWN

    def __post_init__(self):
        if self.folder and self.run:
            raise UserError(
                "config.init has a folder and a run. A run begins from one of them: leave one out."
            )
        if self.patients not in (UNKNOWN, NONE):
            raise UserError(
                f"config.init.patients is {self.patients!r}. Use {NONE!r} where the training of the"
                f" folder's weights saw no medical image, else {UNKNOWN!r}."
            )


@dataclass(frozen=True)
class Start:
    """Weights to begin from.

    Attributes:
      student, teacher: parameters by module; "encoder" is always there.
      card: of the weights: their name, digest and patients ("none", "unknown" or hashes).
      evaluated: the encoder as an evaluation reads it.
      before: the entry `pretraining` of the run that they come from; None for others.
      lines: what was taken from where, for people.
    """

    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    card: Mapping[str, Any]
    evaluated: Mapping[str, Any]
    before: Mapping[str, Any] | None = None
    lines: list[str] = field(default_factory=list)

    def put_into(self, state: TrainState) -> tuple[TrainState, list[str]]:
        """A fresh state with these weights, and a table of what began how.

        Modules whose shapes differ, such as a head of another width, keep their fresh weights.

        Raises:
          UserError: the encoder's parameters have other names or shapes.
        """
        fresh = without_adapters(state.student["encoder"])
        if why := _difference(self.student["encoder"], fresh):
            raise UserError(
                f"config.init: the encoder of {self.card['name']} is another than config.encoder"
                f" describes: {why}."
            )
        lines = [f"  {line}" for line in self.lines]
        parts: dict[str, dict] = {"student": dict(state.student), "teacher": dict(state.teacher)}
        for name in state.student:
            own = without_adapters(state.student[name])
            if name == EARLIER:  # the weights that the run begins from, as they were evaluated
                parts["student"][name] = _put(self.evaluated, state.student[name])
                lines.append(f"  {name}: the encoder, which stays as it is")
                continue
            taken = name in self.student and not _difference(self.student[name], own)
            lines.append(f"  {name}: {'taken' if taken else 'begins anew'}")
            if not taken:
                continue
            parts["student"][name] = _put(self.student[name], state.student[name])
            if name in state.teacher:
                # A run without this teacher begins one as a copy, as a fresh run does.
                own = self.teacher.get(name, self.student[name])
                parts["teacher"][name] = _put(own, state.teacher[name])
        averages = {
            number: _put(self.student["encoder"], tree) for number, tree in state.averages.items()
        }
        head = f"Weights of {self.card['name']} ({self.card['digest']}):"
        return replace(state, **parts, averages=averages), [head, *lines]


def begin(config: ConfigDict, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """A fresh state with the weights that a config begins from, and what a checkpoint says of them.

    It prints what was taken from where. Without `init` the state is returned as it is.

    Where only a part learns, the student too begins with the weights that an evaluation reads.

    Returns:
      The state; `init`, cards of all weights and teachers that it has learnt from; and `earlier`,
      the entry `pretraining` of the run that was gone on from, or None.
    Raises:
      UserError: the folder or the run cannot be read, or its encoder does not fit.
    """
    init = Init(**config.get("init", {}))
    if not (init.folder or init.run):
        return state, {}
    partly = bool(config.get("lora")) or config.optimizer.get("last_blocks") is not None
    start = _of_folder(init, config, state) if init.folder else _of_run(init.run, partly)
    state, lines = start.put_into(state)
    if jax.process_index() == 0:
        say("\n".join(lines))
    earlier = start.before or {}
    # What an earlier run has learnt from counts for this one too.
    learnt = [start.card, *earlier.get("init", ()), *earlier.get("teachers", ())]
    return state, {"init": learnt, "earlier": start.before}


def complete(config: ConfigDict) -> ConfigDict:
    """The config with the values of `objective.recipe`, and with what the weights of `init.folder`
    need of the encoder.

    Raises:
      UserError: the config has phases, or adapters without weights to begin from; there is no such
        recipe; or the config has another encoder than the folder, or the folder cannot be read.
    """
    if config.get("phases"):
        raise UserError(
            "config.phases: a run with phases is trained by `mmv pretrain`, one workdir a phase."
        )
    init = Init(**config.get("init", {}))
    if config.get("lora") and not (init.folder or init.run):
        raise UserError(
            "config.lora trains adapters beside weights that stay as they are: set"
            " config.init.folder or config.init.run, or leave the group out."
        )
    if config.objective.get("gram") and not (init.folder or init.run):
        raise UserError(
            "config.objective.gram holds the run near the weights that it begins from: set"
            " config.init.folder or config.init.run, or begin it in a later one of config.phases."
        )
    if config.objective.get("recipe"):
        config = ConfigDict(config.copy_and_resolve_references())
        with config.unlocked():
            config.objective = ConfigDict(with_recipe(config.objective))
    if not init.folder:
        return config
    public = PublicEncoder.open(init.folder)
    needed, own = dict(public.options), config.encoder
    if own.get("positions") == "rotary":  # in mm, on purpose: nothing stands for the folder's own
        for name in ("positions", "table", "scale_mm", "rope_base"):
            needed.pop(name, None)
    elif config.data.get("coordinates", "unit") != "unit":
        raise UserError(
            f"config.data.coordinates is {config.data.coordinates!r}, but {public.name} knows"
            ' places in the crop: leave it out, or set config.encoder.positions to "rotary", which'
            " gives up the positions that it has learnt."
        )
    else:
        needed["coordinates"] = "unit"
    _refuse_others(own, needed, public.name)
    completed = ConfigDict(config.copy_and_resolve_references())
    with completed.unlocked():
        for name, value in needed.items():
            if name == "coordinates":
                completed.data.coordinates = value
            elif name not in ("size", "patch"):
                completed.encoder[name] = value
    return completed


def _refuse_others(own: ConfigDict, needed: Mapping[str, Any], name: str) -> None:
    sides = tuple(needed["patch"][1:])
    wrong = {}
    if tuple(own.patch)[1:] != sides:
        wrong["patch"] = (own.patch[0], *sides)
    shape = tuple(needed[part] for part in ("width", "depth", "heads"))
    # Weights without a name here may have any size; its numbers are replaced.
    if shape in SIZES.values() and own.size != needed["size"]:
        wrong["size"] = needed["size"]
    for key, value in needed.items():
        same = key in ("size", "patch", "coordinates", "scale_mm") or key not in own
        if not same and own[key] != value and not (key == "layer_scale" and own[key] and value):
            wrong[key] = value
    if wrong:
        told = ", ".join(f"config.encoder.{key}={value!r}" for key, value in wrong.items())
        raise UserError(f"config.encoder does not fit the weights of {name}. They need {told}.")


def _of_folder(init: Init, config: ConfigDict, state: TrainState) -> Start:
    public = PublicEncoder.open(init.folder)
    for odd in odd_folder(Path(init.folder), read_json(Path(init.folder), CONFIG)):
        say(odd)
    learned = np.asarray(state.student["encoder"]["embed"]["learned"])
    params, lines, digest = public.parameters(tuple(config.encoder.patch), learned)
    if config.encoder.get("positions") == "rotary":
        params["embed"].pop("positions", None)
        lines.append("positions: in mm; those that the weights have learnt are given up")
    card = {"name": public.name, "digest": digest, "patients": init.patients}
    own = {"encoder": params}
    return Start(own, own, card, evaluated=params, lines=lines)


def _of_run(run: str, partly: bool) -> Start:
    if weights_file(run) is not None:
        restored = restore_weights(run, "encoder")
        trees: dict[str, Any] = {"student": {}, "teacher": {}}
        encoder = teacher = restored.trees["encoder"]
    else:
        found, _ = restore_items(place(run), ("encoder", "state"))
        restored = restore_weights(run, "encoder")
        trees, teacher = found["state"], found["state"]["teacher"].get("encoder", found["encoder"])
        encoder = trees["student"]["encoder"]
    if partly:
        # What does not learn is the same in both for ever: the teacher cannot follow it.
        encoder = teacher = restored.trees["encoder"]
    before = restored.config.get("pretraining")
    # Its patients are united with this run's, so the card has no further ones.
    patients: Any = [] if before else UNKNOWN
    card: dict[str, Any] = {"name": Path(str(run)).name, "digest": restored.origin()["digest"]}
    card["patients"] = patients
    return Start(
        {**trees["student"], "encoder": encoder},
        {**trees["teacher"], "encoder": teacher},
        card,
        evaluated=restored.trees["encoder"],
        before=before,
    )


def _difference(found: Any, wanted: Any) -> str:
    """The first parameter that is missing, too much, or of another shape; "" for none."""
    have, want = (
        {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (found, wanted))
    )
    for name in sorted(have.keys() | want.keys()):
        if have.get(name) != want.get(name):
            there, here = have.get(name, "missing"), want.get(name, "missing")
            return f"{name} is {there} there and {here} here"
    return ""


def _put(values: Any, like: Any) -> Any:
    """Arrays with the types and places of `like`, each device its own share.

    The arrays of `like` are deleted one by one. Adapters, which `values` does not have, stay.
    """

    def put(value: Any, leaf: jax.Array) -> jax.Array:
        # A copy: on a CPU several device arrays would be one array of NumPy, and the step gives the
        # memory of its state back.
        whole, where = np.array(value, leaf.dtype), leaf.sharding
        assert isinstance(where, Sharding)
        made = jax.make_array_from_callback(leaf.shape, where, lambda index: whole[index])
        leaf.delete()  # at once: else a device would hold fresh and begun weights side by side
        return made

    found, fresh = flatten_dict(values), flatten_dict(like)
    return unflatten_dict(
        {path: put(found[path], x) if path in found else x for path, x in fresh.items()}
    )
