"""The share of tokens in rows: our stateless plan, and Grain's packers, which keep state."""

from collections.abc import Sequence

import grain
import grain.experimental
import numpy as np

from mmv_jax.data.packing import make_plan

LENGTH = 2048  # of a row
TOKENS = (49, 100, 196, 196, 196, 343, 784, 1200)  # of a crop, drawn uniformly
OPEN_BINS = (4, 16, 64)
PACKERS = {
    "FirstFit": grain.experimental.FirstFitPackIterDataset,
    "BestFit": grain.experimental.BestFitPackIterDataset,
}


def bench_packing(crops: int = 4000, bins: Sequence[int] = OPEN_BINS) -> dict:
    """The share of tokens that are not padding, in percent; nothing is timed.

    Returns:
      `{"bench": "packing", "cases": [...], "notes": []}`; cases as `mmv bench --json` prints them.
    """
    sizes = np.random.default_rng(0).choice(TOKENS, crops)
    ours = plan_fill(sizes)
    name = f"{crops} crops of {min(TOKENS)} to {max(TOKENS)} tokens, rows of {LENGTH}"
    cases = []
    for packer in PACKERS:
        for open_bins in bins:
            peer = grain_fill(packer, sizes, open_bins)
            peer_name = f"Grain {packer}, {open_bins} open bins"
            cases.append(
                {
                    "case": name,
                    "ours": ours,
                    "peer": peer,
                    "peer_name": peer_name,
                    "ratio": ours / peer,
                    "unit": "% full",
                }
            )
    return {"bench": "packing", "cases": cases, "notes": []}


def plan_fill(sizes: np.ndarray) -> float:
    """Percent of tokens in the rows of an epoch."""
    # All tokens count as global, with a prefix of the whole row: only the length limits.
    table = np.stack([sizes, 0 * sizes], axis=1)
    plan = make_plan(table, length=LENGTH, prefix=LENGTH, seed=0, packing="fewest")
    return 100 * float(sizes.sum()) / (len(plan) * LENGTH)


def grain_fill(packer: str, sizes: np.ndarray, open_bins: int) -> float:
    """Percent of tokens in the rows of a Grain packer, the last and half-empty rows included."""
    # Ones, to distinguish tokens from padding, which is 0.
    crops = grain.MapDataset.source(sizes).map(lambda n: {"tokens": np.ones(n, np.int32)})
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=16)
    rows = PACKERS[packer](
        crops.to_iter_dataset(options),
        length_struct={"tokens": LENGTH},
        num_packing_bins=open_bins,
        seed=1,
    )
    filled = [
        int(
            np.count_nonzero(
                # Grain gives the tokens alone, or a tuple in which they come first.
                row["tokens"][0] if isinstance(row["tokens"], tuple) else row["tokens"]
            )
        )
        for row in rows
    ]
    return 100 * sum(filled) / (len(filled) * LENGTH)
