"""Variants beside linear probes: heads on frozen tokens, fine-tuning, supervised baselines.

Each result is cached when it is done.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from mmv_jax.evaluate.finetune.end_to_end import RECIPES, frame_of, learn
from mmv_jax.evaluate.finetune.gradient_descent import Recipe
from mmv_jax.evaluate.finetune.kept import read, write
from mmv_jax.evaluate.finetune.segmentation_heads import HEADS, RECIPE, encoded_of, fit_head
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS, Segmented, join
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import STAND_IN, Result, result_of_masks, result_of_vector
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.models.segmentation import DECODERS_VERSION
from mmv_jax.report.progress import say
from mmv_jax.store.read import Store

PROTOCOLS = ("linear", *RECIPES)
FINETUNED = "+finetuned"  # after the name of an encoder
BASELINES = ("scratch-vit", "supervised-unet", "supervised-cnn")  # names in the results


@dataclass(frozen=True)
class Variants:
    """Fits by gradient descent, and the cache of their results.

    Attributes:
      heads: of `HEADS`, on the frozen tokens of every encoder.
      protocols: of `PROTOCOLS`. The linear probe is always measured, as the reference of all
        others.
      options: changes to every recipe: `epochs`, `patience`, `batch`.
      folder: one file a result, named by a digest of all its inputs.
    """

    heads: tuple[str, ...]
    protocols: tuple[str, ...]
    options: Mapping[str, Any]
    seed: int
    folder: Path

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
        """Read `config.heads`, `config.protocols` and `config.fit`, each of which may be absent.

        Raises:
          UserError: an unknown name; heads without a segmentation; a task that no end-to-end model
            can learn.
        """
        heads, protocols = (
            _names(config, name, known)
            for name, known in (("heads", HEADS), ("protocols", PROTOCOLS))
        )
        options = config.fit.to_dict() if "fit" in config else {}
        # Called only for its errors: a wrong option is refused before anything is measured.
        RECIPE.changed(options)
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
        return cls(heads, protocols, options, seed=config.seed, folder=folder)

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
        encoded: list[Encoded] = []
        # lesions are located by the linear probe alone
        for head in () if KINDS[task.kind].locates else self.heads:
            recipe = RECIPE.changed(self.options)

            def fit(scenes: Sequence[Scene], head: str, recipe: Recipe) -> Segmented:
                if not encoded:  # once for all heads, and not at all where every result is kept
                    encoded.extend(_encoded(encoder, store, task, scenes))
                return fit_head(
                    head, scenes, encoded, split=task.split, recipe=recipe, seed=self.seed
                )

            by_part: dict[str, Segmented] = {}
            for (key, part), scenes in zip(task.parts().items(), parts.values()):
                width = f"{scenes[0].tokens.shape[1]} wide, standardised"
                why = (encoder.fingerprint, width, head, recipe)
                # partial binds this iteration's values; a closure would look them up when it runs.
                own = partial(fit, scenes, head, recipe)
                masks = self._kept(f"{name}+{head}", part, store, why=why, fit=own)
                assert isinstance(masks, Segmented)
                by_part[key] = masks
            masks = join(by_part)
            found.append((result_of_masks(f"{name}+{head}", masks, task), masks))
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
        for task in tasks:
            for protocol in (p for p in self.protocols if p in RECIPES):
                recipe = RECIPES[protocol].changed(self.options)
                # A key of the cache: from scratch it depends on network
                # and view, fine-tuned also on the weights.
                weights = repr((trained.encoder, trained.whole))
                if protocol == "finetune":
                    weights = trained.fingerprint
                own: dict[str, Any] = {
                    "store": store,
                    "geometry": geometry,
                    "recipe": recipe,
                    "seed": self.seed,
                }
                fit = partial(learn, protocol, trained, **own)
                why = (weights, protocol, recipe)
                found.append(
                    self._end_to_end(name_of(protocol, task), task, store, why=why, fit=fit)
                )
                if protocol != "finetune":
                    continue
                for name, other in others.items():
                    if isinstance(other, HuggingFaceEncoder | TrainedEncoder):
                        found.append(self._tuned(name, other, task, **own))
        return found

    def _tuned(
        self, name: str, encoder: HuggingFaceEncoder | TrainedEncoder, task: Task, **own: Any
    ) -> Result:
        if isinstance(encoder, TrainedEncoder):
            fit: Callable[..., Any] = partial(learn, "finetune", encoder, **own)
        else:
            # This import needs PyTorch, which loading the encoder needed too.
            from mmv_jax.evaluate.finetune.huggingface import learn_huggingface

            fit = partial(learn_huggingface, encoder, **own)
        why = (encoder.fingerprint, "finetune", own["recipe"])
        return self._end_to_end(name + FINETUNED, task, own["store"], why=why, fit=fit)

    def _end_to_end(
        self, name: str, task: Task, store: Store, *, why: tuple, fit: Callable[..., Any]
    ) -> Result:
        """Args: fit: called with the task, or with that of each of its structures."""
        masks: dict[str, Segmented] = {}
        for key, part in task.parts().items():
            answer = self._kept(name, part, store, why=why, fit=partial(fit, task=part))
            if not isinstance(answer, Segmented):
                return result_of_vector(name, *answer, task)
            masks[key] = answer
        return result_of_masks(name, join(masks), task)

    def _kept(
        self, name: str, task: Task, store: Store, *, why: tuple, fit: Callable[[], Any]
    ) -> Segmented | tuple[np.ndarray, str]:
        """The cached result of a fit with the same inputs, or of a new one."""
        # The name is a digest of all inputs of the fit, so a change makes a new file.
        digest = hashlib.sha256(
            repr(
                (why, self.seed, task.kind, task.mask, task.values, task.flags, task.split.tolist())
            ).encode()
        )
        # Labels and images may change under the same names, so their content counts.
        digest.update(task.labels.tobytes() + store.digest(task.studies).encode())
        if KINDS[task.kind].is_mask:
            digest.update(
                f"decoders {DECODERS_VERSION}, thresholds {THRESHOLDS.tolist()}, native".encode()
            )
        path = self.folder / f"{digest.hexdigest()[:24]}.npz"
        if not path.exists():
            say(f"{task.name}: {name} is fitted")
            self.folder.mkdir(parents=True, exist_ok=True)
            write(path, fit())
        # A new fit is read back too, so that a resumed evaluation has the same arrays.
        return read(path)


def name_of(protocol: str, task: Task) -> str:
    """The name of a protocol among the encoders of metrics.json."""
    network = "supervised-unet" if KINDS[task.kind].is_mask else "supervised-cnn"
    return {"finetune": f"trained{FINETUNED}", "scratch": "scratch-vit", "supervised": network}[
        protocol
    ]


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
    asked = config.get(name, ())
    if isinstance(asked, str) or not all(isinstance(word, str) for word in asked):
        raise UserError(
            f"config.{name} is {asked!r}, but must be a list of names:"
            f" ({', '.join(map(repr, known))})."
        )
    unknown = [word for word in asked if word not in known]
    if unknown:
        raise UserError(
            f"config.{name}: {unknown[0]!r} is not known. There are: {', '.join(known)}."
        )
    return tuple(dict.fromkeys(asked))


def _encoded(
    encoder: StudyEncoder, store: Store, task: Task, scenes: Sequence[Scene]
) -> list[Encoded]:
    """The encodings of a task's studies in its order; for pixels, the scenes' components."""
    if isinstance(encoder, PatchPixels):
        return list(encoded_of(scenes))
    # Encoders may yield studies in any order.
    by_study = {e.study: e for e in encoder.encode(store, task.studies)}
    return [by_study[study] for study in task.studies.tolist()]
