"""Pipeline from a store to the batches of a run, with or without worker processes.

Axes: N lines of an epoch, V crops of a line, B rows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import grain
import jax
import numpy as np
import pandas as pd
from absl import flags

from mmv_jax.data.crops import (
    Crops,
    check_views,
    draw_crops,
    expand,
    most_tokens,
    uniforms,
)
from mmv_jax.data.masked import block_mask, mask_shares
from mmv_jax.data.mixture import groups_of, mix, studies_of
from mmv_jax.data.occupancy import CHUNK, count_tokens
from mmv_jax.data.packing import make_plan
from mmv_jax.data.resample import Boxes
from mmv_jax.data.row_settings import RowSettings
from mmv_jax.data.row_writer import RowWriter
from mmv_jax.data.teachers import digest_with, open_teachers
from mmv_jax.data.tokens import choose_visible
from mmv_jax.data.workers import begin, freed, held_signals
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.plugins import named_plugins

ENDLESS = 2**40  # steps: Grain requires a length, but the loop decides
# Second part of a seed: separates the draws for a crop, a line, a row and an epoch.
CHANGE, MIRROR, HIDE, MIX = 1, 2, 3, 4
TEXTS, NUMBERS = (
    ("study", "modality", "unit"),
    ["ndim", "grid_z", "grid_y", "grid_x", "spacing_z", "spacing_y", "spacing_x", "low", "high"],
)  # of the index
# Sent with a batch: the workers know the plan, but the process that saves does not.
BEGIN = "begin"
BUFFERED = 2  # batches that each worker makes ahead


class Rows:
    """Training rows of a store: the plan of crops, rows and steps, and the rows themselves.

    Everything is a pure function of the arguments and the step. It does not depend on hosts,
    workers or earlier requests.

    Args:
      store: anything with an `index`, `levels` and `read_box` (see `resample.Boxes`); with workers
        it must pickle.
      settings: the fields of `RowSettings`.
      begin: see `packing.make_plan`.
    Attributes:
      at: resume point after the last yielded batch; pass it as `begin`.
      patients: of the studies that are trained on, ascending.
      digest: of these studies in order. Equal arguments and digest give equal rows.
    Raises:
      UserError: views, rows, mixture and store do not match.
    """

    def __init__(self, store: Boxes, *, begin: tuple[int, int] = (0, 0), **settings: Any):
        self.settings = own = RowSettings(**settings)
        check_views(own.views, own.patch)
        self._store, self._begin = store, begin
        self.shape, self.per_step = own.shape, own.per_step
        self._expanded = {ndim: expand(listed) for ndim, listed in own.views.items()}
        key = getattr(store, "key_fingerprint", None)
        self.teachers = open_teachers(own.teachers, self.shape.target_widths, key)
        self._writer = RowWriter(
            store, self.shape, own.coordinates, own.strength, teachers=self.teachers
        )
        groups = groups_of(store.index, own.mixture_by)
        self._studies = studies_of(
            store, own.splits, views=own.views, mixture=own.mixture, groups=groups
        )
        self._group = groups.to_numpy(str)
        self._mixed: dict[int, np.ndarray] = {}
        self.patients = sorted(set(store.index["patient"].iloc[self._studies]))
        self.digest = _digest(store.index.iloc[self._studies], self._group[self._studies])
        self.digest = digest_with(self.teachers, self.digest)
        self._check_room()
        self.plan = make_plan(
            self._sizes,
            length=own.length,
            prefix=own.prefix,
            segments=own.segments,
            visible=own.visible_tokens,
            per_step=own.per_step,
            seed=own.seed,
            begin=begin,
        )
        self.at = begin

    # A copy plans anew: its arguments are small, and a plan may be large.
    def __getstate__(self) -> dict[str, Any]:
        return {"store": self._store, "begin": self._begin, **vars(self.settings)}

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a step's batch, over all hosts."""
        return self.shape.spec(self.per_step)

    def begin_at(self, begin: tuple[int, int]) -> "Rows":
        """The same rows from `begin` on: an epoch and its first row, such as `at`.

        Earlier epochs are not planned again.
        """
        return Rows(self._store, begin=begin, **vars(self.settings))

    def batches(
        self, first: int, *, mine: Sequence[int] | None = None, workers: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the steps `first`, `first + 1`, ..., without end.

        Args:
          mine: this host's positions in a step; None for all.
          workers: processes that make batches ahead; with 0, a thread of this process does. The
            batches are the same. Workers outlive SIGTERM and SIGINT, and end with the iterator or
            this process.
        Raises:
          WorkFailed: a worker died.
        """
        steps = grain.MapDataset.source(_Steps(self, first, None if mine is None else tuple(mine)))
        if workers:
            if not flags.FLAGS.is_parsed():
                # Grain's processes read absl flags, which only an absl program parses.
                flags.FLAGS.mark_as_parsed()
            one_by_one = steps.to_iter_dataset(
                grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
            )
            options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=BUFFERED)
            made = iter(
                one_by_one.mp_prefetch(options, worker_init_fn=partial(begin, named_plugins()))
            )
        else:
            made = iter(
                steps.to_iter_dataset(
                    grain.ReadOptions(num_threads=1, prefetch_buffer_size=BUFFERED)
                )
            )
        try:
            while True:
                # Grain starts its processes at the first request for a batch.
                with held_signals():
                    batch = next(made)
                self.at = tuple(batch.pop(BEGIN).tolist())
                # Copied: JAX may release its input late, and shared memory still held at the end is
                # a leak.
                yield {name: np.array(value) for name, value in batch.items()} if workers else batch
        except RuntimeError as error:  # Grain has no own exception type for it
            if "terminated unexpectedly" not in str(error):
                raise
            raise WorkFailed(
                "A data worker died: too little memory is the usual cause. Set fewer"
                " --config.data.workers. The same command resumes from the last checkpoint."
            ) from error
        finally:
            # Ends the processes and frees their ready batches, which nobody will request.
            made.close()
            made = batch = None
            freed()

    def batch(self, step: int, mine: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Batch of a step, or its rows at the positions `mine`, as in `tokens.RowShape.spec`."""
        rows = self.plan.step(step)
        rows = rows if mine is None else [rows[i] for i in mine]
        batch = self.shape.empty(len(rows))
        for b, row in enumerate(rows):
            try:
                self._fill(batch, b, row)
            except Exception as error:
                error.add_note(f"while making row {row} of step {step}")
                raise
        return batch

    def _placed(self, studies: np.ndarray, is_global: bool) -> Iterator[tuple[int, int, int]]:
        """(line of a row, its study, its crop) of the row's global crops, or of the others."""
        for i, study in enumerate(studies.tolist()):
            ndim = 2 if self._writer.geometry.planar[study] else 3
            for v, view in enumerate(self._expanded[ndim]):
                if view.is_global == is_global:
                    yield i, study, v

    def _seeds(self, epoch: int, line: int, v: int) -> tuple[Sequence[int], Sequence[int]] | None:
        """Seeds of a crop and of its study, see `RowWriter.add`."""
        if not self.settings.augment:
            return None
        return (self.settings.seed, CHANGE, epoch, line, v), (
            self.settings.seed,
            MIRROR,
            epoch,
            line,
        )

    def _fill(self, batch: dict[str, np.ndarray], b: int, row: int) -> None:
        """Write row `row` of the plan: the global crops of its studies, then the local ones."""
        epoch, lines = self.plan.epoch_and_lines(row)
        studies = self._lines(epoch)[lines]
        crops = self._crops(epoch, lines, studies)
        kept = self._writer.kept(studies, crops)
        at, segment = 0, 0
        # start of each global crop, and which of its patches are kept
        front: list[tuple[int, np.ndarray]] = []
        for is_global in (True, False):
            for i, study, v in self._placed(studies, is_global):
                front += [(at, kept[i][v])] if is_global else []
                segment += 1
                at = self._writer.add(
                    batch,
                    b,
                    at=at,
                    segment=segment,
                    study=study,
                    crop=crops[i, v],
                    kept=kept[i][v],
                    is_global=is_global,
                    seeds=self._seeds(epoch, lines[i], v),
                )
        self._hide(batch, b, front, np.random.default_rng([self.settings.seed, HIDE, row]))

    def _hide(
        self,
        batch: dict[str, np.ndarray],
        b: int,
        front: list[tuple[int, np.ndarray]],
        rng: np.random.Generator,
    ) -> None:
        """Draw the masked and the visible tokens of a row's global crops."""
        if self.shape.mask_tokens:
            shares = mask_shares(rng, len(front))
            masks = [block_mask(rng, kept, share)[kept] for share, (_, kept) in zip(shares, front)]
            masked = np.concatenate(
                [
                    at + self.shape.special + np.flatnonzero(mask)
                    for mask, (at, _) in zip(masks, front)
                ]
            )[: self.shape.masked]
            batch["masked"][b, masked] = True
            batch["masked_index"][b, : len(masked)] = masked
        if self.shape.visible_share is not None:
            visible = np.concatenate(
                [choose_visible(rng, at, int(kept.sum()), self.shape) for at, kept in front]
            )
            batch["visible_index"][b, : len(visible)] = visible

    def _lines(self, epoch: int) -> np.ndarray:
        """Study of each line of an epoch; two epochs are cached, since a step may lie in both."""
        if self.settings.mixture is None:
            return self._studies
        if epoch not in self._mixed:
            rng = np.random.default_rng([self.settings.seed, MIX, epoch])
            lines = mix(self._studies, self._group[self._studies], self.settings.mixture, rng)
            before = {e: kept for e, kept in self._mixed.items() if e == epoch - 1}
            self._mixed = before | {epoch: lines}
        return self._mixed[epoch]

    def _crops(self, epoch: int, lines: Sequence[int], studies: np.ndarray) -> Crops:
        """Crops [N, V] of some of an epoch's lines, which show `studies`."""
        most = max(map(len, self._expanded.values()))
        # A range in one call; other lines one by one, which gives the same numbers.
        runs = [lines] if isinstance(lines, range) else [[i] for i in lines]
        u = np.concatenate(
            [
                uniforms(self.settings.seed, epoch, first=r[0], lines=len(r), views=most)
                for r in runs
            ]
        )
        return draw_crops(self._writer.geometry[studies], self.settings.views, self.shape.patch, u)

    def _sizes(self, epoch: int) -> np.ndarray:
        """Global and local tokens, crops, visible tokens and cost of each line of an epoch."""
        studies = self._lines(epoch)
        chunks = [range(at, min(at + CHUNK, len(studies))) for at in range(0, len(studies), CHUNK)]
        return np.concatenate([self._sizes_of(epoch, lines, studies[lines]) for lines in chunks])

    def _sizes_of(self, epoch: int, lines: range, studies: np.ndarray) -> np.ndarray:
        geometry, crops = self._writer.geometry[studies], self._crops(epoch, lines, studies)
        there = crops.tokens[..., 0] > 0
        patches = count_tokens(geometry, crops)
        tokens = np.where(there, patches + self.shape.special, 0)
        front = np.zeros_like(there)
        for ndim, listed in self._expanded.items():
            front[np.ix_(geometry.planar == (ndim == 2), range(len(listed)))] = [
                view.is_global for view in listed
            ]
        visible = (self.shape.visible_of(patches) + self.shape.special) * front
        return np.stack(
            [x.sum(axis=1) for x in (tokens * front, tokens * ~front, there, visible, tokens**2)],
            axis=1,
        )

    def _check_room(self) -> None:
        """Refuse a study whose largest possible crops do not fit into a row.

        Otherwise the run could stop in a later epoch.

        Raises:
          UserError: such a study exists.
        """
        shape, geometry = self.shape, self._writer.geometry[self._studies]
        for ndim, listed in self._expanded.items():
            patches = np.stack(
                [most_tokens(geometry, view, shape.patch, ndim) for view in listed], axis=1
            )
            front = np.array([view.is_global for view in listed])
            visible = (
                self.shape.visible_of(patches) if shape.visible_share is not None else patches * 0
            )
            total, prefix, seen = (
                (x + shape.special).sum(axis=1).max(initial=0)
                for x in (patches, patches[:, front], visible[:, front])
            )
            if (
                total > shape.length
                or prefix > shape.prefix
                or len(listed) > shape.segments
                or seen > (shape.visible_tokens or seen)
            ):
                raise UserError(
                    f"The {len(listed)} crops of a {ndim}D study can take {total} tokens, {prefix}"
                    f" of them in global crops and {seen} of them visible, but a row has"
                    f" length={shape.length}, prefix={shape.prefix}, segments={shape.segments} and"
                    f" visible_tokens={shape.visible_tokens}. Raise these, or make the views' grids"
                    " or counts smaller."
                )


class _Steps(grain.sources.RandomAccessDataSource):
    """Grain source whose item n is the whole batch of step `first + n`.

    Batches are made here, not by Grain, so that they do not depend on the number of workers.
    """

    def __init__(self, rows: Rows, first: int, mine: tuple[int, ...] | None):
        self._rows, self._first, self._mine = rows, first, mine

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, n: int) -> dict[str, np.ndarray]:
        step = self._first + n
        return self._rows.batch(step, self._mine) | {
            BEGIN: np.array(self._rows.plan.begin_of(step))
        }


def _digest(trained: pd.DataFrame, groups: np.ndarray) -> str:
    """Digest of all index columns that determine the rows; lines of other splits do not count."""
    texts = "\n".join([*(text for name in TEXTS for text in trained[name]), *groups])
    numbers = trained[NUMBERS].to_numpy(np.float64)
    # A crop read from a level differs in the last bits from one read from the study. A store
    # written before levels existed gives the latter.
    factors: Iterable[Any] = trained.get("level_factors", [])
    levels = "".join(
        f"{i}: {own.tolist()}" for i, own in enumerate(factors) if own is not None and len(own)
    )
    return hashlib.sha256(
        texts.encode() + numbers.tobytes() + b"".join(trained["occupancy"]) + levels.encode()
    ).hexdigest()[:16]
