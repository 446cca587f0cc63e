"""Groups of calcified pixels as evidence of an artery: large ones, sure ones and those that are not
alone are calcium of an artery more often.

Axes: y x pixels of the working grid, G groups.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from mmv_jax.bac.measure import Measure, groups

# of `features`, in the order of the weights of `Measure.artery`, which begin with a constant
FEATURES = (
    "log of the area",
    "mean probability of its pixels",
    "log of the width",
    "log of the area of the view's other groups",
)
FLOOR_MM = FLOOR_MM2 = 0.1  # a line of single pixels has no width, and a group may be alone
RIDGE = 1.0  # of the fitted weights: a few hundred groups are few


@dataclass(frozen=True)
class Groups:
    """Groups of one view.

    Attributes:
      labels: number of each pixel's group, from 1; 0 elsewhere.
      pixels: of each group.
      artery: probability that a group is calcium of an artery.
    """

    labels: Int[np.ndarray, "y x"]
    pixels: Int[np.ndarray, "G"]
    artery: Float[np.ndarray, "G"]

    @classmethod
    def of(
        cls, found: Float[np.ndarray, "y x"], pixel_mm: tuple[float, float], measure: Measure
    ) -> "Groups":
        """The groups of the pixels that reach `Measure.threshold`."""
        labels, count = groups(found >= measure.threshold, pixel_mm)
        pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        # Without weights every group counts fully.
        artery = np.ones(count)
        if measure.artery:
            weights = np.asarray(measure.artery)
            artery = expit(weights[0] + features(found, labels, count, pixel_mm) @ weights[1:])
        return cls(labels, pixels, artery)

    def counted(self, measure: Measure) -> Bool[np.ndarray, "y x"]:
        """Pixels of the groups that count, by `Measure.least_artery`."""
        # Label 0 is the background.
        return np.concatenate([[False], self.artery >= measure.least_artery])[self.labels]

    def sure_mm2(self, pixel_mm2: float, measure: Measure) -> float:
        """Expected mm² of artery in groups of at least `Measure.least_group_mm2`."""
        # A small group may still count in a breast that others confirm.
        large = self.pixels * pixel_mm2 >= measure.least_group_mm2
        return float((self.artery * self.pixels)[large].sum() * pixel_mm2)


def features(
    found: Float[np.ndarray, "y x"],
    labels: Int[np.ndarray, "y x"],
    count: int,
    pixel_mm: tuple[float, float],
) -> Float[np.ndarray, "G 4"]:
    """`FEATURES` of each group.

    A group's width is four standard deviations of its pixels across its longest axis, as of an
    ellipse; all lengths are in mm.

    Args:
      found: probabilities of the pixels.
      labels, count: from `measure.groups`.
    """
    at = np.nonzero(labels)
    group = labels[at] - 1

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, values, minlength=count) / pixels

    pixels = np.bincount(group, minlength=count)
    # In mm before anything else: pixels need not be square.
    y, x = (axis * mm for axis, mm in zip(at, pixel_mm))
    # From the group's own middle: the difference of two large squares would lose all digits.
    y, x = y - mean(y)[group], x - mean(x)[group]
    yy, xx, xy = mean(y * y), mean(x * x), mean(x * y)
    # The smaller eigenvalue of the covariance, which rounding may make negative.
    across = (yy + xx) / 2 - np.hypot((yy - xx) / 2, xy)
    width = 4 * np.sqrt(np.maximum(across, 0))
    area = pixels * pixel_mm[0] * pixel_mm[1]
    columns = (
        np.log(area),
        mean(found[at]),
        np.log(width + FLOOR_MM),
        np.log(area.sum() - area + FLOOR_MM2),
    )
    return np.stack(columns, axis=1)


def fit_weights(x: Float[np.ndarray, "G 4"], artery: Bool[np.ndarray, "G"]) -> tuple[float, ...]:
    """Weights of `Measure.artery` by logistic regression, with `RIDGE` on standardised features.

    Raises:
      ValueError: all groups are calcium of an artery, or none is.
    """
    if artery.all() or not artery.any():
        raise ValueError("groups of one kind only tell nothing of the other")
    middle, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    z = np.column_stack([np.ones(len(x)), (x - middle) / scale])
    ridge, weights = np.diag([0.0] + [RIDGE] * x.shape[1]), np.zeros(1 + x.shape[1])
    # Newton's steps; the ridge keeps the solution finite where the groups are separable.
    for _ in range(100):
        p = expit(z @ weights)
        gradient = z.T @ (p - artery) + ridge @ weights
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + ridge, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    # Back to the features' own units, so that the weights can be written into a config.
    slopes = weights[1:] / scale
    return (float(weights[0] - slopes @ middle), *map(float, slopes))
