"""The encoders from elsewhere that a config asks for, by their names in the results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from ml_collections import ConfigDict

from mmv_jax.checkpoint import restore_items
from mmv_jax.convert.card import NONE, UNKNOWN, read_card, same_set
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.table import load_encoder
from mmv_jax.evaluate.measure import FLOORS, STAND_IN
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.evaluate.variants import BASELINES
from mmv_jax.released import read_weights, weights_file
from mmv_jax.store.read import Store

# Names of results that are not those of encoders from elsewhere.
RESERVED = {"trained", *FLOORS, *BASELINES}


def load_encoders(config: ConfigDict) -> dict[str, StudyEncoder]:
    """The encoders of `config.encoders`, by their names in the results."""
    whole = {"rows": config.rows.to_dict(), "view": config.view.to_dict()}
    return {
        # Our own checkpoints take rows and view of the evaluation, so all see the same images.
        marked(name, group): load_encoder(name, group | whole if "checkpoint" in group else group)
        for name, group in config.encoders.to_dict().items()
    }


def overlap_of(config: ConfigDict, carried: Mapping[str, Any], store: Store) -> Overlap:
    """The pretraining patients of the checkpoint, of all our own checkpoints among the encoders,
    and of the data sets that converted encoders declare.

    Args:
      carried: the config of the checkpoint.
    """
    own = [g["checkpoint"] for g in config.encoders.to_dict().values() if "checkpoint" in g]
    overlap = Overlap.in_store(carried, store)
    for checkpoint in own:
        # Weights in a file, such as released ones, name no patients.
        file = weights_file(checkpoint)
        theirs = read_weights(file)[1] if file else restore_items(checkpoint, ())[1]
        # A test patient must be new to each of our encoders, not only to the evaluated one.
        overlap = overlap.joined(Overlap.in_store(theirs, store))
    for name, group in config.encoders.to_dict().items():
        if "folder" in group and not group.get("stand_in"):
            overlap = overlap.joined(declared_overlap(name, Path(group["folder"]), store.index))
    return overlap


def declared_overlap(name: str, folder: Path, index: pd.DataFrame) -> Overlap:
    """The overlap by what a folder declares. It is uncounted where it declares nothing, where its
    training data are not known, and where no column of the store names the data set of a study.
    """
    card = read_card(folder)
    trained_on = [UNKNOWN] if card is None else card["trained_on"]
    counted = trained_on == [NONE] or (trained_on != [UNKNOWN] and "label_source" in index)
    return Overlap(declared_patients(folder, index), uncounted=() if counted else (name,))


def declared_patients(folder: Path, index: pd.DataFrame) -> frozenset[str]:
    """The store's patients with a study of a data set that a folder declares as its training.

    No patient where it declares nothing, or says that it does not know.

    Args:
      index: of the store; its column `label_source` names the data set of a study.
    """
    card = read_card(folder)
    if card is None or "label_source" not in index:
        return frozenset()
    sources = index["label_source"].dropna().astype(str)
    seen = [s for s in sources.unique() if any(same_set(d, s) for d in card["trained_on"])]
    return frozenset(index["patient"][sources.index[sources.isin(seen)]])


def marked(name: str, group: Mapping[str, Any]) -> str:
    """The name of an encoder from elsewhere in the results.

    Without its real weights it is named a stand-in everywhere and is compared with nothing.

    Raises:
      UserError: the group does not say where the encoder is, or whether it has its real weights; or
        the name is reserved for another result.
    """
    own = "checkpoint" in group
    if not own and ("stand_in" not in group or not {"folder", "package"} & set(group)):
        raise UserError(
            f"config.encoders.{name} needs `checkpoint` (a workdir of your own, or a step of it)."
            " Or set `folder` or `package`, with `stand_in`: False if these are its real weights."
        )
    if name in RESERVED or set(name) & set("/+()"):
        raise UserError(
            f"config.encoders.{name}: this name, or its /, + or brackets, has a meaning in the"
            " results. Choose another name, such as 'rad-dino'."
        )
    return name + STAND_IN if group.get("stand_in") else name
