"""The ways to train that an evaluation of pairs compares: their encoders, and their features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import Features, encode_studies
from mmv_jax.evaluate.encoders.table import load_encoder
from mmv_jax.evaluate.encoders.trained import TrainedEncoder, with_fresh_weights
from mmv_jax.evaluate.pairs.compared import pairs_to_compare
from mmv_jax.evaluate.pairs.find import Pairs
from mmv_jax.evaluate.pairs.measure import ERASED, RAW, PairFigures, tell_modality
from mmv_jax.evaluate.pairs.spaces import PairFeatures
from mmv_jax.evaluate.pixel_baseline import pixel_vectors, principal
from mmv_jax.evaluate.tasks.task import SPLITS
from mmv_jax.metrics.erasure import fit_erasure
from mmv_jax.report.progress import progress
from mmv_jax.store.read import Store

TRAINED, RANDOM, PIXELS = "trained", "random", "pixels"


@dataclass(frozen=True)
class Way:
    """One way to train, by its name in the results.

    Attributes:
      fits: of each seed the encoders of the first and of the second modality; they are the same
        object where one encoder reads both.
    """

    name: str
    fits: Sequence[tuple[StudyEncoder, StudyEncoder]]


def load_ways(config: ConfigDict, checkpoint: Path | None, names: tuple[str, str]) -> list[Way]:
    """The ways of `config.encoders`, before them that of `--checkpoint`, and last random weights.

    A group has `checkpoint`, a run or one for each seed; or a group for each modality, of twins.

    Raises:
      UserError: no encoder is named, a group is not one of these, or twins differ in their seeds.
    """
    whole = {"rows": config.rows.to_dict(), "view": config.view.to_dict()}
    groups = config.encoders.to_dict()
    # First of all, so that the others are compared with it.
    if checkpoint is not None:
        groups = {TRAINED: {"checkpoint": str(checkpoint)}} | groups
    if not groups:
        raise UserError("--checkpoint is missing, and config.encoders is empty: name an encoder.")
    ways = []
    for name, group in groups.items():
        if name in (RANDOM, PIXELS) or "," in name:
            raise UserError(f"config.encoders.{name}: this name has a meaning in the results.")
        if set(group) == set(names):
            sides = [_seeds(f"{name}.{own}", group[own], whole) for own in names]
            if len(sides[0]) != len(sides[1]):
                raise UserError(
                    f"config.encoders.{name} has {len(sides[0])} encoders of {names[0]} and"
                    f" {len(sides[1])} of {names[1]}: give one of each for every seed."
                )
            ways.append(Way(name, list(zip(*sides))))
        else:
            ways.append(Way(name, [(e, e) for e in _seeds(name, group, whole)]))
    asked = config.get("compare", ())
    # Checked before anything is encoded.
    pairs_to_compare(asked, [*(way.name for way in ways), RANDOM, PIXELS])
    # A config sorts its groups: the first of the comparisons leads.
    lead = asked[0][0] if asked else ways[0].name
    ways.sort(key=lambda way: way.name != lead)
    # As many fresh encoders as seeds, so that their spread is seen too.
    first = ways[0].fits[0][0]
    if isinstance(first, TrainedEncoder):
        fresh = [with_fresh_weights(first, config.seed + n) for n in range(len(ways[0].fits))]
        ways.append(Way(RANDOM, [(e, e) for e in fresh]))
    return ways


def _seeds(name: str, group: Mapping[str, Any], whole: Mapping[str, Any]) -> list[StudyEncoder]:
    """The encoders of a group, one for each seed."""
    found = group.get("checkpoint")
    if not isinstance(found, (list, tuple)):
        return [load_encoder(name, {**group, **whole} if found else group)]
    return [load_encoder(name, {**group, **whole, "checkpoint": one}) for one in found]


def features_of(
    fit: tuple[StudyEncoder, StudyEncoder], store: Store, pairs: Pairs, folder: Path
) -> PairFeatures:
    """CLS and patch mean of every study of the pairs."""
    first, second = fit
    one_space = first is second
    # One call for both modalities where one encoder reads them: fewer files, fuller rows.
    asked = [np.unique(pairs.studies)] if one_space else list(pairs.studies)
    sides = [_encoded(encoder, store, studies, folder) for encoder, studies in zip(fit, asked)]
    return PairFeatures(
        sides[0].pooled("both", pairs.studies[0]),
        sides[-1].pooled("both", pairs.studies[1]),
        one_space,
    )


def _encoded(encoder: StudyEncoder, store: Store, studies: np.ndarray, folder: Path) -> Features:
    """Global vectors of studies, without the tokens of any."""
    return encode_studies(
        encoder,
        store,
        studies=studies,
        with_tokens=studies[:0],
        folder=folder,
        report=progress("encoded"),
    )


def pixel_features(store: Store, pairs: Pairs) -> PairFeatures:
    """The floor of pixels: principal components of each modality at low resolution."""
    geometry, fitted_on = Geometry.of(store.index), pairs.split != "test"
    first, second = (
        principal(pixel_vectors(store, geometry, studies), fitted_on) for studies in pairs.studies
    )
    return PairFeatures(first, second, one_space=False)


def studies_apart(
    encoder: StudyEncoder, store: Store, names: tuple[str, str], folder: Path
) -> PairFigures:
    """How well the modality can be told, of all studies of two modalities, paired or not."""
    index = store.index
    modality, split = index["modality"].to_numpy(str), index["split"].to_numpy(str)
    studies = np.flatnonzero(np.isin(modality, names) & np.isin(split, SPLITS))
    found = _encoded(encoder, store, studies, folder)
    x, second = found.pooled("both", studies), modality[studies] == names[1]
    test, patients = split[studies] == "test", index["patient"].to_numpy(str)[studies]
    # Fitted without test studies, as a probe is.
    erase = fit_erasure(x[~test], second[~test])
    parts: PairFigures = {}
    for space, own in ((RAW, x), (ERASED, erase(x))):
        parts |= tell_modality(own, second.astype(np.float64), test, patients=patients, space=space)
    return parts
