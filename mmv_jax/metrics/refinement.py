"""How well predictions tell two classes apart, whatever their scale.

Axes: N studies.
"""

import numpy as np
from jaxtyping import Float, Num
from scipy.optimize import minimize
from scipy.special import expit, logit


def refined_log_loss(
    predicted: Float[np.ndarray, " N"],
    truth: Num[np.ndarray, " N"],
) -> float:
    """The mean log loss of predictions after the logistic calibration that suits them best.

    Over-confidence does not count, so a network that overfits its first steps is not taken for one
    that has learnt nothing. Predictions that are all equal, or that rank the classes the wrong way,
    have the loss of the prevalence.

    Args:
      predicted: probabilities, 0 to 1.
      truth: 0 or 1.

    Source: Berta et al., arXiv 2501.19195, for the use on val. Platt, Advances in Large Margin
      Classifiers (1999), for the calibration and its targets, which keep the loss above 0 where all
      studies are ranked right.
    """
    positives = float(truth.sum())
    negatives = len(truth) - positives
    targets = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # A probability of 0 or 1 has no logit.
    scores = logit(np.clip(predicted, 1e-6, 1 - 1e-6))
    # In units of their own spread, so that one step size suits every network.
    scores = (scores - scores.mean()) / max(float(scores.std()), 1e-6)

    def loss_fn(line: np.ndarray) -> tuple[float, np.ndarray]:
        out = line[0] * scores + line[1]
        wrong = expit(out) - targets
        gradient = np.array([(wrong * scores).mean(), wrong.mean()])
        return float((np.logaddexp(0, out) - targets * out).mean()), gradient

    start = np.array([0.0, logit(targets.mean())])
    # The slope is not negative: val may not turn a ranking round.
    return float(minimize(loss_fn, start, jac=True, bounds=((0, None), (None, None))).fun)
