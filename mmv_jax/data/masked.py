"""Masked tokens of training: blocks for iBOT. Axes: z, y, x patches of a crop."""

import numpy as np
from jaxtyping import Bool, Float

# iBOT: share of the patch tokens of a masked crop; half of the crops are masked.
SHARES = (0.1, 0.5)
BLOCK = 4  # patches of the smallest block


def block_mask(
    rng: np.random.Generator, kept: Bool[np.ndarray, "z y x"], share: float
) -> Bool[np.ndarray, "z y x"]:
    """Mask of blocks of neighbouring patches that covers exactly `share` of the kept ones.

    The number is rounded down. Neighbours are masked together, because a single hidden patch can be
    guessed from those around it.

    Source: Bao et al., BEiT (arXiv 2106.08254), algorithm 1; shares and halves as in iBOT (arXiv
    2111.07832); here in three dimensions.
    """
    missing = int(share * kept.sum())
    masked = np.zeros(kept.shape, bool)
    axes = max(sum(side > 1 for side in kept.shape), 1)
    while missing > 0:
        volume = rng.uniform(BLOCK, max(missing, BLOCK))
        # A cube of that volume with jittered sides. Axes of one patch do not count for the root.
        sides = np.maximum(
            np.round(volume ** (1 / axes) * np.exp(rng.uniform(-0.5, 0.5, 3))), 1
        ).astype(int)
        # a block masks at least one more patch
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
    """Share to mask of each of a row's crops, in random order.

    It is 0 for half of the crops; the others are spread evenly over SHARES.
    """
    # for an odd number, half is rounded up or down at random
    masked = (crops + int(rng.integers(2))) // 2
    # One crop in each of equal intervals: the sum over a row varies less than with free draws.
    edges = np.linspace(*SHARES, masked + 1)
    return rng.permutation(
        np.concatenate([rng.uniform(edges[:-1], edges[1:]), np.zeros(crops - masked)])
    )
