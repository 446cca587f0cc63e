"""Packing plan: which crops go into which row. Axes: N lines of an epoch, R rows, K capacities.

The plan is a pure function of the sizes, the seed and the epoch, so any host can build any row of
any step. Epochs differ in their number of rows. To resume, a plan needs an epoch and the number of
its first row; otherwise it plans every earlier epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int

from mmv_jax.errors import UserError

UNBOUNDED = 2**31  # capacity where no limit is given
WINDOW = 2048  # lines that are packed together: enough to fill rows, few enough to be fast
SPARED = 0.01  # share of a row that may stay empty: about what no packing of mixed crops can fill
MOST_SIZES = 64  # different sizes of items for which sums are quick
# Separates the shuffle's random numbers from those of the crops (see crops.uniforms).
SHUFFLE = 2**63

Sizes = Sequence[tuple[int, ...]] | np.ndarray
Packed = tuple[list[np.ndarray], np.ndarray]  # the lines of each row of an epoch, and its cost


@dataclass(frozen=True)
class Packer:
    """Packs one epoch: a pure function of its arguments and the epoch.

    Args:
      sizes: from an epoch to the table of `_size_table`.
      capacity: [K], of a row, for the first K columns of the table.
      method: a name of `PACKINGS`.
      groups: from an epoch to the group of each of its lines, if a step holds one group alone.
      per_step: rows of a step.
    """

    sizes: Callable[[int], np.ndarray]
    capacity: np.ndarray
    seed: int
    method: str = "fewest"
    groups: Callable[[int], np.ndarray] | None = None
    per_step: int = 1

    def __call__(self, epoch: int) -> Packed:
        """The rows of an epoch, shuffled, and the attention cost of each."""
        sizes = _size_table(self.sizes(epoch))
        _check(sizes, self.capacity)
        rng = np.random.Generator(
            np.random.Philox(key=np.array([self.seed + SHUFFLE, epoch], np.uint64))
        )
        if self.groups is None:
            rows = self._rows(sizes, rng.permutation(len(sizes)), rng)
        else:
            rows = self._in_turn(sizes, self.groups(epoch), rng)
        return rows, np.array([sizes[row, -1].sum() for row in rows])

    def _rows(
        self, sizes: np.ndarray, shuffled: np.ndarray, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Rows of some of an epoch's lines, in random order."""
        parts = np.array_split(shuffled, -(-len(shuffled) // WINDOW))
        rows = [
            part[row]
            for part in parts
            for row in PACKINGS[self.method](sizes[part, : len(self.capacity)], self.capacity)
        ]
        # Best fit begins with the largest studies, so rows must be shuffled once more.
        return [rows[i] for i in rng.permutation(len(rows))]

    def _in_turn(
        self, sizes: np.ndarray, groups: np.ndarray, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Rows in whole steps of one group each; what does not fill a step is left out."""
        steps = []
        for name in np.unique(groups):
            rows = self._rows(sizes, rng.permutation(np.flatnonzero(groups == name)), rng)
            whole = len(rows) // self.per_step
            if not whole:
                raise UserError(
                    f"config.data.batches is 'alternating', but {name} fills {len(rows)} of the"
                    f" {self.per_step} rows of a step. Lower config.rows.per_step."
                )
            steps += [rows[i * self.per_step : (i + 1) * self.per_step] for i in range(whole)]
        # In random order: strictly in turn, the larger group would end the epoch alone.
        return [row for i in rng.permutation(len(steps)) for row in steps[i]]


class Plan:
    """Rows of consecutive epochs.

    A line is one showing of a study. Without a mixture, line i of an epoch is study i.

    Attributes:
      pack: from an epoch to its rows; no epoch is packed before it is needed.
    """

    def __init__(self, pack: Callable[[int], Packed], per_step: int, begin: tuple[int, int]):
        self.pack, self.per_step = pack, per_step
        self.begin, first_row = begin
        # First row of each epoch from `begin` on, as far as known.
        self._firsts = [first_row]
        self._packed: dict[int, Packed] = {}

    def __len__(self) -> int:
        """Rows of the first epoch; later ones differ by a few, as their crops do."""
        self._locate(self._firsts[0])
        return self._firsts[1] - self._firsts[0]

    def begin_of(self, n: int) -> tuple[int, int]:
        """Resume point of step `n`: (epoch, its first row) of the step's earliest row.

        With this as `begin`, a plan has the steps from `n` on.
        """
        epoch = self._locate(n * self.per_step)
        return epoch, self._firsts[epoch - self.begin]

    def row(self, r: int) -> list[int]:
        """Lines of row `r`, counted from the first row of the first epoch."""
        return self.epoch_and_lines(r)[1]

    def epoch_and_lines(self, r: int) -> tuple[int, list[int]]:
        """Epoch of row `r`, and the lines of that epoch in the row."""
        epoch = self._locate(r)
        return epoch, self._epoch(epoch)[0][r - self._firsts[epoch - self.begin]].tolist()

    def step(self, n: int) -> list[int]:
        """Rows of step `n`, in an order that balances attention cost over devices.

        Devices with equal runs of the rows have about equal cost.
        """
        rows = range(n * self.per_step, (n + 1) * self.per_step)
        return [rows[i] for i in balanced_order(np.array([self._cost(r) for r in rows]))]

    def _cost(self, r: int) -> int:
        epoch = self._locate(r)
        return int(self._epoch(epoch)[1][r - self._firsts[epoch - self.begin]])

    def _locate(self, r: int) -> int:
        """Epoch of row `r`.

        Earlier epochs, from `begin` on, are planned once to count their rows.
        """
        assert r >= self._firsts[0], (
            f"row {r} lies before row {self._firsts[0]}, at which this plan begins"
        )
        while self._firsts[-1] <= r:
            epoch = self.begin + len(self._firsts) - 1
            self._firsts.append(self._firsts[-1] + len(self._epoch(epoch)[0]))
        # "right": the first row of an epoch belongs to that epoch, not to the one before.
        return self.begin + int(np.searchsorted(self._firsts, r, side="right")) - 1

    def _epoch(self, epoch: int) -> Packed:
        """The rows of an epoch, shuffled, and the cost of each. The last two epochs asked for are
        kept: a step can lie in both.
        """
        if epoch not in self._packed:
            self._packed = {
                before: packed for before, packed in self._packed.items() if before == epoch - 1
            }
            self._packed[epoch] = self.pack(epoch)
        return self._packed[epoch]


def make_plan(
    sizes: Sizes | Callable[[int], np.ndarray],
    *,
    length: int,
    prefix: int,
    seed: int,
    segments: int | None = None,
    visible: int | None = None,
    per_step: int = 1,
    begin: tuple[int, int] = (0, 0),
    packing: str = "fewest",
    groups: Callable[[int], np.ndarray] | None = None,
) -> Plan:
    """Packing plan of a run.

    Args:
      sizes: for each line (tokens of its global crops, of its local crops[, number of its crops,
        visible tokens[, attention cost]]), or a function from an epoch to such an array. Defaults
        are 0 crops and visible tokens, and the square of the tokens as cost.
      length, prefix: tokens of a row, and of its front part, which holds all global crops.
      segments, visible: largest number of crops and of visible tokens in a row.
      per_step: rows of a step.
      begin: an epoch and its first row (see `Plan.begin_of`). Earlier rows must not be requested,
        and their epochs are not planned.
      packing: "fewest" (see `fewest_rows`), or "best_fit" for the rows of earlier runs. It decides
        which studies share a row, so a run keeps the one that it began with.
      groups: from an epoch to the group of each of its lines; a step then holds one group alone,
        and what does not fill a step is left out of the epoch.
    Raises:
      UserError: there is no study, one does not fit into a row, or `packing` is unknown.

    Example:
      >>> plan = make_plan([(4, 0), (2, 2), (2, 2)], length=8, prefix=4, seed=0)
      >>> sorted(sorted(plan.row(i)) for i in range(len(plan)))
      [[0], [1, 2]]
    """
    if packing not in PACKINGS:
        raise UserError(f"config.data.packing is {packing!r}, but must be {' or '.join(PACKINGS)}.")
    capacity = np.array(
        [length, prefix, *(UNBOUNDED if most is None else most for most in (segments, visible))]
    )
    if not callable(sizes):
        # Known now, so told now; an epoch's sizes are told when it is packed.
        _check(_size_table(sizes), capacity)
    of_epoch = sizes if callable(sizes) else partial(_same, sizes)
    packer = Packer(of_epoch, capacity, seed, packing, groups=groups, per_step=per_step)
    return Plan(packer, per_step=per_step, begin=begin)


def _same(sizes: Sizes, epoch: int) -> np.ndarray:
    """Every epoch has the same sizes. A function of the file, so that it pickles."""
    return np.asarray(sizes)


def _size_table(sizes: Sizes) -> Int[np.ndarray, "N 5"]:
    """Columns: all tokens, global tokens, crops, visible tokens, cost."""
    given = np.asarray(sizes, np.int64)
    if not given.size:
        raise UserError(
            "There is no study to plan rows for. Check the split, the modalities and the mixture."
        )
    total = given[:, 0] + given[:, 1]
    counts = given[:, 2:4] if given.shape[1] > 2 else np.zeros((len(given), 2), np.int64)
    cost = given[:, 4] if given.shape[1] > 4 else total**2
    return np.concatenate([total[:, None], given[:, :1], counts, cost[:, None]], axis=1)


def _check(table: np.ndarray, capacity: np.ndarray) -> None:
    too_large = np.flatnonzero((table[:, :4] > capacity).any(axis=1))
    if len(too_large):
        total, front, crops, visible, _ = table[too_large[0]]
        raise UserError(
            f"{len(too_large)} of {len(table)} studies do not fit into a row. One of them needs"
            f" {total} tokens, {front} of them in global crops, and {crops} crops, with {visible}"
            f" visible tokens; a row holds length={capacity[0]}, prefix={capacity[1]},"
            f" segments={capacity[2]}, visible={capacity[3]}. Raise these, or make the views' grids"
            " smaller or their counts lower."
        )


def best_fit(sizes: Int[np.ndarray, "N K"], capacity: Int[np.ndarray, "K"]) -> list[list[int]]:
    """Rows of items with K sizes each, in as few rows as this heuristic finds.

    The largest items come first, each into the fullest row that still holds it. The fullest row has
    the least free capacity, as a sum of shares weighted by scarcity. Other measures (largest share,
    Euclidean norm, balance of shares) filled rows equally well to 0.2 %.

    Source: best-fit decreasing; Johnson et al., Worst-case performance bounds for simple
    one-dimensional packing algorithms (SIAM J. Comput., 1974).
    """
    need = sizes / capacity
    # Share of the total demand for each capacity: the scarcest weighs most.
    scarcity = need.sum(axis=0) / need.sum()
    rows: list[list[int]] = []
    free = np.ones_like(need)  # of each row; there are at most as many rows as items
    room = np.ones(len(need))
    # A stable sort: studies of equal size must come in the same order on every machine.
    for item in np.argsort(-need.max(axis=1), kind="stable").tolist():
        # tolerance, since the shares are sums of rounded numbers
        holds = np.flatnonzero((free[: len(rows)] >= need[item] - 1e-9).all(axis=1))
        if len(holds):
            # The least weighted room marks the fullest row.
            row = int(holds[room[holds].argmin()])
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(item)
        free[row] -= need[item]
        room[row] = free[row] @ scarcity
    return rows


def fewest_rows(sizes: Int[np.ndarray, "N K"], capacity: Int[np.ndarray, "K"]) -> list[list[int]]:
    """Rows of items as `best_fit` or as `rows_by_sums` packs them, whichever needs fewer."""
    rows = best_fit(sizes, capacity)
    others = rows_by_sums(sizes, capacity)
    return rows if others is None or len(others) >= len(rows) else others


def rows_by_sums(
    sizes: Int[np.ndarray, "N K"], capacity: Int[np.ndarray, "K"]
) -> list[list[int]] | None:
    """Rows whose sums come within SPARED of the scarcest capacity, filled with large items first.

    The largest item that is left opens a row. The rest of the row is the first sum that is close
    enough, of as few small items as possible: those fill the gaps of later rows. A sum that is
    exact would use them up, and end with more rows. Which sums there are is one integer, whose
    bit n says that n can be reached.

    Returns:
      None where the items have too many different sizes for this to be quick, which `best_fit`
      packs well, or where a row would exceed another capacity.

    Source: the minimum bin slack heuristic of Gupta and Ho (Production Planning & Control, 1999),
    with a slack that is allowed, and sums by dynamic programming.
    """
    axis = int((sizes / capacity).sum(axis=0).argmax())
    amounts, full = sizes[:, axis], int(capacity[axis])
    if len(np.unique(amounts)) > MOST_SIZES or amounts.min() < 1:
        return None
    of_size: dict[int, list[int]] = {}
    # From behind, so that `pop` takes items in their order.
    for item in np.argsort(-amounts, kind="stable")[::-1].tolist():
        of_size.setdefault(int(amounts[item]), []).append(item)
    left, rows = sorted(of_size, reverse=True), []
    while left:
        row = [of_size[left[0]].pop()]
        for size in _sum_near(full - left[0], int(SPARED * full), left, of_size):
            row.append(of_size[size].pop())
        left = [size for size in left if of_size[size]]
        rows.append(row)
    fits = all((sizes[row].sum(axis=0) <= capacity).all() for row in rows)
    return rows if fits else None


def _sum_near(free: int, spared: int, left: list[int], of_size: dict[int, list[int]]) -> list[int]:
    """Sizes, largest first, whose sum is at most `free`, and at least `free - spared` if possible.

    The row's first item has left `of_size` already.
    """
    within, lowest = (1 << (free + 1)) - 1, max(0, free - spared)
    reached, steps = 1, []
    for size in left:
        for _ in range(min(len(of_size[size]), free // size)):
            if reached >> lowest:
                break
            steps.append((reached, size))
            reached |= (reached << size) & within
    total, chosen = reached.bit_length() - 1, []
    for before, size in reversed(steps):
        # Not reachable before this item came: so it is in the sum.
        if not before >> total & 1:
            chosen.append(size)
            total -= size
    return chosen[::-1]


# Names of `config.data.packing`.
PACKINGS = {"best_fit": best_fit, "fewest": fewest_rows}


def balanced_order(costs: np.ndarray) -> list[int]:
    """Order in which every aligned run of 1/2, 1/4, 1/8, ... of the items costs about the same.

    This holds for as often as their number can be halved. The order does not depend on the number
    of devices, so the devices change no batch. The most expensive items are paired with the
    cheapest, then pairs with pairs.
    """
    groups = [([i], float(cost)) for i, cost in enumerate(costs)]
    while len(groups) % 2 == 0:
        groups.sort(key=lambda group: -group[1])  # stable: equal costs keep their order
        half = len(groups) // 2
        groups = [(a + b, m + n) for (a, m), (b, n) in zip(groups[:half], reversed(groups[half:]))]
    return [i for group in groups for i in group[0]]
