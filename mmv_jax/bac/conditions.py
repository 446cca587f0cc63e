"""Under which conditions areas go wrong: errors by vendor, density and compression.

Axis: N views.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.bac.agreement import Compared, area_scores, dice_scores, severity_scores
from mmv_jax.metrics.intervals import Interval, interval
from mmv_jax.metrics.weighted import weighted_mean

# (name of the condition, upper bounds, words of what lies below each and beyond the last)
BANDS: Mapping[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "density": ((0.25, 0.5, 0.75), ("below 0.25", "0.25 to 0.5", "0.5 to 0.75", "from 0.75")),
    "thickness": ((40.0, 60.0), ("below 40 mm", "40 to 60 mm", "from 60 mm")),
    "force": ((80.0, 120.0), ("below 80 N", "80 to 120 N", "from 120 N")),
}
TITLES = {
    "vendor": "maker of the detector",
    "density": "density of the breast",
    "thickness": "thickness under compression",
    "force": "force of compression",
}
# columns of a manifest that say a condition; a file says some of them itself
COLUMNS = {
    "vendor": ("vendor", "manufacturer"),
    "density": ("breast_density", "density", "birads_density"),
    "thickness": ("compressed_mm", "thickness_mm"),
    "force": ("compression_n",),
}


def band(condition: str, value: str) -> str:
    """The group of a cell: a number by its band, a word as it stands.

    A density beyond 1 is a category (1 to 4, as BI-RADS had them) and is a word.

    Example:
      >>> band("thickness", "52"), band("density", "b"), band("density", "3")
      ('40 to 60 mm', 'b', '3')
    """
    try:
        number = float(value)
    except ValueError:
        return value.strip()
    if condition not in BANDS or (condition == "density" and number > 1):
        return value.strip()
    edges, words = BANDS[condition]
    return words[int(np.searchsorted(edges, number, side="right"))]


def by_condition(
    areas: Compared, conditions: Sequence[Mapping[str, str]], pixels: Int[np.ndarray, "N 3"]
) -> dict[str, dict[str, dict[str, Interval]]]:
    """`area_bias` and `area_mae` (mm², intervals by women) of the views in each group of each
    condition, and their `dice`; a condition with one group, or of which nothing is known, is left
    out.

    Args:
      pixels: as of `agreement.overlap`.
    """
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    for condition in TITLES:
        of_view = np.array([each.get(condition, "") for each in conditions])
        groups = [group for group in np.unique(of_view) if group]
        if len(groups) < 2:
            continue
        found[condition] = {}
        for group in _in_order(condition, groups):
            mine = of_view == group
            pair = areas.truth[mine], areas.found[mine], areas.women[mine]
            found[condition][group] = {
                "area_bias": interval(_bias, *pair),
                "area_mae": interval("mae", *pair),
            }
            # A group without a calcified view has no Dice.
            if dice := dice_scores(pixels[mine], areas.women[mine]).get("dice"):
                found[condition][group]["dice"] = dice
    return found


def women_by_vendor(
    women: Compared, conditions: Mapping[str, Mapping[str, str]], thresholds: Sequence[float]
) -> dict[str, dict[str, Interval]]:
    """Scores of areas and severities of the women of each vendor; empty with fewer than two.

    Args:
      conditions: of a view of each woman, by her name: one examination has one vendor.
      thresholds: of severity, mm².
    """
    of_woman = np.array([conditions[woman].get("vendor", "") for woman in women.women.tolist()])
    groups = [group for group in np.unique(of_woman) if group]
    if len(groups) < 2:
        return {}
    found = {}
    for group in groups:
        mine = of_woman == group
        own = Compared(*(side[mine] for side in (women.women, women.truth, women.found)))
        found[str(group)] = area_scores(own) | severity_scores(own, thresholds)
    return found


def _in_order(condition: str, groups: Sequence[str]) -> list[str]:
    words = BANDS.get(condition, ((), ()))[1]
    return sorted(groups, key=lambda g: (words.index(g) if g in words else len(words), g))


def _bias(
    truth: Float[np.ndarray, " N"],
    found: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    return weighted_mean(found - truth, weights)
