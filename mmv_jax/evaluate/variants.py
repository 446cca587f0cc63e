"""Variants beside linear probes: heads on frozen tokens, fine-tuning, supervised baselines.

Each result is cached when it is done.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded, StudyEncoder
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder
from mmv_jax.evaluate.encoders.patch_pixels import PatchPixels
from mmv_jax.evaluate.encoders.trained import TrainedEncoder
from mmv_jax.evaluate.finetune.budget import Budget, Spent, Tuned, in_words, tune
from mmv_jax.evaluate.finetune.end_to_end import RECIPES, EndToEnd, frame_of
from mmv_jax.evaluate.finetune.gradient_descent import Recipe
from mmv_jax.evaluate.finetune.kept import read, write
from mmv_jax.evaluate.finetune.learner import HEAD_VERSION, Fit, Learner, learn, told
from mmv_jax.evaluate.finetune.native import NativeOptions, native_learner
from mmv_jax.evaluate.finetune.native_changes import CHANGES_VERSION
from mmv_jax.evaluate.finetune.segmentation_heads import (
    HEAD_RECIPES,
    HEADS,
    HeadLearner,
    encoded_of,
)
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS, Segmented, join
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import STAND_IN, Result, over_seeds, result_of_masks, result_of_vector
from mmv_jax.evaluate.tasks.arguments import names_among
from mmv_jax.evaluate.tasks.fewer import with_fewer
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.files import read_kept
from mmv_jax.models.segmentation import DECODERS_VERSION
from mmv_jax.plugins import source_of
from mmv_jax.report.progress import say
from mmv_jax.store.read import Store

PROTOCOLS = ("linear", *RECIPES)
FINETUNED = "+finetuned"  # after the name of an encoder
# names in the results
BASELINES = ("scratch-vit", "supervised-unet", "supervised-cnn", "native-unet", "native-resnet")


@dataclass(frozen=True)
class Variants:
    """Fits by gradient descent, and the cache of their results.

    Attributes:
      heads: of `HEADS`, on the frozen tokens of every encoder.
      protocols: of `PROTOCOLS`. The linear probe is always measured, as the reference of all
        others.
      budget: of every network alike.
      native: the networks of the protocol "native".
      seed: the first one.
      folder: one file a fit, named by a digest of all its inputs.
    """

    heads: tuple[str, ...]
    protocols: tuple[str, ...]
    budget: Budget
    seed: int
    folder: Path
    native: NativeOptions = NativeOptions()

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        folder: Path,
        *,
        tasks: Sequence[Task],
        geometry: Geometry,
        trained: TrainedEncoder,
    ) -> "Variants":
        """Read `config.heads`, `.protocols`, `.fit` and `.native`, each of which may be absent.

        Raises:
          UserError: an unknown name; heads without a segmentation; a task that no end-to-end model
            can learn.
        """
        heads, protocols = (
            _names(config, name, known)
            for name, known in (("heads", HEADS), ("protocols", PROTOCOLS))
        )
        budget = Budget.of(config.fit.to_dict() if "fit" in config else {})
        native = NativeOptions.of(config.native.to_dict() if "native" in config else {})
        if heads and not any(KINDS[task.kind].is_mask for task in tasks):
            raise UserError(
                "config.heads asks for segmentation heads, but no task is a segmentation. Add one,"
                " or leave `heads` out."
            )
        if set(protocols) & set(RECIPES):
            for task in tasks:
                if not KINDS[task.kind].end_to_end:
                    raise UserError(
                        f"config.protocols: no network learns the task {task.name!r}, a"
                        f" {task.kind}, end to end. Leave the task out by `only`, or ask for"
                        " protocols ('linear',) alone."
                    )
                # Also for its errors: planar and volumetric studies have no common grid.
                frame_of(trained, geometry, task)
        return cls(heads, protocols, budget, seed=config.seed, folder=folder, native=native)

    def measure_heads(
        self,
        name: str,
        encoder: StudyEncoder,
        *,
        store: Store,
        task: Task,
        parts: Mapping[str, Sequence[Scene]],
    ) -> list[tuple[Result, Segmented]]:
        """Results of every head on the frozen tokens of an encoder, as `name+head`.

        Args:
          parts: the scenes of each structure, in the order of `task.parts()`.
        """
        found = []
        # Encoded when the first fit needs it, and not at all where every fit is kept.
        encode = lru_cache(lambda: _encoded(encoder, store, task, next(iter(parts.values()))))
        # lesions are located by the linear probe alone
        for head in () if KINDS[task.kind].locates else self.heads:
            by_part: dict[str, Tuned] = {}
            for (key, part), scenes in zip(task.parts().items(), parts.values()):
                width = f"{scenes[0].tokens.shape[1]} wide, standardised"
                by_part[key] = self._tuned(
                    HeadLearner(head, scenes, encode, task.split),
                    HEAD_RECIPES[head],
                    name=f"{name}+{head}",
                    task=part,
                    store=store,
                    why=(encoder.fingerprint, width, head),
                )
            found.append(_masks_of(f"{name}+{head}", by_part, task))
        return found

    def measure_protocols(
        self,
        trained: TrainedEncoder,
        others: Mapping[str, StudyEncoder],
        *,
        store: Store,
        geometry: Geometry,
        tasks: Sequence[Task],
    ) -> list[Result]:
        """Results of the end-to-end fits.

        A protocol has its name in `name_of`; a fine-tuned Hugging Face encoder is `name+finetuned`.
        """
        found = []
        where: dict[str, Any] = {"store": store, "geometry": geometry}
        # Test is whole, so that fits are compared with probes of all training studies.
        for task in (with_fewer(task, self.budget.studies, self.seed) for task in tasks):
            for protocol in (p for p in self.protocols if p in RECIPES):
                # A key of the cache: from scratch it depends on network
                # and view, fine-tuned also on the weights.
                weights = repr((trained.encoder, trained.whole))
                if protocol == "finetune":
                    weights = trained.fingerprint
                make: Callable[..., Learner] = partial(EndToEnd, protocol, trained, **where)
                if protocol == "native":
                    # It sees studies as they are, whatever the encoder's view.
                    weights = f"{self.native!r}, changes {CHANGES_VERSION}, {task.mirror}"
                    make = partial(native_learner, self.native, **where)
                own, why = name_of(protocol, task), (weights, protocol)
                found.append(self._end_to_end(own, task, store, make=make, why=why))
                if protocol != "finetune":
                    continue
                for name, other in others.items():
                    if isinstance(other, HuggingFaceEncoder | TrainedEncoder):
                        make = _finetuning_of(other, **where)
                        why = (other.fingerprint, protocol)
                        found.append(
                            self._end_to_end(name + FINETUNED, task, store, make=make, why=why)
                        )
        return found

    def _end_to_end(
        self, name: str, task: Task, store: Store, *, make: Callable[..., Learner], why: tuple
    ) -> Result:
        """Args: make: called with the task, or with that of each of its structures."""
        protocol = why[-1]
        tuned = {
            key: self._tuned(
                make(task=part), RECIPES[protocol], name=name, task=part, store=store, why=why
            )
            for key, part in task.parts().items()
        }
        if KINDS[task.kind].is_mask:
            return _masks_of(name, tuned, task)[0]
        (only,) = tuned.values()
        results = [
            result_of_vector(name, np.asarray(fit.answer), told(fit), task) for fit in only.fits
        ]
        spent = Spent.of([only], _learnt_from(task))
        return over_seeds(results, [fit.score for fit in only.fits], spent)

    def _tuned(
        self, learner: Learner, usual: Recipe, *, name: str, task: Task, store: Store, why: tuple
    ) -> Tuned:
        """The setting that val chose and its fits; each fit is kept when it is done."""
        # Hashed once for all fits: images are read for it.
        inputs = _digest(task, store, why)

        def fit_once(recipe: Recipe, seed: int, tested: bool) -> Fit:
            # `tested` is part of the name: a trial has no answer for test.
            digest = inputs.copy()
            digest.update(repr((recipe, seed, tested)).encode())
            path = self.folder / f"{digest.hexdigest()[:24]}.npz"
            if (kept := read_kept(path, read)) is not None:
                return kept
            say(f"{task.name}: {name} is fitted, {in_words(recipe)}, seed {seed}")
            self.folder.mkdir(parents=True, exist_ok=True)
            fit = learn(learner, recipe, seed, tested=tested)
            store.check_unchanged()
            write(path, fit)
            # A new fit is read back too, so that a resumed evaluation has the same arrays.
            return read(path)

        # Heads and fresh networks have one rate for all layers.
        layered = "finetune" in why
        return tune(fit_once, usual, self.budget, self.seed, layered=layered)


def _digest(task: Task, store: Store, why: tuple) -> Any:
    """A digest of all that a fit depends on beside recipe and seed: a change makes a new file."""
    known = (why, task.kind, task.mask, task.values, task.flags, task.split.tolist())
    digest = hashlib.sha256(repr(known).encode())
    # Labels and images may change under the same names, so their content counts.
    digest.update(task.labels.tobytes() + store.digest(task.studies).encode())
    # The code of a plug-in may change under the kind's name: its loss, its score, its answer.
    digest.update(source_of(KINDS[task.kind]).encode())
    if KINDS[task.kind].is_mask:
        digest.update(
            f"decoders {DECODERS_VERSION}, thresholds {THRESHOLDS.tolist()}, native".encode()
        )
    elif "finetune" in why:
        digest.update(f"head {HEAD_VERSION}".encode())
    return digest


def _finetuning_of(
    other: HuggingFaceEncoder | TrainedEncoder, **where: Any
) -> Callable[..., Learner]:
    if isinstance(other, TrainedEncoder):
        return partial(EndToEnd, "finetune", other, **where)
    # This import needs PyTorch, which loading the encoder needed too.
    from mmv_jax.evaluate.finetune.huggingface import TowerLearner

    return partial(TowerLearner, other, **where)


def _masks_of(name: str, by_part: Mapping[str, Tuned], task: Task) -> tuple[Result, Segmented]:
    """The result over all seeds, and the masks of the first one, for the pictures."""
    parts = list(by_part.values())
    joined = [
        # every structure, fitted with the same seed
        join(dict(zip(by_part, (fit.answer for fit in fits))))
        for fits in zip(*(part.fits for part in parts))
    ]
    # Structures have the same score, so their mean orders the seeds.
    on_val = np.mean([[fit.score for fit in part.fits] for part in parts], axis=0).tolist()
    results = [result_of_masks(name, masks, task) for masks in joined]
    return over_seeds(results, on_val, Spent.of(parts, _learnt_from(task))), joined[0]


def _learnt_from(task: Task) -> int:
    return int((task.split == "train").sum())


def name_of(protocol: str, task: Task) -> str:
    """The name of a protocol among the encoders of metrics.json."""
    is_mask = KINDS[task.kind].is_mask
    return {
        "finetune": f"trained{FINETUNED}",
        "scratch": "scratch-vit",
        "supervised": "supervised-unet" if is_mask else "supervised-cnn",
        "native": "native-unet" if is_mask else "native-resnet",
    }[protocol]


def pairs_of(results: Sequence[Result]) -> list[tuple[str, str]]:
    """The pairs of encoders that are compared, without stand-ins.

    Heads are compared with the same encoder's linear head, fine-tuned encoders with the frozen
    ones. The trained encoder, fine-tuned, is compared with the other fine-tuned ones. Fine-tuned
    and frozen it is compared with supervised networks.
    """
    names = [name for name in dict.fromkeys(r.encoder for r in results) if STAND_IN not in name]
    # HEADS[0] is the linear head, with which the others are compared.
    heads = [(f"{name}+{head}", f"{name}+linear") for name in names for head in HEADS[1:]]
    tuned = [name for name in names if name.endswith(FINETUNED)]
    frozen = [(name, name.removesuffix(FINETUNED)) for name in tuned]
    first = f"trained{FINETUNED}"
    rivals = [
        (first, other) for other in ("trained+global-local", *BASELINES, *tuned) if other != first
    ]
    return [
        pair
        for pair in [*heads, *frozen, *rivals, *(("trained", other) for other in BASELINES)]
        if set(pair) <= set(names)
    ]


def _names(config: ConfigDict, name: str, known: Sequence[str]) -> tuple[str, ...]:
    return names_among(config.get(name, ()), f"config.{name}", known)


def _encoded(
    encoder: StudyEncoder, store: Store, task: Task, scenes: Sequence[Scene]
) -> list[Encoded]:
    """The encodings of a task's studies in its order; for pixels, the scenes' components."""
    if isinstance(encoder, PatchPixels):
        return list(encoded_of(scenes))
    # Encoders may yield studies in any order.
    by_study = {e.study: e for e in encoder.encode(store, task.studies)}
    return [by_study[study] for study in task.studies.tolist()]
