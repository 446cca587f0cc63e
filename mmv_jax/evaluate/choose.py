"""The readout that val chooses for each encoder and task, floors included.

Axes: N studies, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from jaxtyping import Float

from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import Features
from mmv_jax.evaluate.encoders.readout import (
    ATTENTIVE,
    LOCAL,
    Readout,
    pool,
    summarise,
    words_of,
)
from mmv_jax.evaluate.finetune.attentive import attentive_vectors
from mmv_jax.evaluate.kinds.checked import probe
from mmv_jax.evaluate.kinds.features import Probed
from mmv_jax.evaluate.kinds.mask_scores import Segmented, join
from mmv_jax.evaluate.kinds.segmentation import choose_probe, predict_masks
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import Result, result_of_masks, result_of_vector
from mmv_jax.evaluate.pixel_baseline import principal
from mmv_jax.evaluate.tasks.scenes import Scene, local_means
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.store.read import Store


@dataclass(frozen=True)
class Chosen:
    """The chosen readout of a task.

    Attributes:
      name: of the readout.
      x: its vectors of the task's studies.
    """

    name: str
    x: Float[np.ndarray, "N D"]
    probed: Probed


@dataclass(frozen=True)
class Candidate:
    """A readout to try.

    Attributes:
      name: of the readout.
      learns: whether it is fitted to a task, so that each task has vectors of its own.
      vectors: from the number of a task to the vectors of its studies.
    """

    name: str
    learns: bool
    vectors: Callable[[int], Float[np.ndarray, "N D"]]


@dataclass(frozen=True)
class Chooser:
    """Tries readouts on tasks with the same studies, and keeps the best one on val.

    Attributes:
      seed: of the attentive pooling.
    """

    readout: Readout
    store: Store
    geometry: Geometry
    seed: int

    def vectors(
        self, name: str, encoder: StudyEncoder, tasks: Sequence[Task], features: Features
    ) -> tuple[list[Result], dict[str, Float[np.ndarray, "N D"]]]:
        """The results of the chosen readouts, and the vectors of each task by its name."""
        found = choose(tasks, self._tried(encoder, tasks, features))
        return _results(name, tasks, found), {t.name: c.x for t, c in zip(tasks, found)}

    def pixels(
        self,
        patches: StudyEncoder,
        tasks: Sequence[Task],
        *,
        whole: Float[np.ndarray, "N C"],
        features: Features,
    ) -> tuple[list[Result], dict[str, Float[np.ndarray, "N D"]]]:
        """The results and vectors of the pixel floor, like `vectors`.

        Components of whole studies are one more readout, and the tokens are components of patches.

        Args:
          features: of `patches`, with the tokens of the tasks' studies.
        """

        def tried() -> Iterator[Candidate]:
            # First, so that the usual floor wins a tie.
            yield Candidate("components of the study", False, lambda index: whole)
            own = self._components(patches, tasks[0], features)
            if own is not None:
                yield from self._tried(patches, tasks, own)

        found = choose(tasks, tried())
        return _results("pixels", tasks, found), {t.name: c.x for t, c in zip(tasks, found)}

    def masks(
        self, name: str, parts: Mapping[str, Sequence[Scene]], task: Task, features: Features
    ) -> tuple[Result, Segmented]:
        """The linear probe of patch tokens, from the last block or from the last blocks joined.

        Each structure is probed by itself.
        """
        found = join({key: self._best(own, task, features) for key, own in parts.items()})
        return result_of_masks(name, found, task), found

    def _best(self, scenes: Sequence[Scene], task: Task, features: Features) -> Segmented:
        tried = []
        levels = 1 if features.summaries is None else features.summaries.shape[1]
        # An encoder with few blocks may give the same depth twice; it is tried once.
        for blocks in dict.fromkeys(min(blocks, levels) for blocks in self.readout.blocks):
            own = self._deeper(scenes, task, features, blocks)
            tried.append((choose_probe(own, task.split), blocks))
        # The first of equals wins. Test masks are cut and scored for this one alone: their surfaces
        # on the studies' own voxels take longer than the fits.
        probe, blocks = max(tried, key=lambda pair: pair[0].held_out)
        own = self._deeper(scenes, task, features, blocks)
        found = predict_masks(probe, own, task.split, KINDS[task.kind].locates)
        return replace(found, choice=f"{words_of(blocks, ('tokens',))}; {found.choice}")

    def _deeper(
        self, scenes: Sequence[Scene], task: Task, features: Features, blocks: int
    ) -> list[Scene]:
        if blocks == 1:
            return list(scenes)
        # `joined` ends with the last block, so the last columns are those of the last blocks.
        width = scenes[0].tokens.shape[1] * blocks
        return [
            replace(scene, tokens=features.joined[study][:, -width:])
            for scene, study in zip(scenes, task.studies.tolist())
        ]

    def _tried(
        self, encoder: StudyEncoder, tasks: Sequence[Task], features: Features
    ) -> Iterator[Candidate]:
        summaries = features.summaries
        assert summaries is not None
        levels, width = summaries.shape[1], summaries.shape[3]
        # Rows of the task's studies: features are sorted by study.
        at = np.searchsorted(features.studies, tasks[0].studies)

        # Readouts share parts, such as CLS: each part is computed once.
        @cache
        def part_of(blocks: int, part: str, index: int) -> np.ndarray:
            if part not in (LOCAL, ATTENTIVE):
                return pool(summaries[at], blocks, (part,))
            task = tasks[index]
            chosen = task.studies.tolist()
            tokens = {study: features.joined[study][:, -blocks * width :] for study in chosen}
            if part == ATTENTIVE:
                return attentive_vectors([tokens[study] for study in chosen], task, self.seed)
            # `local_means` pools `tokens`, so the joined blocks take their place.
            own = replace(features, tokens=tokens)
            return local_means(encoder, self.store, geometry=self.geometry, task=task, features=own)

        def vectors(blocks: int, parts: Sequence[str], index: int) -> np.ndarray:
            # Only parts that learn read labels; the others are one for tasks with the same studies.
            found = [part_of(blocks, p, index if p == ATTENTIVE else 0) for p in parts]
            return np.concatenate(found, axis=1)

        for blocks, parts in self.readout.candidates(levels, bool(tasks[0].local)):
            words = words_of(blocks, parts)
            # partial binds blocks and parts now; a lambda would see the loop's last values.
            yield Candidate(words, ATTENTIVE in parts, partial(vectors, blocks, parts))

    def _components(self, patches: StudyEncoder, task: Task, features: Features) -> Features | None:
        """Principal components of patches as tokens.

        None where a task has planar and volumetric patches, whose numbers of voxels differ.
        """
        tokens = [features.tokens[study] for study in task.studies.tolist()]
        if len({own.shape[1] for own in tokens}) > 1:
            return None
        lengths = np.array([len(own) for own in tokens])
        # A flag a study becomes one a patch. Test patches are projected,
        # but no axis is fitted to them.
        fitted_on = np.repeat(task.split != "test", lengths)
        # Cumulative lengths without the last one are the borders between studies.
        low = np.split(
            principal(np.concatenate(tokens), fitted_on), np.cumsum(lengths)[:-1].tolist()
        )
        crops, kept = patches.views(self.geometry[task.studies])
        summaries = [
            summarise(
                # Pixels have no CLS, so the mean takes its place. [None]: one block.
                np.concatenate([own.mean(axis=0, keepdims=True), own])[None],
                k[tuple(map(slice, grid))],
            )
            for own, k, grid in zip(low, kept, crops.tokens)
        ]
        # s[0, 1]: the only block, and the place of "mean" in a summary.
        mean, by_study = (
            np.stack([s[0, 1] for s in summaries]),
            dict(zip(task.studies.tolist(), low)),
        )
        found = Features(task.studies, mean, mean, by_study)
        return replace(found, summaries=np.stack(summaries), joined=by_study)


def choose(tasks: Sequence[Task], candidates: Iterable[Candidate]) -> list[Chosen]:
    """The candidate whose probe is best on val, for each task; the first one wins a tie.

    Raises:
      UserError: probes of this kind of task have no score on val, or there is no candidate.
    """
    best: list[Chosen | None] = [None] * len(tasks)
    for candidate in candidates:
        # Without learning, all tasks have the same vectors, so one solve probes them together.
        shared = None if candidate.learns else candidate.vectors(0)
        found = None if shared is None else probe(shared, tasks)
        for index, task in enumerate(tasks):
            x = candidate.vectors(index) if shared is None else shared
            probed = probe(x, [task])[0] if found is None else found[index]
            if np.isnan(probed.held_out):
                raise UserError(
                    f"config.readout: probes of the kind {task.kind!r} have no score on val"
                    " (Probed.held_out). Leave `readout` out, or return the score in `probe`."
                )
            last = best[index]
            if last is None or probed.held_out > last.probed.held_out:
                best[index] = Chosen(candidate.name, x, probed)
    for task, chosen in zip(tasks, best):
        if chosen is None:
            raise UserError(
                f"config.readout.poolings: none of them fits the task {task.name!r}. 'local' reads"
                f" the region that config.tasks.{task.name}.local names; add another pooling."
            )
    return [chosen for chosen in best if chosen is not None]


def _results(name: str, tasks: Sequence[Task], found: Sequence[Chosen]) -> list[Result]:
    results = []
    for task, chosen in zip(tasks, found):
        words = f"{chosen.name}; strength {chosen.probed.strength:g}"
        probed = chosen.probed
        result = result_of_vector(name, probed.predicted, words, task, on_val=probed.on_val)
        more = result.kind.more_metrics(task, chosen.x)
        results.append(replace(result, metrics={**result.metrics, **more}))
    return results
