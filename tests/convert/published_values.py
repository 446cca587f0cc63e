"""Values of tiny published checkpoints, drawn anew from their names: only names and shapes, and
the features of the published module, are kept in `published/`.
"""

import json
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).with_name("published")


def listing(name: str) -> dict:
    """Shapes of parameters and buffers of a published module, and what it was made with."""
    return json.loads((HERE / f"{name}.json").read_text())


def features(name: str) -> np.ndarray:
    return np.load(HERE / f"{name}.npy")


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter's values, the same wherever they are drawn."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        return (0.5 + x**2).astype(np.float32)
    # Scales and norms near 1, and every other vector so large that it counts.
    if len(shape) == 1:
        return (0.3 * x + (name.endswith(("weight", "gamma")))).astype(np.float32)
    fan = int(np.prod(shape[1:]))
    return (x / np.sqrt(fan)).astype(np.float32)


def checkpoint(name: str) -> dict[str, np.ndarray]:
    """Parameters and buffers of a published module by their published names."""
    about = listing(name)
    found = {key: drawn(key, tuple(shape)) for key, shape in about["parameters"].items()}
    for key, kept in about["buffers"].items():
        value = np.zeros(kept["shape"], kept["dtype"])
        if key.endswith(("running_mean", "running_var")):
            value = drawn(key, tuple(kept["shape"]))
        elif kept["values"] is not None:
            value = np.array(kept["values"], kept["dtype"]).reshape(kept["shape"])
        found[key] = value
    return found


def image(side: int, *, channels: int = 3, depth: int | None = None) -> np.ndarray:
    """An image [1, channels, (depth,) side, side], every channel another."""
    shape = (1, channels, *(() if depth is None else (depth,)), side, side)
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)
