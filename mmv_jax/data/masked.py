"""Which tokens training hides: blocks for iBOT, a random rest for reconstruction. Axes: z, y, x
patches of a crop.
"""

import numpy as np
from jaxtyping import Bool, Float

# iBOT: of the patch tokens of a crop that is masked at all; half of the crops are
SHARES = (0.1, 0.5)
BLOCK = 4  # the smallest block, in patches


def block_mask(
    rng: np.random.Generator, kept: Bool[np.ndarray, "z y x"], share: float
) -> Bool[np.ndarray, "z y x"]:
    """Masks blocks of neighbouring patches until `share` of the kept ones is masked, exactly
    (rounded down).

    Neighbours go together because a single hidden patch can be guessed from those around it.
    Source: Bao et al., BEiT (arXiv 2106.08254), algorithm 1; shares and halves as in iBOT (arXiv
      2111.07832); here in three dimensions.
    """
    missing = int(share * kept.sum())
    masked = np.zeros(kept.shape, bool)
    axes = max(sum(side > 1 for side in kept.shape), 1)
    while missing > 0:
        volume = rng.uniform(BLOCK, max(missing, BLOCK))
        # A cube of that volume with jittered sides. Axes of one patch do not count for its root.
        sides = np.maximum(
            np.round(volume ** (1 / axes) * np.exp(rng.uniform(-0.5, 0.5, 3))), 1
        ).astype(int)
        # a block masks one more patch at least
        seed = np.argwhere(kept & ~masked)[rng.integers(kept.sum() - masked.sum())]
        # The seed may lie anywhere in its block, not only at a corner.
        low = seed - rng.integers(0, sides)
        block = np.zeros(kept.shape, bool)
        block[tuple(slice(max(at, 0), at + side) for at, side in zip(low, sides))] = True
        # The last block is thinned at random, so that the share is met exactly.
        new = rng.permutation(np.flatnonzero(block & kept & ~masked))[:missing]
        masked.reshape(-1)[new] = True
        missing -= len(new)
    return masked


def mask_shares(rng: np.random.Generator, crops: int) -> Float[np.ndarray, "crops"]:
    """The share to mask of each of a row's crops: 0 for half of them, the others spread evenly over
    SHARES, in random order.
    """
    masked = (crops + int(rng.integers(2))) // 2  # of an odd number the half is rounded up or down
    # One crop in each of equal intervals: the sum over a row varies less than with free draws.
    edges = np.linspace(*SHARES, masked + 1)
    return rng.permutation(
        np.concatenate([rng.uniform(edges[:-1], edges[1:]), np.zeros(crops - masked)])
    )
