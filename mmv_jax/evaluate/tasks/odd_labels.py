"""Labels that can be learnt and are probably meant otherwise: sentences for the report.

Axes: N studies of a task.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mmv_jax.evaluate.tasks.columns import is_empty, plain
from mmv_jax.store.odd_values import codes_among
from mmv_jax.store.spelled_twice import spelled_twice

ENOUGH = 10  # distinct numbers by which a scale is judged
FEW = 0.02  # share of the studies: fewer of them are outliers and not a second unit
# How far two units lie apart at least, and an outlier from all others, as powers of ten; and how
# many times further than the spread of the numbers on either side.
UNITS_APART, OUTLIER_APART, SPREADS = 0.45, 0.6, 3.0
NUMBERED, GAPS = 20, 1.05  # whole numbers that are all different and leave hardly one out


def odd_labels(
    columns: Mapping[str, pd.Series], known: Bool[np.ndarray, " N"], *, scale: str
) -> Iterator[str]:
    """A sentence for each column whose values are odd, or are not all used.

    Args:
      columns: the values of the chosen studies, by name.
      known: whether the task has a truth of a study.
      scale: whether the first column holds "numbers" or "classes"; "" for neither.
    """
    filled = np.all([~is_empty(values) for values in columns.values()], axis=0)
    if unused := int((filled & ~known).sum()):
        yield f"{', '.join(columns)}: {unused} studies have no value that can be used: left out."
    name, values = next(iter(columns.items()))
    if scale == "numbers":
        found = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
        yield from (f"{name}: {said}" for said in odd_numbers(found[known]))
    if scale == "classes":
        cells = values[~is_empty(values)].map(plain)
        if spelled := spelled_twice(Counter(cells)):
            yield f"{name}: some classes differ in spelling alone ({spelled})."


def odd_numbers(numbers: Float[np.ndarray, " N"]) -> Iterator[str]:
    """A sentence for each way in which numbers are odd.

    >>> list(odd_numbers(np.r_[np.arange(30.0, 50), 410.0]))
    ['1 study is about 10 times above the others: is it in another unit?']
    """
    numbers = numbers[np.isfinite(numbers)]
    distinct = np.unique(numbers)
    if len(distinct) < ENOUGH:
        return
    # A code would itself be the outlier of the scale, so it is taken out first.
    if codes := sorted(codes_among(Counter(numbers.tolist()))):
        said = ", ".join(f"{code:g} ({(numbers == code).sum()} studies)" for code in codes)
        yield f"{said} counts as a number. If it means not known, leave the cell empty."
        numbers = numbers[~np.isin(numbers, codes)]
    yield from _units(np.sort(numbers[numbers > 0]))
    whole = len(distinct) == len(numbers) >= NUMBERED and (distinct == np.round(distinct)).all()
    if whole and distinct[-1] - distinct[0] + 1 <= GAPS * len(distinct):
        yield "every study has a whole number of its own, without gaps: does it count the lines?"


def _units(numbers: Float[np.ndarray, " N"]) -> Iterator[str]:
    """Args: numbers: above 0, ascending."""
    # Units differ by a factor, which is a distance between logarithms.
    logs = np.log10(numbers)
    if len(logs) < ENOUGH:
        return
    gaps = np.diff(logs)
    cut = int(gaps.argmax()) + 1
    low, high, gap = logs[:cut], logs[cut:], gaps[cut - 1]
    fewer, more = (low, high) if len(low) < len(high) else (high, low)
    # The middles of both sides are as far apart as the units, wherever the gap lies.
    times = 10 ** (np.median(high) - np.median(low))
    few = len(fewer) <= max(1, FEW * len(logs))
    if few and gap > max(OUTLIER_APART, SPREADS * more.std()):
        which = "1 study is" if len(fewer) == 1 else f"{len(fewer)} studies are"
        where = "above" if fewer is high else "below"
        yield f"{which} about {times:.2g} times {where} the others: is it in another unit?"
    # Each side alone is a narrow scale, so that the numbers between them are missing.
    if not few and gap > max(UNITS_APART, SPREADS * low.std(), SPREADS * high.std()):
        yield (
            f"{len(low)} and {len(high)} studies lie about {times:.2g} times apart with none"
            " between: are there two units in the column?"
        )
