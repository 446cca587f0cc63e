"""Figures of a report: plots as data for lines, PNG for pixels.

Colours are those of Okabe and Ito, which readers with a colour-vision deficiency can distinguish.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from mmv_jax.metrics.scores import roc_curve
from mmv_jax.report.plots import PlotGrid, PlotLine, PlotPanel, thinned

STYLE: dict[Any, Any] = {  # matplotlib types the names of its settings one by one
    "svg.fonttype": "none",  # text stays text: small files, and it can be searched
    "svg.hashsalt": "mmv_jax",  # the same numbers give the same file
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Curves = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]  # by task and series
# Width of a figure in inches; a wide page shows two side by side.
WIDTH = 5.2
ROC_POINTS = 60  # points kept of a curve: enough for a smooth line on a screen
# Colours in which a figure is drawn, and the page's variables for them, which a dark page changes.
PAGE_COLOURS = {
    "#(?:000000|1c2430)": "currentColor",
    "#(?:eeeeee|cccccc|bbbbbb)": "var(--line)",
    "#(?:999999|5c6675)": "var(--soft)",
    "#ffffff": "var(--ground)",
}


def roc_curves(curves: Curves) -> PlotGrid:
    """One panel a task, one curve a series; `curves[task][series]` is (truth, score)."""

    def line(name: str, truth: np.ndarray, score: np.ndarray) -> PlotLine:
        # A curve has a point for each score: kept whole, it would swell the page.
        x, y, _ = roc_curve(truth, score)
        kept = thinned(x, y, ROC_POINTS)
        tips = [f"{name}: sensitivity {b:.2f} at specificity {1 - a:.2f}" for a, b in zip(x, y)]
        return PlotLine(
            name,
            [round(float(a), 4) for a in x[kept]],
            [round(float(b), 4) for b in y[kept]],
            tips=[tips[i] for i in kept],
            dots=False,
        )

    axes = "1 − specificity", "sensitivity"
    return PlotGrid("ROC curves", _square_panels(curves, axes, line))


def growth_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float, float, float]]]],
    label: Mapping[str, str],
) -> PlotGrid:
    """One panel a task, one line a series, with a logarithmic x axis.

    `curves[task][series]` is (patients, value, low, high), ascending; `label` names each task's
    values.
    """

    def line(task: str, name: str, points: Sequence[tuple[int, float, float, float]]) -> PlotLine:
        return PlotLine(
            name,
            [patients for patients, *_ in points],
            [value for _, value, *_ in points],
            tips=[
                f"{name}, {patients} patients: {label[task]} {value:.3f}"
                + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")
                for patients, value, low, high in points
            ],
            band=[(low, high) for *_, low, high in points],
        )

    panels = []
    for task, named in curves.items():
        ticks = sorted({point[0] for points in named.values() for point in points})
        lines = [line(task, name, points) for name, points in named.items()]
        panels.append(PlotPanel(task, "labelled patients", label[task], lines, x_ticks=ticks))
    return PlotGrid("Few-shot curves", panels)


def reliability(curves: Curves) -> PlotGrid:
    """Reliability diagrams: observed frequency by predicted probability.

    One panel a task, one line a series; `curves[task][series]` is (predicted, observed).
    """

    def line(name: str, said: np.ndarray, seen: np.ndarray) -> PlotLine:
        return PlotLine(
            name,
            said.tolist(),
            seen.tolist(),
            tips=[f"{name}: said {a:.2f}, seen {b:.2f}" for a, b in zip(said, seen)],
        )

    axes = "probability", "frequency"
    return PlotGrid("Calibration", _square_panels(curves, axes, line))


def _square_panels(
    curves: Curves, axes: tuple[str, str], line: Callable[..., PlotLine]
) -> list[PlotPanel]:
    """A panel a task, with both axes from 0 to 1; `line` draws one series."""
    across, up = axes
    return [
        PlotPanel(
            task, across, up, [line(name, *pair) for name, pair in named.items()], square=True
        )
        for task, named in curves.items()
    ]


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
    pixels.save(buffer, "PNG")
    return (
        f'<img alt="{html.escape(alt)}"'
        f' src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )


def outlined(
    grey: Float[np.ndarray, "h w"],
    masks: Sequence[tuple[Bool[np.ndarray, "h w"], str]],
    alt: str,
    size: int = 384,
    thinner: float = 2.0,
) -> str:
    """A grey image with the outline of each mask in its colour (`#rrggbb`).

    Each outline is `thinner` times as thin as the one before, so that equal ones remain visible.
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
        # `border_value=0` closes the outline at the edge of the image.
        edge = large & ~ndimage.binary_erosion(
            large, iterations=max(1, round(0.01 * max(large.shape) / thinner**n)), border_value=0
        )
        rgb[edge] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return picture(rgb, alt, size)


def feature_colours(tokens: Sequence[Float[np.ndarray, "_ D"]]) -> list[Float[np.ndarray, "_ 3"]]:
    """The first three principal components of the patch tokens of several studies, as colours.

    A colour means the same in all of these studies.
    """
    joined = np.concatenate(tokens).astype(np.float64)
    joined -= joined.mean(axis=0)[None]
    # eigh sorts ascending: the last three vectors, reversed, are the leading components.
    axes = np.linalg.eigh(joined.T @ joined)[1][:, ::-1][:, :3]
    # The sign of an eigenvector is arbitrary, so the largest entry is made positive.
    axes *= np.where(np.abs(axes).max(axis=0) == axes.max(axis=0), 1.0, -1.0)[None]
    scores = joined @ axes
    # With fewer than three dimensions the missing colours stay 0.
    scores = np.pad(scores, ((0, 0), (0, 3 - scores.shape[1])))
    # Limits over all studies together, so that a colour means the same in each.
    low, high = np.percentile(scores, [2, 98], axis=0)
    colours = np.clip((scores - low[None]) / np.maximum(high - low, 1e-12)[None], 0, 1)
    return np.split(colours, np.cumsum([len(t) for t in tokens])[:-1])


def colour_map(
    colours: Float[np.ndarray, "n 3"], kept: Bool[np.ndarray, "ty tx"], shape: tuple[int, int]
) -> Float[np.ndarray, "h w 3"]:
    """Colours of kept patches, interpolated over a picture; black where no patch was kept."""
    from scipy import ndimage

    grid = np.zeros((*kept.shape, 3))
    grid[kept] = colours
    # Before the smoothing, a dropped patch takes the colour of the nearest kept patch, so that no
    # black is mixed in.
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
    # Dropped patches then become black, as blocks with sharp borders.
    shown = np.kron(kept, np.ones([round(z) for z in zoom], bool))[: shape[0], : shape[1]]
    return np.clip(smooth, 0, 1) * shown[..., None]


def svg(figure: Figure, title: str) -> str:
    """A figure as inline SVG, as wide as its column and in the colours of the page."""
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        bbox_inches="tight",
        transparent=True,
        # No date: the same numbers give the same bytes.
        metadata={"Date": None, "Creator": None},
    )
    text = buffer.getvalue()
    # HTML allows no XML declaration, so the text begins at the tag.
    text = text[text.index("<svg") :]
    for drawn, shown in PAGE_COLOURS.items():
        text = re.sub(drawn, shown, text, flags=re.IGNORECASE)
    head, rest = text.split(">", 1)
    # Without a size of its own the picture is as wide as its column.
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    # A gid that begins with "tip: " becomes a title, which a pointer shows.
    rest = re.sub(r'<g id="tip: ([^"]*)">', r"<g><title>\1</title>", rest)
    return f'{head} role="img" aria-label="{html.escape(title)}">{rest}'
