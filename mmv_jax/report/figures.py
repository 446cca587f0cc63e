"""Numbers to pictures: inline SVG for what has lines, PNG for what has pixels. Every function
returns a piece of HTML.

Colours are those of Okabe and Ito, which readers with a colour-vision deficiency tell apart.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

COLOURS = ("#0072B2", "#E69F00", "#888888", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
MARKS = "oDs^"
STYLE: dict[Any, Any] = {  # matplotlib types the names of its settings one by one
    "svg.fonttype": "none",  # text stays text: small files, and it can be searched
    "svg.hashsalt": "mmv_jax",  # the same numbers give the same file
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Curves = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]  # by task and series
# inches of a figure: on a phone it shrinks to three quarters, and its text stays legible
WIDTH = 5.2


@dataclass(frozen=True)
class Bar:
    """A value with its interval, as one line of a forest plot."""

    group: str
    series: str
    value: float
    low: float
    high: float


def forest(bars: Sequence[Bar], label: str, reference: float | None = None) -> str:
    """Values with intervals, grouped by task, one colour a series, and another mark where the
    colours begin anew; `reference`: such as chance.
    """
    groups, series = (
        list(dict.fromkeys(b.group for b in bars)),
        list(dict.fromkeys(b.series for b in bars)),
    )
    looks = [
        (COLOURS[n % len(COLOURS)], MARKS[n // len(COLOURS) % len(MARKS)])
        for n in range(len(series))
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH, 0.8 + 0.21 * len(bars) + 0.14 * len(groups)), layout="constrained"
        )
        axes = figure.add_subplot()
        for bar in bars:
            y = groups.index(bar.group) * (len(series) + 0.6) + series.index(bar.series)
            colour, mark = looks[series.index(bar.series)]
            axes.plot(
                [bar.low, bar.high],
                [y, y],
                color=colour,
                linewidth=2.2,
                solid_capstyle="butt",
                alpha=0.55,
            )
            axes.plot(bar.value, y, mark, color=colour, markersize=5)
        for (colour, mark), name in zip(looks, series):
            axes.plot([], [], f"{mark}-", color=colour, label=name)
        if reference is not None:
            axes.axvline(reference, color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.set_yticks(
            [n * (len(series) + 0.6) + (len(series) - 1) / 2 for n in range(len(groups))], groups
        )
        axes.set_ylim(len(groups) * (len(series) + 0.6) - 0.9, -0.7)  # the first group on top
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
        axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(
            loc="outside upper left", ncols=min(len(series), 4), frameon=False, fontsize=9.5
        )
        return svg(figure, f"{label} with 95 % intervals")


def roc_curves(curves: Curves) -> str:
    """One panel a task, one curve a series; `curves[task][series]` is (truth, score)."""

    def draw(axes: Axes, task: str, named: Mapping[str, Any], colours: Mapping[str, str]) -> None:
        _unit_square(axes, "1 − specificity", "sensitivity")
        for name, (truth, score) in named.items():
            x, y, _ = roc_curve(truth, score)
            axes.plot(x, y, color=colours[name], linewidth=1.6, label=name)

    return _panels(curves, draw, "ROC curves")


def growth_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, Bar]]]], label: Mapping[str, str]
) -> str:
    """One panel a task, one line a series over a logarithmic axis; `curves[task][series]` is
    (patients, value with interval), ascending.
    """

    def draw(axes: Axes, task: str, named: Mapping[str, Any], colours: Mapping[str, str]) -> None:
        for name, points in named.items():
            x = [patients for patients, _ in points]
            axes.fill_between(
                x,
                [b.low for _, b in points],
                [b.high for _, b in points],
                color=colours[name],
                alpha=0.12,
                linewidth=0,
            )
            axes.plot(
                x,
                [b.value for _, b in points],
                "o-",
                color=colours[name],
                linewidth=1.6,
                markersize=3.5,
                label=name,
            )
        ticks = sorted({patients for points in named.values() for patients, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="training patients", ylabel=label[task])

    return _panels(curves, draw, "Few-shot curves")


def reliability(curves: Curves) -> str:
    """One panel a task, one line a series: how often a thing is seen where it was said to be so
    probable; `curves[task][series]` is (said, seen).
    """

    def draw(axes: Axes, task: str, named: Mapping[str, Any], colours: Mapping[str, str]) -> None:
        _unit_square(axes, "probability", "frequency")
        for name, (said, seen) in named.items():
            axes.plot(
                said, seen, "o-", color=colours[name], linewidth=1.4, markersize=3.5, label=name
            )

    return _panels(curves, draw, "Calibration")


def _unit_square(axes: Axes, across: str, up: str) -> None:
    """Both axes from 0 to 1, with the diagonal."""
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=0.8)
    axes.set(
        aspect="equal",
        xticks=[0, 0.5, 1],
        yticks=[0, 0.5, 1],
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel=across,
        ylabel=up,
    )


def _panels(
    curves: Mapping[str, Mapping[str, Any]],
    draw: Callable[[Axes, str, Mapping[str, Any], Mapping[str, str]], None],
    alt: str,
) -> str:
    """One panel a task, two beside each other, each drawn by `draw`; a series has one colour
    throughout, and one legend names them all.
    """
    columns = min(2, len(curves))
    rows = -(-len(curves) // columns)
    series = list(dict.fromkeys(name for named in curves.values() for name in named))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(series)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH * (0.55 if columns == 1 else 1), 2.9 * rows + 0.3), layout="constrained"
        )
        named_lines: dict[str, Any] = {}  # not every task has every series
        for n, (task, named) in enumerate(curves.items()):
            axes = figure.add_subplot(rows, columns, n + 1)
            draw(axes, task, named, colours)
            axes.set_title(task)
            handles, labels = axes.get_legend_handles_labels()
            named_lines |= dict(zip(labels, handles))
        figure.legend(
            [named_lines[name] for name in series],
            series,
            loc="outside upper left",
            ncols=min(len(series), 4),
            frameon=False,
            fontsize=9.5,
        )
        return svg(figure, alt)


def picture(
    values: Float[np.ndarray, "h w"] | Float[np.ndarray, "h w 3"], alt: str, size: int = 256
) -> str:
    """An image in [0, 1] (grey or RGB), enlarged so that a side has about `size` pixels."""
    from PIL import Image

    pixels = Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
    factor = size / max(pixels.size)
    pixels = pixels.resize(
        (max(round(pixels.width * factor), 1), max(round(pixels.height * factor), 1)),
        Image.Resampling.BICUBIC,
    )
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG", optimize=True)
    return (
        f'<img alt="{html.escape(alt)}"'
        f' src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )


def outlined(
    grey: Float[np.ndarray, "h w"],
    masks: Sequence[tuple[Bool[np.ndarray, "h w"], str]],
    alt: str,
    size: int = 384,
) -> str:
    """A grey image with the outline of each mask in its colour (`#rrggbb`); later outlines are
    thinner, so that equal ones both show.
    """
    from PIL import Image
    from scipy import ndimage

    factor = max(1, size // max(grey.shape))
    large_grey = Image.fromarray(grey.astype(np.float32)).resize(
        (grey.shape[1] * factor, grey.shape[0] * factor)
    )
    rgb = np.repeat(np.asarray(large_grey)[..., None], 3, axis=2)
    for n, (mask, colour) in enumerate(masks):
        large = np.kron(mask, np.ones((factor, factor), bool))
        edge = large & ~ndimage.binary_erosion(
            large, iterations=max(1, round(0.01 * max(large.shape) / 2**n)), border_value=0
        )
        rgb[edge] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return picture(rgb, alt, size)


def feature_colours(tokens: Sequence[Float[np.ndarray, "_ D"]]) -> list[Float[np.ndarray, "_ 3"]]:
    """The first three principal components of the patch tokens of several studies, as colours that
    mean the same in all of them.
    """
    joined = np.concatenate(tokens).astype(np.float64)
    joined -= joined.mean(axis=0)[None]
    axes = np.linalg.eigh(joined.T @ joined)[1][:, ::-1][:, :3]
    # an eigenvector has no sign of its own
    axes *= np.where(np.abs(axes).max(axis=0) == axes.max(axis=0), 1.0, -1.0)[None]
    scores = joined @ axes
    scores = np.pad(scores, ((0, 0), (0, 3 - scores.shape[1])))
    low, high = np.percentile(scores, [2, 98], axis=0)
    colours = np.clip((scores - low[None]) / np.maximum(high - low, 1e-12)[None], 0, 1)
    return np.split(colours, np.cumsum([len(t) for t in tokens])[:-1])


def colour_map(
    colours: Float[np.ndarray, "n 3"], kept: Bool[np.ndarray, "ty tx"], shape: tuple[int, int]
) -> Float[np.ndarray, "h w 3"]:
    """Colours of kept patches spread smoothly over a picture; black where no patch was kept."""
    from scipy import ndimage

    grid = np.zeros((*kept.shape, 3))
    grid[kept] = colours
    # A dropped patch takes the colour of its nearest kept one before the smoothing, so that black
    # does not bleed in.
    nearest = ndimage.distance_transform_edt(~kept, return_distances=False, return_indices=True)
    grid = grid[tuple(nearest)]
    zoom = [s / t for s, t in zip(shape, kept.shape)]
    smooth = np.stack(
        [
            ndimage.zoom(grid[..., c], zoom, order=1, mode="nearest", grid_mode=True)
            for c in range(3)
        ],
        axis=-1,
    )
    shown = np.kron(kept, np.ones([round(z) for z in zoom], bool))[: shape[0], : shape[1]]
    return np.clip(smooth, 0, 1) * shown[..., None]


def svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Without width and height the figure takes the width of its column, down to a phone's.
    head, rest = text.split(">", 1)
    width = re.search(r'width="([\d.]+)pt"', head)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    limit = f"max-width:{float(width.group(1)) * 4 / 3:.0f}px" if width else ""
    return f'{head} role="img" aria-label="{html.escape(title)}" style="width:100%;{limit}">{rest}'
