"""The input beside its peers: crops of a CT, rows a second of a host, and what a step consumes."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import mmv_jax
from mmv_jax.bench.crop_peers import bytes_of, crop_readers
from mmv_jax.bench.published_store import PUBLISHED, Collection, body, thinned, write_published
from mmv_jax.bench.row_rates import Rate, row_rates
from mmv_jax.bench.run import case, in_turn, seconds
from mmv_jax.chips import CHIPS
from mmv_jax.config import load_config
from mmv_jax.data.crops import DRAWS, Geometry, View, draw_crops
from mmv_jax.data.resample import read_crop
from mmv_jax.preflight.appetite import PUBLISHED_MFU, appetite, flops_of_step
from mmv_jax.provenance import now
from mmv_jax.store.read import Store
from mmv_jax.train.loop import make_rows

GRID = (300, 512, 512)  # z, y, x
CROP = (64, 128, 128)
CROPS_A_TURN = 8  # from the store; only one from a peer, most of which are slower
PATCH = (8, 16, 16)
VIEWS = [  # of a CT in experiments/vitl_pod.py
    View(name="global", count=2, grid=(64, 160, 160), scale=(0.32, 1.0), is_global=True),
    View(name="local", count=8, grid=(32, 64, 64), scale=(0.05, 0.32), is_global=False),
]
RUN, POD = "vitb_mimic_ctrate", ("v5p", 64)  # v5p:4x4x4
PLANNED_MFU = 0.4  # what `mmv preflight` reckons with: an input that keeps up then always does
# A step of ViT-S on two cores: 124 to 127 GFLOP/s (`mmv bench step`), where products alone reach 88
# on each core.
SHARE_HERE = 0.72
# Rows are timed on one of 16 lines: their rate is the same, and so the epochs ahead are planned
# before the timing begins. The plan of all lines is timed alone.
THIN = 16
OURS, BEFORE = "this version", "before"
RATIO = "times as long as this version, by the wall clock"


def bench_input(
    grid: tuple[int, int, int] = GRID,
    crop: tuple[int, int, int] = CROP,
    turns: int = 5,
    collections: Sequence[Collection] = PUBLISHED,
    workers: Sequence[int] | None = None,
    config: ConfigDict | None = None,
    before: str | None = None,
) -> dict:
    """Crops and rows beside their peers, and beside what a step consumes.

    All files are in the system's cache: bytes read a row say what a storage must give.

    Args:
      grid, crop: of the volume that crops are read from.
      collections: of the store that rows are made from.
      workers: numbers of worker processes; by default 1, 2, 4, ... up to the number of cores.
      config: of the rows; by default that of `RUN`.
      before: a checkout of another version, whose rows are made in turn.
    Returns:
      `{"bench": "input", "cases": [...], "notes": [...], ...}`; cases as `mmv bench --json` prints
      them, `metrics` as docs/hooks/tables.py reads them.
    """
    config = config or load_config(RUN)
    cores = os.cpu_count() or 1
    workers = workers or [2**n for n in range(cores.bit_length()) if 2**n <= cores]
    with tempfile.TemporaryDirectory() as folder:
        of_crops = _crops(Path(folder), grid, crop, turns)
    with tempfile.TemporaryDirectory() as folder:
        store = write_published(Path(folder) / "store", collections)
        versions = {OURS: str(Path(mmv_jax.__file__).parents[1])}
        versions |= {BEFORE: before} if before else {}
        rates = row_rates(thinned(store, THIN), config, versions, workers=workers, turns=turns)
        of_rows = _rows(rates, config, len(store))
        of_rows["metrics"] |= _plan(store, config)
    return {
        "bench": "input",
        "cases": of_crops["cases"] + of_rows["cases"],
        "notes": of_crops["notes"] + of_rows["notes"],
        "command": "mmv bench input --json" + (" --before CHECKOUT" if before else ""),
        "date": now(),
        "machine": f"{cores} cores, {_processor()}",
        "head": ["what", "figure"],
        "metrics": of_crops["metrics"] | of_rows["metrics"],
    }


def _crops(
    folder: Path, grid: tuple[int, int, int], crop: tuple[int, int, int], turns: int
) -> dict[str, Any]:
    """Crops at random places of one volume beside every peer, and of views beside full
    resolution.
    """
    voxels = body(grid)
    store = write_published(folder / "store", [Collection("CT", 1, 1, {grid: 1.0})])
    peers, notes = crop_readers(folder, voxels, crop)
    readers = {OURS: lambda start: store.read_box(0, start, crop), **peers}
    # Starts at which the crop lies inside; integers() excludes its upper end.
    room = np.array([size - side + 1 for size, side in zip(grid, crop, strict=True)])
    place = np.random.default_rng(1).integers(0, room)
    for name in peers:
        # Check first that all read the same voxels: otherwise their speeds mean nothing.
        np.testing.assert_array_equal(readers[OURS](place), readers[name](place), err_msg=name)
    median = {}
    for clock in (time.perf_counter, time.process_time):
        timed = {
            name: _timed(read, room, CROPS_A_TURN if name == OURS else 1, clock)
            for name, read in readers.items()
        }
        median[clock] = in_turn(timed, turns)
    wall = median[time.perf_counter]
    views = in_turn({"levels": _views_of(store), "alone": _views_of(_without_levels(store))}, turns)
    words = f"of a CT of {' x '.join(map(str, grid))}"
    title = f"a crop of {' x '.join(map(str, crop))} {words}"
    cases = [case(title, wall[OURS], wall[name], name) for name in peers]
    count = sum(view.count for view in VIEWS)
    alone = "without its coarser levels"
    cases.append(case(f"the {count} crops {words}", views["levels"], views["alone"], alone))
    figures = {
        title: _beside(wall, {"ms of a core": median[time.process_time]}),
        f"the {count} crops {words}": _beside({OURS: views["levels"], alone: views["alone"]}, {}),
    }
    sizes = [
        f"{entry.name} {bytes_of(entry) / 2**20:.0f} MiB" for entry in sorted(folder.iterdir())
    ]
    return {"cases": cases, "notes": [*notes, f"On disk: {', '.join(sizes)}."], "metrics": figures}


def _beside(
    wall: Mapping[str, float], more: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of readers by name: milliseconds, and how many times as long as ours a peer
    takes.

    Args:
      wall: seconds by the wall clock.
      more: seconds by other clocks, by the name of the figure.
    """
    seconds_of = {"ms by the wall clock": wall, **more}
    figures = {
        name: {words: {"value": _short(1e3 * found[name])} for words, found in seconds_of.items()}
        for name in wall
    }
    for name in wall.keys() - {OURS}:
        figures[name][RATIO] = {"value": _short(wall[name] / wall[OURS])}
    return figures


def _rows(
    rates: Mapping[tuple[str, int], Rate], config: ConfigDict, studies: int
) -> dict[str, Any]:
    """Cases, notes and figures of the rates of rows."""
    cases, figures = [], dict[str, Any]()
    here = _eaten_here(config)
    one = max(rate.rows_per_s / count for (name, count), rate in rates.items() if name == OURS)
    kind, devices = POD
    eaten = {
        mfu: appetite(
            config,
            CHIPS[kind],
            devices,
            step_s=flops_of_step(config) / (mfu * devices * CHIPS[kind].flops),
            worker_rows_per_s=one,
        )
        for mfu in (PLANNED_MFU, PUBLISHED_MFU)
    }
    for (name, count), rate in rates.items():
        title = f"rows of a host, {count} worker{'s' if count > 1 else ''}"
        for metric, value in _figures(rate).items():
            figures.setdefault(title, {}).setdefault(name, {})[metric] = {"value": _short(value)}
        if name == BEFORE:
            cases.append(_rate_case(title, rates[OURS, count].rows_per_s, rate.rows_per_s, BEFORE))
    most = max(rate.rows_per_s for (name, _), rate in rates.items() if name == OURS)
    cases.append(_rate_case("rows of this host", most, here, "ViT-S consumes here"))
    for mfu, found in eaten.items():
        title = f"{RUN} on {kind}, {devices} chips, {mfu:.0%} MFU"
        peer = f"a host's chips consume at {mfu:.0%} MFU"
        cases.append(_rate_case(f"rows of one worker, {title}", one, found.rows_per_s, peer))
        figures[title] = {
            OURS: {
                "rows a second that a host's chips consume": {"value": _short(found.rows_per_s)},
                "workers needed a host": {"value": found.workers_needed},
            }
        }
    figures["ViT-S on this machine's cores"] = {
        OURS: {"rows a second that it consumes": {"value": _short(here)}}
    }
    note = (
        f"{studies:,} lines of an index share a few studies of the published sizes: reads are real,"
        " and come from the system's cache."
    )
    return {"cases": cases, "notes": [note, *_left_out(rates)], "metrics": figures}


def _left_out(rates: Mapping[tuple[str, int], Rate]) -> list[str]:
    """A sentence for each version that does not know all keys of the config."""
    found = {name: rate.left_out for (name, _), rate in rates.items() if rate.left_out}
    return [
        f"{name}: that version does not know {', '.join(f'config.{key}' for key in keys)} and"
        " makes its rows without."
        for name, keys in found.items()
    ]


def _plan(store: Store, config: ConfigDict) -> dict[str, Any]:
    """Seconds that the plan of an epoch takes: once a host, ahead of time."""
    rows = make_rows(store, config)
    start = time.perf_counter()
    rows.plan.pack(0)
    took = {"seconds": {"value": _short(time.perf_counter() - start)}}
    return {f"the plan of an epoch of {rows.lines.count:,} lines": {OURS: took}}


def _figures(rate: Rate) -> dict[str, float]:
    """The figures of a rate that a table shows."""
    return {
        "rows a second": rate.rows_per_s,
        "seconds of a core, a row": rate.cpu_s,
        "ms of the receiving thread, a row": 1e3 * rate.loop_s,
        "MiB to the devices, a row": rate.sent_bytes / 2**20,
        "MiB read from the store, a row": rate.read_bytes / 2**20,
        "seconds until the first batch": rate.first_batch_s,
    }


def _eaten_here(config: ConfigDict) -> float:
    """Rows a second that ViT-S would consume on this machine's cores: FLOPs, a product's speed that
    is measured, and the share of it that a step reaches.
    """
    small = ConfigDict(config.to_dict())
    small.encoder.size = "S"
    side = 2048
    x = jnp.ones((side, side))
    product = jax.jit(jnp.dot)
    took = in_turn({"product": lambda: seconds(product, x, x)}, turns=5)["product"]
    return SHARE_HERE * 2 * side**3 / took * small.rows.per_step / flops_of_step(small)


def _rate_case(title: str, ours: float, peer: float, peer_name: str) -> dict:
    """A case in rows a second, of which more is better."""
    return case(title, 1 / ours, 1 / peer, peer_name) | {
        "ours": ours,
        "peer": peer,
        "unit": "rows/s",
    }


def _timed(
    read: Callable, room: np.ndarray, crops: int, clock: Callable[[], float]
) -> Callable[[], float]:
    # Outside `run`, so that every turn reads other places.
    rng = np.random.default_rng(2)

    def run() -> float:
        places = rng.integers(0, room, (crops, 3))
        start = clock()
        for place in places:
            read(place)
        return (clock() - start) / crops

    return run


def _views_of(store: Store) -> Callable[[], float]:
    # One seed for both stores: they read the same crops.
    geometry, rng = Geometry.of(store.index), np.random.default_rng(3)

    def run() -> float:
        crops = draw_crops(
            geometry, {3: VIEWS}, PATCH, rng.random((1, sum(view.count for view in VIEWS), DRAWS))
        )
        start = time.perf_counter()
        # Drawing the crops is the same for both and is not timed.
        for crop in range(crops.tokens.shape[1]):
            read_crop(store, geometry, 0, crops[0, crop])
        return time.perf_counter() - start

    return run


def _without_levels(store: Store) -> Store:
    """The same files without the pyramid in the index, so full resolution is read."""
    index = store.index.drop(columns=["level_factors", "level_blocks"])
    return Store(store.path, index, store.key_fingerprint)


def _short(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")


def _processor() -> str:
    """The processor's name, as the system states it."""
    found = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return found[0] if found else "unknown"
