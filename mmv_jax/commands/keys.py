"""Every key that a config can have, by what the config is for: asked of the functions that take it.

A group of a config is the keyword arguments of one function, so its signature says which keys there
are, and its docstring what they mean.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from ml_collections import ConfigDict

from mmv_jax.config import PREFIX, ConfigKey, Keys, keys_of, load_config
from mmv_jax.errors import UserError

FLAX = ("parent", "name")  # arguments of every Flax module
# NumPy draws from no seed below 0.
SEED = ConfigKey(kind=int, meaning="Of everything that is drawn.", least=0)
STEPS = ConfigKey(kind=int, meaning="Of the whole run; the schedules follow from it.")
STORE = ConfigKey(kind=str, meaning="A folder, or a gs:// or s3:// address, made by `mmv ingest`.")
PLUGINS = "Python files of yours, which register entries in the package's tables."


@dataclass(frozen=True)
class ConfigKind:
    """What a config is for.

    Attributes:
      noun: as a message says it.
      command: that reads it.
      mark: the key that no other kind has.
      keys: makes its keys; imports what they are asked of.
    """

    noun: str
    command: str
    mark: str
    keys: Callable[[], dict[str, ConfigKey]]


def _in(group: str, keys: Keys) -> dict[str, ConfigKey]:
    return {f"{group}.{name}": key for name, key in keys.items()}


def _encoder_keys() -> dict[str, ConfigKey]:
    from mmv_jax.models.encoder import OF_RUN, SIZES, Encoder
    from mmv_jax.models.sizes import make_encoder

    own = keys_of(Encoder, without=(*FLAX, *OF_RUN))
    # `Encoder` needs these three, but in a config the size gives them, so they may be left out.
    by_size = {
        name: ConfigKey(None, "None: of the size.", int) for name in ("width", "depth", "heads")
    }
    named = {"size": ConfigKey(kind=str, meaning=f"One of {', '.join(SIZES)}.")}
    # The later wins: `make_encoder` knows patch and backbone, and the last two replace fields.
    return _in("encoder", keys_of(make_encoder) | own | by_size | named)


def _objective_keys() -> dict[str, ConfigKey]:
    """The weight of every loss term, and the options of each."""
    from mmv_jax.objectives.recipes import RECIPES
    from mmv_jax.objectives.table import TERMS

    # Terms of plug-ins are in the table too, each with options of its own.
    told = f"Values of an objective as it was published: {', '.join(RECIPES)}; yours come first."
    keys = {"recipe": ConfigKey("", told, str)}
    for name, term in TERMS.items():
        keys |= keys_of(term, without=("encoder",))
        keys[name] = ConfigKey(0.0, f"Weight of the loss term {name}; 0 leaves it out.")
    return _in("objective", keys)


def pretraining_keys() -> dict[str, ConfigKey]:
    """Of `mmv pretrain` and `mmv preflight`."""
    from mmv_jax.checkpoint import Checkpoints
    from mmv_jax.data.augment import Augmentation
    from mmv_jax.data.crops import crop_views
    from mmv_jax.data.row_settings import RowSettings
    from mmv_jax.data.tokens import RowShape
    from mmv_jax.models.lora import Lora
    from mmv_jax.parallel import make_mesh
    from mmv_jax.train.begin import Init
    from mmv_jax.train.guard import GuardOptions
    from mmv_jax.train.health import HealthOptions
    from mmv_jax.train.learning import Learning
    from mmv_jax.train.optimizer import make_ema, make_optimizer, make_teacher_temperature
    from mmv_jax.train.traces import ProfileOptions
    from mmv_jax.train.wandb_board import LogOptions
    from mmv_jax.train.watchdog import Limits

    # `RowSettings` has the fields of `RowShape` too; they belong to the group `rows`.
    shape = {field.name for field in fields(RowShape)}
    elsewhere = {"views", "per_step", "seed", "strength"}  # arguments from other groups
    # The fields left out follow from the groups `encoder` and `objective`.
    of_rows = keys_of(
        RowShape, without=("patch", "registers", "mask_tokens", "target_widths", "clean")
    )
    per_step = ConfigKey(kind=int, meaning="Rows of a step, over all devices.")
    accumulate = ConfigKey(
        1,
        "Parts in which the rows of a step are computed, one after the other. The numbers are the"
        " same; activations take the memory of one part, and the step one more forward pass.",
        int,
    )
    workers = ConfigKey(
        kind=int, meaning="Processes that make batches; 0 for none beside this one."
    )
    keys = {"seed": SEED, "steps": STEPS, "data.store": STORE, "data.workers": workers}
    cache = "A folder for compiled programs; empty: WORKDIR/compiled."
    keys |= {"compile_cache": ConfigKey("", cache, str)}
    phases = "Values of each phase that differ, one dict a phase; none for a run in one piece."
    keys |= {"phases": ConfigKey((), phases)}
    keys |= {"topology": ConfigKey(None, "What `mmv preflight` compiles for, such as v5p:4x4x4.")}
    keys |= _in("mesh", keys_of(make_mesh, without=("devices",)))
    keys |= _in("data", keys_of(RowSettings, without=shape | elsewhere))
    keys |= _in("rows", of_rows) | {"rows.per_step": per_step}
    keys |= {"rows.accumulate": accumulate}
    for name in ("planar", "volume"):
        # One function cuts the views of both, so both groups have the same keys.
        keys |= _in(f"crops.{name}", keys_of(crop_views))
    keys |= _in("augment", keys_of(Augmentation)) | _in("log", keys_of(LogOptions))
    keys |= _in("guard", keys_of(GuardOptions)) | _in("watchdog", keys_of(Limits))
    keys |= _in("profile", keys_of(ProfileOptions))
    keys |= _encoder_keys() | _in("init", keys_of(Init)) | _in("lora", keys_of(Lora))
    keys |= _objective_keys()
    keys |= _in("optimizer", keys_of(make_optimizer, without=("steps", "rows", "encoder")))
    keys |= _in("optimizer", keys_of(Learning, without=("encoder", "held")))
    keys |= _in("teacher_temperature", keys_of(make_teacher_temperature, without=("steps",)))
    keys |= _in("ema", keys_of(make_ema, without=("steps", "rows")))
    keys |= _in("checkpoint", keys_of(Checkpoints, without=("workdir", "config", "held")))
    return _opened(keys | _in("health", keys_of(HealthOptions)), ("data.mixture", "health.knn"))


def bac_keys() -> dict[str, ConfigKey]:
    """Of `mmv fit-bac`."""
    from mmv_jax.bac.measure import Measure
    from mmv_jax.bac.model import TileSegmenter
    from mmv_jax.bac.sample import Sampler
    from mmv_jax.bac.tiles import TileShape
    from mmv_jax.checkpoint import Checkpoints
    from mmv_jax.train.optimizer import make_optimizer

    mine_at = ConfigKey(meaning="Steps at which what the model mistakes for artery is looked for.")
    init = "A checkpoint whose weights are gone on from; empty for fresh ones."
    keys = {"seed": SEED, "steps": STEPS, "init": ConfigKey(kind=str, meaning=init)}
    keys |= {"rows": ConfigKey(kind=int, meaning="Rows of a step.")}
    share = "Share of `init`'s own weights in the last checkpoint, which is a mean of both."
    keys |= {"init_share": ConfigKey(0.0, share, float)}
    keys |= {"data.store": STORE, "data.mine_at": mine_at}
    keys |= _in("data", keys_of(Sampler, without=("store", "shape", "seed")))
    keys |= _in("tiles", keys_of(TileShape, without=("patch", "registers")))
    keys |= _encoder_keys() | _in("head", keys_of(TileSegmenter, without=(*FLAX, "encoder")))
    keys |= _in("optimizer", keys_of(make_optimizer, without=("steps", "rows", "encoder")))
    keys |= _in("checkpoint", keys_of(Checkpoints, without=("workdir", "config", "held")))
    return keys | _in("measure", keys_of(Measure))


def evaluation_keys() -> dict[str, ConfigKey]:
    """Of `mmv evaluate`, on the tasks of a store."""
    from mmv_jax.evaluate.encoders.readout import Readout
    from mmv_jax.evaluate.fewshot import few_shot
    from mmv_jax.evaluate.finetune.budget import Budget
    from mmv_jax.evaluate.finetune.native import NativeOptions
    from mmv_jax.evaluate.tasks.make import make_task
    from mmv_jax.report.about import About

    overlap = "Whether studies of patients that the encoder was trained on are left out."
    view = ConfigKey(None, "Voxels (z, y, x) at most of a whole study; None: as in training.")
    named = "Names; none for all."
    keys = {
        "seed": SEED,
        "exclude_overlap": ConfigKey(kind=bool, meaning=overlap),
        "data.store": STORE,
    }
    keys |= {"view.planar": view, "view.volume": view, "only": ConfigKey((), f"Tasks. {named}")}
    keys |= {"rows.length": ConfigKey(kind=int, meaning="Tokens of a row.")}
    keys |= {"rows.rows": ConfigKey(kind=int, meaning="Rows of a batch.")}
    kept = "Of the run: encoder, student, teacher, average 2. Of several, val chooses one."
    keys |= {"weights": ConfigKey(("encoder",), kept)}
    folds = "Folds of train and val that are measured in place of test; 0 for the store's splits."
    keys |= {"folds": ConfigKey(0, folds, int)}
    keys |= {"heads": ConfigKey((), "Segmentation heads on frozen tokens.")}
    ways = "Beside linear probes: finetune, scratch, supervised, native."
    keys |= {"protocols": ConfigKey((), ways)}
    shifts = "Kernels, dose and scanners on which probes are tested too: soft kernel, low dose, ..."
    keys |= {"shifts": ConfigKey((), shifts)}
    keys |= {"encoders": ConfigKey(meaning="Encoders of others, by name.", is_open=True)}
    keys |= _in("tasks.*", keys_of(make_task, without=("index", "name", "folds")))
    keys |= _optional("few_shot", keys_of(few_shot, without=("encoder", "x", "task")))
    keys |= _optional("fit", keys_of(Budget)) | _optional("about", keys_of(About))
    keys |= _optional("native", keys_of(NativeOptions)) | _optional("readout", keys_of(Readout))
    by_column = ("where", "test_where", "subgroups", "confounders", "mediators")
    return _opened(keys, [f"tasks.*.{name}" for name in (*by_column, "pixels", "structures")])


def pair_keys() -> dict[str, ConfigKey]:
    """Of `mmv evaluate`, on pairs of two modalities of the same patients."""
    from mmv_jax.report.about import About

    view = ConfigKey(None, "Voxels (z, y, x) at most of a whole study; None: as in training.")
    factors = "Labels by where they were planted: shared, or in the first or second alone."
    ways = "Encoders by name: `checkpoint`, one or one a seed; or such a group for each modality."
    compared = "Pairs of their names; none: the first with each of the others."
    keys = {
        "seed": SEED,
        "data.store": STORE,
        "pairs": ConfigKey(meaning="The two modalities, as the store names them."),
        "view.planar": view,
        "view.volume": view,
        "rows.length": ConfigKey(kind=int, meaning="Tokens of a row."),
        "rows.rows": ConfigKey(kind=int, meaning="Rows of a batch."),
        "factors": ConfigKey(meaning=factors, is_open=True),
        "encoders": ConfigKey(meaning=ways, is_open=True),
        "compare": ConfigKey((), compared),
    }
    return keys | _optional("about", keys_of(About))


def mammogram_keys() -> dict[str, ConfigKey]:
    """Of `mmv evaluate`, on mammograms."""
    from mmv_jax.bac.asked import RULES
    from mmv_jax.bac.evaluate import evaluate_mammograms
    from mmv_jax.report.about import About

    rule = ConfigKey(None, "Instead of the checkpoint's rule of measuring; None to keep it.")
    # The checkpoint has the rule. None leaves it as it is.
    keys = dict.fromkeys(RULES, rule)
    own = keys_of(evaluate_mammograms)
    manifest = ConfigKey(kind=str, meaning="A manifest of mammograms with their truth.")
    # Without the functions' defaults: such a config must state these.
    needed = {
        name: ConfigKey(meaning=own[name].meaning) for name in ("splits", "cohort", "horizons")
    }
    keys |= _optional("about", keys_of(About)) | {"adjust": ConfigKey(meaning="Covariates.")}
    return {"mammograms": manifest, **keys, **needed}


def cohort_keys() -> dict[str, ConfigKey]:
    """Of `mmv evaluate`, on a table of areas and outcomes."""
    from mmv_jax.outcomes.run import evaluate_cohort

    own = keys_of(evaluate_cohort)
    names = ("adjust", "thresholds", "horizons")
    table = ConfigKey(kind=str, meaning="A CSV file of women, areas and outcomes.")
    keys = {"cohort": table} | {name: ConfigKey(meaning=own[name].meaning) for name in names}
    # configs that were written before there were these lack them
    keys |= {"splines": ConfigKey("age", own["splines"].meaning, kind=str)}
    newer = {name: ConfigKey("", own[name].meaning, kind=str) for name in ("endpoint", "endpoints")}
    return keys | newer


PRETRAINING = ConfigKind("a pretraining", "mmv pretrain", "objective", pretraining_keys)
# `mmv config` takes the first kind for a file that has none of the marks.
KINDS = (
    PRETRAINING,
    ConfigKind("a fit of breast arteries", "mmv fit-bac", "tiles", bac_keys),
    ConfigKind("an evaluation", "mmv evaluate", "tasks", evaluation_keys),
    ConfigKind("an evaluation of pairs", "mmv evaluate", "pairs", pair_keys),
    ConfigKind("an evaluation of mammograms", "mmv evaluate", "mammograms", mammogram_keys),
    ConfigKind("an evaluation of a cohort", "mmv evaluate", "cohort", cohort_keys),
)


def kind_of(config: ConfigDict) -> ConfigKind | None:
    """What a config is for; None where no key tells."""
    return next((kind for kind in KINDS if kind.mark in config), None)


def load_for(command: str, path: str | Path, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config that a command asks for, with every key checked.

    Args:
      command: such as "mmv pretrain".
    Raises:
      UserError: it is another command's, or has mistakes (see `load_config`).
    """
    words = tuple(overrides)
    # What a plug-in registers can have keys of its own, so plug-ins are loaded first.
    named = load_config(path, [word for word in words if word.startswith(f"{PREFIX}plugins=")])
    kind = kind_of(named)
    own = [each for each in KINDS if each.command == command]
    # A file without any mark passes here: the check of its keys says what is missing.
    if kind is not None and kind not in own:
        raise UserError(
            f"--config {path}: this is the config of {kind.noun}, which `{kind.command}` reads."
            f" `{command}` needs one with `{own[0].mark}`."
        )
    # A second time, now that the plug-ins have said which keys there are.
    return load_config(path, words, all_keys(kind or own[0]))


def all_keys(kind: ConfigKind) -> dict[str, ConfigKey]:
    """The keys of a kind of config, with those that every kind has."""
    return kind.keys() | {"plugins": ConfigKey((), PLUGINS)}


def _opened(keys: Keys, names: Iterable[str]) -> dict[str, ConfigKey]:
    """The same keys; below these names the names are the user's own."""
    opened = {
        name: ConfigKey(keys[name].default, keys[name].meaning, is_open=True) for name in names
    }
    return {**keys, **opened}


def _optional(group: str, keys: Keys) -> dict[str, ConfigKey]:
    """The keys of a group that a config may leave out."""
    return {name: ConfigKey(None, key.meaning, key.kind) for name, key in _in(group, keys).items()}
