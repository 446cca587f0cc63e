"""Vessel trees that supply many places from a few roots. All (z, y, x), mm."""

import numpy as np


def vessel_tree(
    roots: np.ndarray,
    targets: np.ndarray,
    owner: np.ndarray,
    rng: np.random.Generator,
    scale: float,
) -> tuple[np.ndarray, ...]:
    """Branches of trees that split their targets in two, again and again.

    Each split is along a randomly drawn axis. All branches of a generation are made at once.

    Args:
      roots: [R, 3].
      targets: [N, 3], the places to supply.
      owner: [N], the root of each.
      scale: radius of a branch with one target, mm.
    Returns:
      (start, end, radius): [B, 3], [B, 3], [B]. The radius grows with the number of targets,
        slightly faster than by Murray's law (cube).
    """
    out: list[tuple[np.ndarray, ...]] = []
    start, node = roots, owner
    while len(targets):
        # The last key sorts first: the targets of a node lie together, along the axis drawn for it.
        order = np.lexsort(
            (targets[np.arange(len(targets)), rng.integers(3, size=len(start))[node]], node)
        )
        targets, node = targets[order], node[order]
        count = np.bincount(node, minlength=len(start))
        # Every node has a target, which reduceat needs: an empty one would give its neighbour's.
        first = np.cumsum(count) - count
        way = np.add.reduceat(targets, first) / count[:, None] - start
        bend = rng.normal(0, 0.06, way.shape) * np.linalg.norm(way, axis=1, keepdims=True)
        # short steps at the hilum: branches fan out
        reach = np.where(count == 1, 1.0, np.clip(0.62 - 0.055 * np.log2(count), 0.1, 0.6))
        end = start + reach[:, None] * way + bend
        out.append((start, end, scale * count**0.4))
        # 30 to 70 % go one way; each side of a split keeps at least one target.
        cut = np.clip(
            count * rng.uniform(0.3, 0.7, len(count)), 1, np.maximum(count - 1, 1)
        ).astype(int)
        upper = np.arange(len(targets)) - first[node] >= cut[node]
        going = count[node] > 1
        # Children of node n are 2 n and 2 n + 1: half a key is the parent, and its end is their
        # start.
        keys, node = np.unique((2 * node + upper)[going], return_inverse=True)
        targets, start = targets[going], end[keys // 2]
    return tuple(np.concatenate(parts) for parts in zip(*out))
