"""What the lines of each epoch show: their studies, crops and sizes, from the index alone. Axes: N
lines of an epoch, V crops of a line.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mmv_jax.data.crops import Crops, Geometry, draw_crops, expand, most_tokens, uniforms
from mmv_jax.data.mixture import mix
from mmv_jax.data.occupancy import CHUNK, count_tokens
from mmv_jax.data.row_settings import RowSettings
from mmv_jax.errors import UserError

MIX = 4  # second part of a seed, see `pipeline.CHANGE`


class Lines:
    """The lines of every epoch of a run. A line is one showing of a study: a mixture shows some
    studies several times an epoch.

    Everything is a pure function of the arguments and the epoch.

    Args:
      geometry, group: of every study of the store: its physical space, and the mixture's group.
      studies: those that are trained on.
      settings: views, shape of a row, mixture and seed.
    Raises:
      UserError: the crops of a study can be larger than a row.
    """

    def __init__(
        self, geometry: Geometry, group: np.ndarray, studies: np.ndarray, settings: RowSettings
    ):
        self.geometry, self.trained, self._group = geometry, studies, group
        self._views, self._shape = settings.views, settings.shape
        self._seed, self._mixture, self._tokens = settings.seed, settings.mixture, settings.tokens
        self.expanded = {ndim: expand(listed) for ndim, listed in settings.views.items()}
        self._mixed: dict[int, np.ndarray] = {}
        self._check_room()

    @property
    def count(self) -> int:
        """Lines of the first epoch."""
        return len(self.studies(0))

    def studies(self, epoch: int) -> Int[np.ndarray, "N"]:
        """The study of each line of an epoch."""
        if self._mixture is None:
            return self.trained
        if epoch not in self._mixed:
            rng = np.random.default_rng([self._seed, MIX, epoch])
            lines = mix(self.trained, self._group[self.trained], self._mixture, rng)
            # Two epochs are kept: a step can lie in both.
            before = {e: kept for e, kept in self._mixed.items() if e == epoch - 1}
            self._mixed = before | {epoch: lines}
        return self._mixed[epoch]

    def groups(self, epoch: int) -> np.ndarray:
        """The mixture's group of each line of an epoch."""
        return self._group[self.studies(epoch)]

    def crops(self, epoch: int, lines: Sequence[int], studies: np.ndarray) -> Crops:
        """The crops [N, V] of some of an epoch's lines, which show `studies`."""
        most = max(map(len, self.expanded.values()))
        # a range in one go; others line by line, which gives the same numbers
        runs = [lines] if isinstance(lines, range) else [[i] for i in lines]
        u = np.concatenate(
            [uniforms(self._seed, epoch, first=r[0], lines=len(r), views=most) for r in runs]
        )
        return draw_crops(self.geometry[studies], self._views, self._shape.patch, u)

    def sizes(self, epoch: int) -> Int[np.ndarray, "N 5"]:
        """Global tokens, local tokens, crops, visible tokens and attention cost of each line of an
        epoch.
        """
        studies = self.studies(epoch)
        chunks = [range(at, min(at + CHUNK, len(studies))) for at in range(0, len(studies), CHUNK)]
        return np.concatenate([self._sizes_of(epoch, lines, studies[lines]) for lines in chunks])

    def _sizes_of(self, epoch: int, lines: range, studies: np.ndarray) -> np.ndarray:
        geometry, crops = self.geometry[studies], self.crops(epoch, lines, studies)
        there = crops.tokens[..., 0] > 0
        patches = count_tokens(geometry, crops, self._tokens)
        tokens = np.where(there, patches + self._shape.special, 0)
        front = np.zeros_like(there)
        for ndim, listed in self.expanded.items():
            front[np.ix_(geometry.planar == (ndim == 2), range(len(listed)))] = [
                view.is_global for view in listed
            ]
        visible = (self._shape.visible_of(patches) + self._shape.special) * front
        return np.stack(
            [x.sum(axis=1) for x in (tokens * front, tokens * ~front, there, visible, tokens**2)],
            axis=1,
        )

    def _check_room(self) -> None:
        """Refuses now what could stop the run in a later epoch: a study whose largest possible
        crops do not fit into a row.
        """
        shape, geometry = self._shape, self.geometry[self.trained]
        for ndim, listed in self.expanded.items():
            patches = np.stack(
                [most_tokens(geometry, view, shape.patch, ndim) for view in listed], axis=1
            )
            front = np.array([view.is_global for view in listed])
            visible = (
                self._shape.visible_of(patches) if shape.visible_share is not None else patches * 0
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
                    f"A {ndim}D study has {len(listed)} crops, which can take {total} tokens:"
                    f" {prefix} in global crops, {seen} of them visible. But a row has"
                    f" length={shape.length}, prefix={shape.prefix}, segments={shape.segments} and"
                    f" visible_tokens={shape.visible_tokens}. Raise these, or make the views' grids"
                    " or counts smaller."
                )
