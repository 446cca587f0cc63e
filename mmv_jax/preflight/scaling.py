"""Weak scaling on paper: a step on ever larger slices, where each chip keeps its number of rows.

    python -m mmv_jax.preflight.scaling FOLDER > docs/measured/weak_scaling.json

Nothing runs. Speeds are those of the chips' table. FLOPs are in closed form. Bytes and memory are
those of compiled steps, from the last two of which larger slices follow.
"""

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmv_jax.chips import CHIPS, Chip
from mmv_jax.config import load_config
from mmv_jax.preflight.appetite import PUBLISHED_MFU
from mmv_jax.preflight.estimate import preflight
from mmv_jax.preflight.topology import parse_topology
from mmv_jax.provenance import now

RUN, ROWS_A_CHIP = "vitb_mimic_ctrate", 16
PLANNED_MFU = 0.4  # what `mmv preflight` reckons with, beside what published runs reach
SLICES = ("v5p:2x2x2", "v5p:4x4x4", "v5p:8x8x8")  # that are compiled
TOTAL = "all kinds"
LARGER = (1024, 2048, 4096)  # chips, which follow from the last two
# A product of float32 to the last bit is six products of bfloat16: KoLeo's, of pairs of crops.
EXACT = 6
KEPT = (
    "flops_per_step",
    "flops_of",
    "products_closed",
    "products_compiled",
    "memory_bytes_per_device",
    "memory_of",
    "collectives",
    "compile_s",
)


def grown(few: Mapping[str, Any], many: Mapping[str, Any], chips: int) -> dict[str, Any]:
    """The figures of more chips, from those of two slices.

    A chip's own products stay the same. KoLeo's grow with the chips as between the two slices: with
    their number in groups of rows, with its square among all rows. What a chip sends grows with the
    crops of a step, which is with the chips. The kinds of collectives are not told apart: the
    compiler writes a gather of all chips as a sum from some number of chips on.
    """
    ratio, pairs = chips / many["chips"], many["flops_of"]["koleo"]
    power = math.log(pairs / few["flops_of"]["koleo"]) / math.log(many["chips"] / few["chips"])
    sent = [sum(found["collectives"].values()) for found in (few, many)]
    # The compiler's choices may differ by a little: what a chip sends does not fall.
    each = max(sent[1] - sent[0], 0.0) / (many["chips"] - few["chips"])
    return {
        "chips": chips,
        "flops_per_step": (many["flops_per_step"] - pairs) * ratio + pairs * ratio**power,
        "flops_of": {"koleo": pairs * ratio**power},
        "collectives": {TOTAL: sent[1] + each * (chips - many["chips"])},
    }


def of_slice(config: ConfigDict, name: str) -> dict[str, Any]:
    """The figures of the step that a slice's chips take with `ROWS_A_CHIP` rows each."""
    own, place = ConfigDict(config.to_dict()), parse_topology(name)
    own.rows.per_step = ROWS_A_CHIP * place.devices
    found = preflight(own, name, None, mfu=PUBLISHED_MFU).as_json()
    sizes = {"chips": place.devices, "fsdp": found["mesh"]["fsdp"]}
    return sizes | {key: found[key] for key in KEPT}


def seconds_of(found: Mapping[str, Any], chip: Chip, mfu: float) -> tuple[float, float]:
    """Seconds of a step that its products take, and that its collectives take.

    Args:
      found: as `of_slice` returns it.
      mfu: of all products outside KoLeo, which grow with the rows of a chip alone. KoLeo's are
        counted at the same utilisation.
    """
    pairs = found["flops_of"].get("koleo", 0)
    products = found["flops_per_step"] + (EXACT - 1) * pairs
    # A ring along one side of the slice uses two of a chip's six links.
    along_a_side = chip.interconnect / chip.sides
    sent = sum(found["collectives"].values())
    return products / (mfu * found["chips"] * chip.flops), sent / along_a_side


def table(each: Sequence[Mapping[str, Any]], chip: Chip, mfu: float) -> dict[str, Any]:
    """Figures by the number of chips, in the layout of docs/measured."""
    columns: dict[str, dict[str, Any]] = {}
    first = sum(seconds_of(each[0], chip, mfu))
    base = seconds_of(each[0], chip, mfu)[0]
    for found in each:
        chips = found["chips"]
        products, sends = seconds_of(found, chip, mfu)
        figures = {
            "rows of a step": ROWS_A_CHIP * chips,
            "needed TFLOP, a chip": _short(found["flops_per_step"] / chips / 1e12),
            "of these KoLeo's pairs": _percent(found["flops_of"]["koleo"], found["flops_per_step"]),
            **_beside_closed_form(found),
            **_sent(found),
            f"products at {mfu:.0%} MFU, s": _short(products),
            "collectives along one side, s": _short(sends),
            "efficiency, nothing overlaps": _percent(first, products + sends),
            "efficiency, all overlaps": _percent(base, max(products, sends)),
        }
        compiled = ", compiled" if "compile_s" in found else ""
        columns[f"{chips:,} chips{compiled}"] = {
            name: {"text": value} if isinstance(value, str) else {"value": value}
            for name, value in figures.items()
        }
    return columns


def _sent(found: Mapping[str, Any]) -> dict[str, float]:
    """GiB that a chip sends, by the kind of collective where a step was compiled."""
    of_kind = {kind: held for kind, held in found["collectives"].items() if held >= 2**20}
    parts = {kind: of_kind[kind] for kind in sorted(of_kind) if kind != TOTAL}
    parts[TOTAL] = sum(found["collectives"].values())
    return {f"sent by a chip, {kind}, GiB": _short(held / 2**30) for kind, held in parts.items()}


def _beside_closed_form(found: Mapping[str, Any]) -> dict[str, Any]:
    """How far the compiler's figures are from the closed forms, where a step was compiled."""
    if "compile_s" not in found:
        return {}
    memory = found["memory_bytes_per_device"] / sum(found["memory_of"].values())
    products = found["products_compiled"] / found["products_closed"]
    return {
        "memory of a chip, GiB": _short(found["memory_bytes_per_device"] / 2**30),
        "products, compiler beside closed form": _signed(products - 1),
        "memory, compiler beside closed form": _signed(memory - 1),
    }


def _short(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f} %"


def picture(each: Sequence[Mapping[str, Any]], chip: Chip, mfu: float) -> str:
    """Efficiency by the number of chips, as SVG."""
    # Here, since the figures alone need no drawing.
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8, 2.6))
    axes, chips = figure.add_subplot(), [found["chips"] for found in each]
    for share in (mfu, PLANNED_MFU):
        took = [seconds_of(found, chip, share) for found in each]
        apart = [sum(took[0]) / sum(own) for own in took]
        (line,) = axes.plot(chips, apart, marker="o", label=f"{share:.0%} MFU, nothing overlaps")
        together = [took[0][0] / max(own) for own in took]
        axes.plot(
            chips, together, "--", color=line.get_color(), label=f"{share:.0%} MFU, all overlaps"
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(chips, [f"{n:,}" for n in chips], fontsize=7)
    axes.set(xlabel=f"chips, {ROWS_A_CHIP} rows each", ylabel="efficiency", ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=7, loc="lower left")
    text = io.StringIO()
    # No date and fixed names: the same figures give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "mmv_jax"}):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return text.getvalue()


def main(folder: Path) -> None:
    """Print the table as JSON; write the picture, and what each compilation gave, to a folder.

    A slice whose figures are there already is not compiled again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, each = load_config(RUN), []
    for name in SLICES:
        file = folder / f"{name.replace(':', '-')}.json"
        if not file.exists():
            file.write_text(json.dumps(of_slice(config, name), indent=1))
        each.append(json.loads(file.read_text()))
        print(f"{name}: compiled in {each[-1]['compile_s']:.0f} s", file=sys.stderr, flush=True)
    chip = CHIPS[SLICES[0].partition(":")[0]]
    few, many = each[-2:]
    each += [grown(few, many, chips) for chips in LARGER]
    (folder / "weak_scaling.svg").write_text(picture(each, chip, PUBLISHED_MFU))
    found = {
        "command": "python -m mmv_jax.preflight.scaling FOLDER",
        "date": now(),
        "machine": "none: by the TPU's compiler and the table of chips",
        "head": ["run", "figure"],
        "metrics": {f"{RUN}, {ROWS_A_CHIP} rows a chip": table(each, chip, PUBLISHED_MFU)},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
