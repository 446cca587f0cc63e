"""Maps of pairs: principal components as colours, nearest patches, attention of CLS.

Each stands beside the same encoder on blank studies, which knows positions alone. Radiographs are
shown as they are, volumes by a coronal slice, both with the head above.

Axes: n, m patch tokens, D width, h, w of a picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.data.crops import Geometry
from mmv_jax.evaluate.encoders.attention import cls_attention
from mmv_jax.evaluate.encoders.trained import TrainedEncoder
from mmv_jax.evaluate.pairs.encode import Way
from mmv_jax.evaluate.pairs.find import Pairs
from mmv_jax.evaluate.pairs.position import position_alone
from mmv_jax.evaluate.report.pictures import view
from mmv_jax.metrics.intervals import Interval, bounds_text, interval
from mmv_jax.metrics.retrieval import cosine
from mmv_jax.models.encoder import Encoder
from mmv_jax.report.figures import colour_map, feature_colours, outlined, picture
from mmv_jax.report.page import Cell, Section, Strip, Table
from mmv_jax.store.read import Store

SHOWN, MEASURED = 2, 24  # pairs of test that are drawn, and over which nearest patches are counted
# Marked patches of a radiograph, (row, column) as shares of it; colours of Okabe and Ito.
MARKS = (
    ((0.35, 0.3), "#e69f00", "right lung"),
    ((0.35, 0.7), "#56b4e9", "left lung"),
    ((0.6, 0.55), "#009e73", "heart"),
    ((0.85, 0.35), "#cc79a7", "below the right dome"),
)
HUES = ("orange", "blue", "green", "pink")
NO_MAPS = "Maps are drawn of one ViT of this project that reads both modalities."
IMAGE, BLANK = "the image", "position alone"


class ShownStudy(NamedTuple):
    """One study with its patch tokens.

    Attributes:
      grey: the picture, the head above.
      tokens: [n, D].
      places: of each token (row, column, layer) in the grid of the picture.
      kept: [layers, rows, columns], the patches that there are.
      across_mm: [n, 2], down and to the left of the patient, from the middle of the study.
      attention: of CLS to each token.
    """

    grey: np.ndarray
    tokens: np.ndarray
    places: np.ndarray
    kept: np.ndarray
    across_mm: np.ndarray
    attention: np.ndarray


def map_sections(way: Way, store: Store, pairs: Pairs) -> list[Section]:
    """The maps of a way's first encoder; only words where it is no ViT of this project, or where
    each modality has its own.
    """
    encoder, second = way.fits[0]
    if encoder is not second or not isinstance(encoder, TrainedEncoder):
        return [Section("Maps", [NO_MAPS])]
    if not isinstance(encoder.encoder, Encoder):
        return [Section("Maps", [NO_MAPS])]
    test = np.flatnonzero(pairs.split == "test")
    chosen = test[np.linspace(0, len(test) - 1, min(MEASURED, len(test))).astype(int)]
    shown = chosen[np.linspace(0, len(chosen) - 1, SHOWN).astype(int)]
    seen = {}
    for name, own in ((IMAGE, encoder), (BLANK, position_alone(encoder))):
        seen[name] = [_look(own, store, studies) for studies in pairs.studies[:, chosen]]
    # Both are ascending positions of pairs.
    drawn = np.searchsorted(chosen, shown)
    return [
        _colours(seen, drawn, pairs.names),
        _nearest(seen, drawn, pairs.names),
        _attention(seen, drawn, pairs.names),
    ]


def _look(
    encoder: TrainedEncoder, store: Store, studies: Int[np.ndarray, " N"]
) -> list[ShownStudy]:
    geometry = Geometry.of(store.index)
    attention = cls_attention(encoder, store, np.sort(studies))
    tokens = {e.study: e.patches for e in encoder.encode(store, np.sort(studies))}
    out = []
    for study in studies.tolist():
        crops, kept = encoder.views(geometry[[study]])
        grid = kept[0][tuple(slice(t) for t in crops.tokens[0])]
        grey = view(store, geometry, study, crops[0])
        places = np.argwhere(grid)
        # Centres of patches in voxels from the middle of the crop, which is that of the study.
        middle = (places + 0.5 - np.array(grid.shape) / 2) * np.array(crops.patch)
        mm = middle * float(crops.spacing_mm[0])
        # A radiograph's rows run down along y, a volume's slices run up along z.
        if geometry.planar[study]:
            # [1, row, column]: already a picture.
            places, across = places[:, [1, 2, 0]], mm[:, 1:]
            shown = grey[0]
        else:
            # [z, y, x] with z to the head: rows run against z, layers along y.
            rows = grid.shape[0] - 1 - places[:, 0]
            places = np.stack([rows, places[:, 2], places[:, 1]], axis=1)
            across = np.stack([-mm[:, 0], mm[:, 2]], axis=1)
            grid = np.moveaxis(grid[::-1], 1, 0)
            shown = grey[::-1, grey.shape[1] // 2]
        out.append(
            ShownStudy(
                shown, tokens[study], places, grid, across_mm=across, attention=attention[study]
            )
        )
    return out


def centred(side: Sequence[ShownStudy]) -> list[np.ndarray]:
    """The tokens of studies of one modality without the modality's mean."""
    mean = np.concatenate([one.tokens for one in side]).mean(axis=0)
    return [one.tokens - mean[None] for one in side]


def _on_picture(one: ShownStudy, colours: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """Colours of the patches of the middle layer, over the picture."""
    # The same layer as the picture shows.
    layer = one.kept.shape[0] // 2
    inside = one.places[:, 2] == layer
    # `colour_map` takes colours row by row, and the tokens of a volume come slab by slab.
    order = np.lexsort((one.places[inside, 1], one.places[inside, 0]))
    return colour_map(colours[inside][order], one.kept[layer], one.grey.shape)


def _colours(
    seen: dict[str, list[list[ShownStudy]]], drawn: np.ndarray, names: tuple[str, str]
) -> Section:
    """Principal components of the patches of both modalities together, as red, green and blue."""
    strips = []
    for kind, sides in seen.items():
        # The mean of a modality is that of all studies measured, not of the few that are drawn.
        tokens = [t for side in sides for t in (centred(side)[n] for n in drawn)]
        shades, shares = feature_colours(tokens), explained(tokens)
        images = []
        for side, name in enumerate(names):
            for k, n in enumerate(drawn):
                one = sides[side][n]
                if kind == IMAGE:
                    images.append((picture(one.grey, f"{name} study"), f"{name}, pair {k + 1}"))
                coloured = _on_picture(one, shades[side * len(drawn) + k])
                images.append((picture(coloured, "patch features"), f"{name}, pair {k + 1}"))
        legend = ", ".join(f"{c} {100 * s:.0f} %" for c, s in zip(("red", "green", "blue"), shares))
        strips.append(
            Strip(images, f"Of {kind}. Share of the variance: {legend}.", pairs=kind == IMAGE)
        )
    text = [
        "Red, green and blue are the first three principal components of the patch features of all"
        " studies shown, of both modalities together, after each modality's mean was taken away. A"
        " colour means the same feature in all pictures of a line. The second line is the same"
        " encoder on blank studies: what looks alike there is position, not anatomy."
    ]
    return Section("Maps: features as colours", text, strips=strips)


def explained(tokens: Sequence[Float[np.ndarray, "_ D"]]) -> list[float]:
    """The shares of the variance on the first three principal components."""
    joined = np.concatenate(tokens).astype(np.float64)
    values = np.linalg.svd(joined - joined.mean(axis=0)[None], compute_uv=False) ** 2
    return (values[:3] / max(float(values.sum()), 1e-300)).tolist()


def _nearest(
    seen: dict[str, list[list[ShownStudy]]], drawn: np.ndarray, names: tuple[str, str]
) -> Section:
    """Marked patches of a radiograph and the most similar patch of the other study."""
    strips, lines = [], []
    for kind, (first, second) in seen.items():
        queries, answers = centred(first), centred(second)
        images = []
        for k, n in enumerate(drawn):
            # Of the same patient: the question is where, not who.
            nearest = cosine(queries[n], answers[n]).argmax(axis=1)
            # By place, not by anatomy, which no encoder of patients could be asked for.
            marked = [_marked(first[n], row, column) for (row, column), _, _ in MARKS]
            colours = [colour for _, colour, _ in MARKS]
            left = [_square(first[n], patch) for patch in marked]
            right = [_square(second[n], int(nearest[patch])) for patch in marked]
            for one, name, masks in ((first[n], names[0], left), (second[n], names[1], right)):
                drawing = outlined(
                    one.grey, list(zip(masks, colours)), f"{name} with marks", thinner=1.0
                )
                images.append((drawing, f"{name}, pair {k + 1}"))
        told = ", ".join(f"{name} {hue}" for (*_, name), hue in zip(MARKS, HUES))
        strips.append(Strip(images, f"By {kind}: {told}.", pairs=True))
        lines.append([Cell(f"by {kind}"), *map(_mm, apart(first, second, queries, answers))])
    columns = ["most similar patch", "mm to the same place", "mm of a random patch"]
    text = [
        f"Four patches of a {names[0]} are marked. The square of the same colour in the"
        f" {names[1]} is its most similar patch (cosine, each modality's mean taken away), at any"
        " depth. The table has the mean distance in the frontal plane over all patches of"
        f" {len(seen[IMAGE][0])} test pairs, by patient."
    ]
    return Section(
        "Maps: nearest patches across modalities", text, [Table(columns, lines)], strips=strips
    )


def apart(
    first: Sequence[ShownStudy],
    second: Sequence[ShownStudy],
    queries: Sequence[Float[np.ndarray, "_ D"]],
    answers: Sequence[Float[np.ndarray, "_ D"]],
) -> tuple[Interval, Interval]:
    """Mean mm in the frontal plane from a patch to its most similar one, and to any one."""
    found, chance = [], []
    for a, b, x, y in zip(first, second, queries, answers, strict=True):
        # In the plane of the radiograph, since a projection has no depth.
        away = np.linalg.norm(a.across_mm[:, None] - b.across_mm[None], axis=2)
        best = cosine(x, y).argmax(axis=1)
        found.append(float(away[np.arange(len(best)), best].mean()))
        chance.append(float(away.mean()))
    patients = np.arange(len(found))
    both = (np.array(values) for values in (found, chance))
    near, far = (interval("mean", values, values, patients) for values in both)
    return near, far


def _attention(
    seen: dict[str, list[list[ShownStudy]]], drawn: np.ndarray, names: tuple[str, str]
) -> Section:
    """How much CLS attends to each patch in the last block."""
    strips = []
    for kind, sides in seen.items():
        images = []
        for side, name in enumerate(names):
            for k, n in enumerate(drawn):
                one = sides[side][n]
                heat = _on_picture(one, _heat(one.attention))
                if kind == IMAGE:
                    images.append((picture(one.grey, f"{name} study"), f"{name}, pair {k + 1}"))
                total = float(one.attention.sum())
                images.append(
                    (picture(heat, "attention of CLS"), f"{100 * total:.0f} % on patches")
                )
        strips.append(Strip(images, f"Of {kind}.", pairs=kind == IMAGE))
    strips.append(Strip([(picture(_legend(), "from little to much"), "none … 3 times the mean")]))
    text = [
        "The share of CLS's attention in the last block that a patch gets, the mean over heads,"
        " relative to the mean over the patches of its study. What CLS and registers get is left"
        " out. The second line is the same encoder on blank studies."
    ]
    return Section("Maps: attention of CLS", text, strips=strips)


def _heat(shares: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Colours of shares, the brightest from three times their mean on."""
    from matplotlib import colormaps

    # Relative to the study's mean: a study of many patches gives each of them less.
    relative = shares / max(float(shares.mean()), 1e-12) / 3
    return np.asarray(colormaps["magma"](np.clip(relative, 0, 1)))[:, :3]


def _legend() -> np.ndarray:
    from matplotlib import colormaps

    return np.repeat(np.asarray(colormaps["magma"](np.linspace(0, 1, 64)))[None, :, :3], 8, axis=0)


def _marked(one: ShownStudy, row: float, column: float) -> int:
    """The kept patch closest to a place, in shares of the picture."""
    rows, columns = one.kept.shape[1:]
    away = np.hypot(
        (one.places[:, 0] + 0.5) / rows - row, (one.places[:, 1] + 0.5) / columns - column
    )
    return int(away.argmin())


def _square(one: ShownStudy, patch: int) -> np.ndarray:
    """A mask of the picture with the patch's square."""
    mask = np.zeros(one.grey.shape, bool)
    row, column, _ = one.places[patch]
    high, wide = (s // t for s, t in zip(one.grey.shape, one.kept.shape[1:]))
    mask[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = True
    return mask


def _mm(found: Interval) -> Cell:
    return Cell(f"{found.value:.0f}", bounds_text(found, ".0f"))
