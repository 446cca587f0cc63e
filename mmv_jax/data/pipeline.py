"""Pipeline from a store to the batches of a run, with or without worker processes.

Axes: N lines of an epoch, V crops of a line, B rows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import pandas as pd
from absl import flags

from mmv_jax.data import planner
from mmv_jax.data.crops import Crops, check_views
from mmv_jax.data.lines import Lines
from mmv_jax.data.masked import block_mask, mask_shares
from mmv_jax.data.mixture import groups_of, studies_of
from mmv_jax.data.packing import make_plan
from mmv_jax.data.planner import SharedPlans, shared_plans
from mmv_jax.data.resample import Boxes
from mmv_jax.data.row_settings import RowSettings
from mmv_jax.data.row_writer import RowWriter
from mmv_jax.data.teachers import digest_with, open_teachers
from mmv_jax.data.tokens import choose_visible
from mmv_jax.data.wire import decode, encode
from mmv_jax.data.workers import begin, freed, held_signals
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.plugins import named_plugins

BATCHES = ("mixed", "alternating")
ENDLESS = 2**40  # steps: Grain requires a length, but the loop decides
# Second part of a seed: separates the draws for a crop, a line and a row; 4 is `lines.MIX`.
CHANGE, MIRROR, HIDE = 1, 2, 3
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
        if own.batches not in BATCHES:
            raise UserError(
                f"config.data.batches is {own.batches!r}, but must be {' or '.join(BATCHES)}."
            )
        self._store, self._begin = store, begin
        self.shape, self.per_step = own.shape, own.per_step
        key = getattr(store, "key_fingerprint", None)
        self.teachers = open_teachers(own.teachers, self.shape.target_widths, key)
        self._writer = RowWriter(
            store,
            self.shape,
            own.coordinates,
            tokens=own.tokens,
            strength=own.strength,
            teachers=self.teachers,
        )
        groups = groups_of(store.index, own.mixture_by)
        studies = studies_of(store, own.splits, views=own.views, mixture=own.mixture, groups=groups)
        group = groups.to_numpy(str)
        self.patients = sorted(set(store.index["patient"].iloc[studies]))
        self.digest = _digest(store.index.iloc[studies], group[studies])
        self.digest = digest_with(self.teachers, self.digest)
        self.lines = Lines(self._writer.geometry, group, studies, own)
        self.plan = make_plan(
            self.lines.sizes,
            length=own.length,
            prefix=own.prefix,
            segments=own.segments,
            visible=own.visible_tokens,
            per_step=own.per_step,
            seed=own.seed,
            begin=begin,
            packing=own.packing,
            groups=self.lines.groups if own.batches == "alternating" else None,
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
        """Batches of the steps `first`, `first + 1`, ..., without end, as they travel (`sent`).

        Args:
          mine: this host's positions in a step; None for all.
          workers: processes that make batches ahead; with 0, a thread of this process does. The
            batches are the same. Workers outlive SIGTERM and SIGINT, and end with the iterator or
            this process.
        Raises:
          WorkFailed: a worker died.
        """
        with ExitStack() as ends:
            plans = None
            if workers and self.lines.count >= planner.LEAST:
                plans = ends.enter_context(shared_plans(self.plan.pack, self.plan.begin))
            yield from self._made(_Steps(self, first, mine, plans), workers)

    def _made(self, source: "_Steps", workers: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of a source, made ahead by threads or processes."""
        steps = grain.MapDataset.source(source)
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
        """The rows of a step, or those at the positions `mine` of it, as the arrays of
        `tokens.RowShape.spec`. Intensities are multiples of 2^-13, as they travel.
        """
        return decode(self.sent(step, mine), self.shape)

    def sent(self, step: int, mine: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """The same as `batch`, as it travels to the devices."""
        rows = self.plan.step(step)
        rows = rows if mine is None else [rows[i] for i in mine]
        batch = self.shape.empty(len(rows))
        for b, (row, shown) in enumerate(zip(rows, self._shown(rows))):
            try:
                self._fill(batch, b, row, shown)
            except Exception as error:
                error.add_note(f"while making row {row} of step {step}")
                raise
        return encode(batch, self.shape)

    def _shown(self, rows: Sequence[int]) -> list["_Shown"]:
        """What the rows of a batch show. Crops are drawn for all of them at once: drawing costs by
        the call, not by the line.
        """
        placed = [self.plan.epoch_and_lines(row) for row in rows]
        shown: dict[int, _Shown] = {}
        for epoch in sorted({epoch for epoch, _ in placed}):
            own = [i for i, (e, _) in enumerate(placed) if e == epoch]
            lines = [line for i in own for line in placed[i][1]]
            studies = self.lines.studies(epoch)[lines]
            crops = self.lines.crops(epoch, lines, studies)
            kept = self._writer.kept(studies, crops)
            at = 0
            for i in own:
                part = slice(at, at + len(placed[i][1]))
                shown[i] = _Shown(
                    epoch, lines[part], studies=studies[part], crops=crops[part], kept=kept[part]
                )
                at = part.stop
        return [shown[i] for i in range(len(rows))]

    def _placed(self, studies: np.ndarray, is_global: bool) -> Iterator[tuple[int, int, int]]:
        """(line of a row, its study, its crop) of the row's global crops, or of the others."""
        for i, study in enumerate(studies.tolist()):
            ndim = 2 if self._writer.geometry.planar[study] else 3
            for v, view in enumerate(self.lines.expanded[ndim]):
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

    def _fill(self, batch: dict[str, np.ndarray], b: int, row: int, shown: "_Shown") -> None:
        """Write row `row` of the plan: the global crops of its studies, then the local ones."""
        epoch, lines, studies, crops, kept = shown
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


class _Shown(NamedTuple):
    """What a row shows: lines of an epoch, their studies, crops and kept patches."""

    epoch: int
    lines: Sequence[int]
    studies: np.ndarray
    crops: Crops
    kept: list[list[np.ndarray]]


class _Steps(grain.sources.RandomAccessDataSource):
    """Grain source whose item n is the whole batch of step `first + n`.

    Batches are made here, not by Grain, so that they do not depend on the number of workers.
    """

    def __init__(self, rows: Rows, first: int, mine: Sequence[int] | None, plans: str | None):
        self._rows, self._first, self._plans = rows, first, plans
        self._mine = None if mine is None else tuple(mine)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker process: the plan is read, and not made again."""
        self.__dict__ = state
        if self._plans is not None:
            self._rows.plan.pack = SharedPlans(self._plans, self._rows.plan.pack)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, n: int) -> dict[str, np.ndarray]:
        step = self._first + n
        return self._rows.sent(step, self._mine) | {BEGIN: np.array(self._rows.plan.begin_of(step))}


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
