"""A whole ViT-S training step (student, teacher, optimizer) on packed rows, and the same in
PyTorch.

PyTorch loops over lengths or pads.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import jax
import numpy as np
from ml_collections import ConfigDict

from mmv_jax.bench.run import NO_TORCH, case, in_turn, seconds, use_every_core, worker
from mmv_jax.models.encoder import SIZES
from mmv_jax.models.kinds import CLS, PATCH, REGISTER
from mmv_jax.parallel import make_mesh, on_mesh, row_sharding
from mmv_jax.train.loop import make_parts, row_shape
from mmv_jax.train.state import init_state
from mmv_jax.train.step import jit_step

PEERS = {"lengths": "PyTorch, a loop over lengths", "padded": "PyTorch, padded"}


@dataclass(frozen=True)
class Crop:
    """A segment: its study, its tokens with CLS and registers, and its masked patches (iBOT)."""

    study: int
    is_global: bool
    tokens: int
    masked: int = 0


@dataclass(frozen=True)
class TimedRows:
    """The work of a step: DINO and iBOT over rows of `length` tokens.

    The global crops of a row come first and end before `prefix`.
    """

    name: str
    length: int
    prefix: int
    rows: tuple[tuple[Crop, ...], ...]
    size: str = "S"
    patch: tuple[int, int, int] = (8, 16, 16)
    registers: int = 4
    prototypes: int = 4096
    hidden: int = 1024
    bottleneck: int = 256


def equal_crops(rows: int = 2, length: int = 2048, tokens: int = 512) -> TimedRows:
    """Rows of two global views of each study, all of one length: no padding, and one batch for
    PyTorch.
    """
    count = length // tokens
    made = tuple(
        tuple(
            # Two views in a row are of one study; every second one is masked, a quarter of it.
            Crop(rows * length + r * count + i // 2, True, tokens, i % 2 * tokens // 4)
            for i in range(count)
        )
        for r in range(rows)
    )
    return TimedRows(f"{rows} rows of {length}, crops of {tokens}", length, length, made)


def mixed_crops(rows: int = 2, length: int = 2048, seed: int = 0) -> TimedRows:
    """Rows of radiographs and CTs as in multi-crop training, two global and four local views each.

    Patches without content are left out.
    """
    rng = np.random.default_rng(seed)
    made, study = [], 0
    for _ in range(rows):
        front: list[Crop] = []
        back: list[Crop] = []
        while True:
            # Tokens of global and of local crops. Every third study is a CT, the others are planar.
            span, local = ((350, 540), (30, 64)) if study % 3 == 0 else ((120, 201), (18, 41))
            sizes = [int(n) for n in (*rng.integers(*span, 2), *rng.integers(*local, 4))]
            # All crops of a study are in one row, so a study that does not fit ends the row.
            if sum(crop.tokens for crop in front + back) + sum(sizes) > length:
                break
            # Global crops go first: the teacher reads only the prefix.
            # The second global crop of each study has 30 % of its tokens masked.
            front += [Crop(study, True, n, i * n * 3 // 10) for i, n in enumerate(sizes[:2])]
            back += [Crop(study, False, n) for n in sizes[2:]]
            study += 1
        made.append((*front, *back))
        study += -study % 3  # every row begins with a CT
    # The longest of all rows: a batch has one shape.
    prefix = max(sum(crop.tokens for crop in row if crop.is_global) for row in made)
    lengths = [crop.tokens for row in made for crop in row]
    return TimedRows(
        f"{rows} rows of {length}, {len(lengths)} crops of {min(lengths)} to {max(lengths)}",
        length,
        # Rounded up to a multiple of 64 tokens.
        -(-prefix // 64) * 64,
        tuple(made),
    )


def bench_step(works: Sequence[TimedRows] | None = None, turns: int = 3) -> dict:
    """Median times of steps, in turn.

    PyTorch (extra `torch`) runs in a second process; without it its cases are left out.

    Returns:
      `{"bench": "step", "cases": [...], "notes": [...]}`; cases as `mmv bench --json` prints them.
    """
    use_every_core()
    cases, notes = [], []
    with_torch = find_spec("torch") is not None
    if not with_torch:
        notes.append(NO_TORCH)
    for work in works or (equal_crops(), mixed_crops()):
        if with_torch:
            described = json.dumps(describe(work))
            with (
                worker("mmv_jax.bench.torch_step", "lengths", described) as lengths,
                worker("mmv_jax.bench.torch_step", "padded", described) as padded,
            ):
                # Both processes stay alive through all turns, so that every turn times all three.
                median = in_turn(
                    {"ours": step_of(work), "lengths": lengths, "padded": padded}, turns
                )
            cases += [
                case(work.name, median["ours"], median[name], peer) for name, peer in PEERS.items()
            ]
        else:
            median = in_turn({"ours": step_of(work)}, turns)
        tokens = sum(crop.tokens for row in work.rows for crop in row)
        speeds = ", ".join(f"{name} {tokens / s:,.0f}" for name, s in median.items())
        notes.append(f"{work.name}: tokens a second: {speeds}.")
    return {"bench": "step", "cases": cases, "notes": notes}


def describe(work: TimedRows) -> dict:
    """The work with the numbers of its encoder size, as PyTorch needs them."""
    return asdict(work) | dict(zip(("width", "depth", "heads"), SIZES[work.size]))


def config_of(work: TimedRows) -> ConfigDict:
    """The config of a run with such rows.

    It has one device a core if their number divides the rows, each with its part of the state.
    """
    devices = jax.device_count() if len(work.rows) % jax.device_count() == 0 else 1
    c = ConfigDict({"steps": 1000, "mesh": {"data": 1, "fsdp": devices}})
    c.rows = {
        "length": work.length,
        "prefix": work.prefix,
        "segments": max(map(len, work.rows)),
        "per_step": len(work.rows),
    }
    # A run has views; the rows here are given, and no pass reads what these would show.
    view = {"globals": 2, "global_grid": tuple(8 * side for side in work.patch)}
    c.crops = {"planar": {**view, "global_scale": (1.0, 1.0)}}
    c.crops.volume = c.crops.planar
    c.encoder = {"size": work.size, "patch": work.patch, "registers": work.registers}
    # DINO and iBOT alone, as in the PyTorch step: it has no decoder and no KoLeo term.
    c.objective = {
        "mae": 0.0,
        "dino": 1.0,
        "ibot": 1.0,
        "koleo": 0.0,
        "decoder_width": 0,
        "decoder_depth": 0,
        "decoder_heads": 1,
    }
    c.objective.update(
        {name: getattr(work, name) for name in ("prototypes", "hidden", "bottleneck")}
    )
    c.optimizer = {"peak_lr": 1e-4, "at_rows": len(work.rows), "warmup": 0.1, "weight_decay": 0.04}
    c.ema = {"start": 0.994, "at_rows": len(work.rows)}
    # Only masked reconstruction hides tokens from the encoder, and it is off.
    c.rows.visible_share = None
    return c


def make_batch(work: TimedRows) -> dict[str, np.ndarray]:
    """The rows as `data/` would make them, with noise as voxels."""
    rng = np.random.default_rng(0)
    shape = row_shape(config_of(work))
    batch = shape.empty(len(work.rows))
    for b, row in enumerate(work.rows):
        at = 0
        masked: list[int] = []
        for segment, crop in enumerate(row):
            # CLS and registers come before the patches, of which `first` is the first.
            first, end = at + shape.special, at + crop.tokens
            batch["patches"][b, first:end] = rng.standard_normal(
                (end - first, batch["patches"].shape[-1]), np.float32
            )
            batch["coords_mm"][b, at:end] = rng.uniform(0, 300, (crop.tokens, 3))
            batch["kinds"][b, at:first] = [CLS, *range(REGISTER, REGISTER + work.registers)]
            batch["kinds"][b, first:end] = PATCH
            # 0 is padding.
            batch["segment_ids"][b, at:end] = segment + 1
            for name, value in (
                ("study", crop.study),
                ("is_global", crop.is_global),
                ("cls_index", at),
            ):
                batch[name][b, segment] = value
            # The first patches of a crop, as in `torch_step.make_groups`.
            masked += range(first, first + crop.masked)
            at = end
        batch["masked"][b, masked] = True
        batch["masked_index"][b, : len(masked)] = masked
    return batch


def step_of(work: TimedRows) -> Callable[[], float]:
    """A function that takes the next step of a run and returns its seconds."""
    config = config_of(work)
    mesh = make_mesh(**config.mesh, devices=jax.devices()[: config.mesh.fsdp])
    objective, tx, ema = make_parts(config)
    batch = {
        name: jax.device_put(value, row_sharding(mesh)) for name, value in make_batch(work).items()
    }
    state = init_state(
        objective,
        tx,
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()},
        mesh,
        seed=0,
    )
    step = jit_step(objective, tx, ema=ema, state=state, mesh=mesh)

    def advance():
        # The step donates its state, so each call must start from the state that the last returned.
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    def run() -> float:
        with on_mesh(mesh):
            return seconds(advance)

    return run
