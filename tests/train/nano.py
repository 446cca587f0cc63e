"""A store of a few small studies, and a run on it that takes seconds: a test's, and that of the
processes it starts.
"""

from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

NAN = float("nan")


def write_studies(folder: Path) -> Path:
    """Blobs of different places and sizes on noise; two studies are of one patient."""
    root, rng = open_root(folder), np.random.default_rng(0)
    for ndim, shape, spacing in (
        (2, (1, 64, 56), (NAN, 3.0, 3.0)),
        (3, (16, 40, 48), (4.0, 3.0, 3.0)),
    ):
        part = PartWriter(root, f"part-{ndim}d", ndim)
        for i in range(8):
            axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
            z, y, x = np.meshgrid(*axes, indexing="ij")
            cz, cy, cx = rng.uniform(-0.5, 0.5, 3)
            blob = np.exp(
                -((z - cz * (ndim == 3)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
                / rng.uniform(0.05, 0.4)
            )
            voxels = np.round(800 * blob - 300 + 20 * rng.normal(size=shape)).astype(np.int16)
            known = {
                "study": f"{ndim}{i:015x}",
                "patient": f"{ndim}{i // 2:015x}",
                "line": i + 2,
                "manifest": 1,
                "split": "train",
            }
            unit, modality = ("raw", "CXR") if ndim == 2 else ("HU", "CT")
            part.add(Study(voxels, spacing, ndim, unit), {}, known | {"modality": modality})
        part.close()
    root.write(
        STORE_JSON, b'{"format": %d, "key_fingerprint": "0123", "manifests": []}' % FORMAT
    ).result()
    return folder


def nano_config(store: Path | str = "store", **weights: float) -> ConfigDict:
    """All objectives together, or those that `weights` names."""
    c = ConfigDict({"seed": 0, "steps": 20})
    c.mesh = {"data": 1, "fsdp": 1}
    c.data = {"store": str(store), "workers": 0}
    c.rows = {"length": 128, "prefix": 96, "segments": 12, "per_step": 2, "visible_share": 0.25}
    views = {
        "globals": 2,
        "global_scale": (0.4, 1.0),
        "locals": 1,
        "local_scale": (0.05, 0.4),
        "local_grid": (4, 16, 16),
    }
    c.crops = {
        "planar": views | {"global_grid": (4, 32, 32)},
        "volume": views | {"global_grid": (8, 24, 24)},
    }
    # The dense definition is traced and compiled in two thirds of the time of the other backends.
    c.encoder = {"size": "nano", "patch": (4, 8, 8), "registers": 1, "attention": "dense"}
    c.objective = dict.fromkeys(("mae", "dino", "ibot", "koleo"), 0.0) | (
        weights or {"mae": 1.0, "dino": 1.0, "ibot": 1.0, "koleo": 0.1}
    )
    c.objective.update(
        {
            "prototypes": 32,
            "hidden": 64,
            "bottleneck": 16,
            "decoder_width": 32,
            "decoder_depth": 1,
            "decoder_heads": 2,
        }
    )
    c.optimizer = {"peak_lr": 3e-3, "at_rows": 2, "warmup": 0.1, "weight_decay": 0.05}
    c.ema = {"start": 0.99, "at_rows": 2}
    c.checkpoint = {"every": 3, "keep": 2}
    c.health = {"every": 10}
    return c


MADE: dict[tuple[str, str], Any] = {}


def share_step(monkeypatch, name: str) -> None:
    """Lets runs of one config on one mesh take one step, which is traced and compiled once."""
    from mmv_jax.train import loop

    monkeypatch.setattr(loop, "jit_step", made_once(name, "jit_step", loop.jit_step))


def share_run(monkeypatch, name: str) -> None:
    """As `share_step`, for runs that begin alike, with one `drawn_state`."""
    from mmv_jax.train import loop

    share_step(monkeypatch, name)
    shapes = made_once(name, "shapes_of_state", loop.shapes_of_state)
    monkeypatch.setattr(loop, "shapes_of_state", shapes)
    draw_begin(monkeypatch)


def drawn_weights(shapes, seed: int = 0):
    import jax

    rng = np.random.default_rng(seed)

    def draw(path, x):
        about = 1.0 if "scale" in path[-1].key else 0.0  # of a norm or of a layer
        return (about + 0.1 * rng.normal(size=x.shape)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def drawn_state(shapes, seed: int = 0):
    """A state of random weights where `shapes` says; nothing is compiled for it."""
    import jax

    student = drawn_weights(shapes.student, seed)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes).replace(
        student=student,
        teacher={name: student[name] for name in shapes.teacher},
        averages=dict.fromkeys(shapes.averages, student["encoder"]),
    )
    return jax.tree.map(lambda x, where: jax.device_put(x, where.sharding), state, shapes)


def fresh(objective, tx, spec, mesh, seed=0, averages=0):
    """A state of drawn weights of adapters and decoder, and zeros; nothing is compiled for it."""
    import jax

    from mmv_jax.train.state import shapes_of_state

    shapes = shapes_of_state(objective, tx, spec, mesh, seed=seed, averages=averages)
    rng = np.random.default_rng(0)

    def draw(path, x):
        drawn = path[0].key == "decoder" or path[-1].key == "down"
        value = 0.1 * rng.normal(size=x.shape) if drawn else np.zeros(x.shape)
        return value.astype(x.dtype)

    student = jax.tree_util.tree_map_with_path(draw, shapes.student)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes).replace(
        student=student, teacher={name: student[name] for name in shapes.teacher}
    )
    return jax.tree.map(lambda x, where: jax.device_put(x, where.sharding), state, shapes)


def draw_begin(monkeypatch) -> None:
    """Lets runs begin with a `drawn_state`."""
    from mmv_jax.train import loop

    def begun(*given, seed, **named):
        return drawn_state(loop.shapes_of_state(*given, seed=seed, **named), seed)

    monkeypatch.setattr(loop, "init_state", begun)


def loss_alone(objective, tx, ema, state, mesh):
    """A step that computes the loss and leaves the state: compiled in a third of the time."""
    import jax

    none = dict.fromkeys(("grad_norm", "skipped", "spike", "momentum", "studies", "tokens"), 0)

    @jax.jit
    def step(state, batch, limits=None):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        given = {"teacher": state.teacher, "batch": batch, "key": key, "step": state.step}
        loss, seen = objective.loss(state.student, **given)
        return state.replace(step=state.step + 1), none | seen | {"loss": loss}

    return step


def made_once(name: str, part: str, make):
    def made(*given, **named):
        if (name, part) not in MADE:
            MADE[name, part] = make(*given, **named)
        return MADE[name, part]

    return made


def on_one_device(monkeypatch) -> None:
    """Lets runs of this process take one of its eight devices.

    Eight of them share two cores and wait for each other, which takes most of a short run. What
    they compute together is the subject of test_loop.py.
    """
    import jax

    from mmv_jax.parallel import make_mesh
    from mmv_jax.train import loop

    one = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", wraps(make_mesh)(lambda **axes: one))


def get_config() -> ConfigDict:
    return nano_config()
