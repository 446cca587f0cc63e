"""Writing in the pixels: colour in a grey picture, lines of grey letters, and what headers say.

Legible colour is writing, an arrow or a heat map. Luminance would turn it into anatomy, and a name
into voxels. Lines of grey writing (`lettering`) are told, and so is what the header says: neither
is certain enough to refuse a study unasked.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mmv_jax.readers.refused import Refused

BURNT_IN = ("refuse", "warn", "mask")  # options for writing in the pixels
# chroma noise that JPEG leaves in a grey picture, as a share of the range
GREY_TOLERANCE = 16 / 255
GREY_SHARE = 0.999  # share of grey pixels; any legible mark leaves fewer
COLOUR, COLOURED = 64 / 255, 12  # more pixels than this, at this distance from grey, are not noise
MOST_WRITING = 0.1  # share of the pixels; a picture with more colour is a colour picture
STROKE = 0.01  # share of the longer side: letters have thinner strokes
CONTRAST = 0.3  # share of the range: how far a stroke stands out from its surroundings
BETWEEN = 4  # distance between the letters of a word, in stroke widths
COLOUR_REASON = (
    "the picture is in colour: colour in a radiograph is writing or an overlay, which must"
    " be taken out first"
)
LETTERS_REASON = "a line of writing is in the pixels: it may name somebody"


@dataclass(frozen=True)
class Grey:
    """A grey picture and the mask of its coloured pixels.

    Colour is recorded here, not refused: the user decides what to do about it.

    Attributes:
      pixels: `[y, x]`.
      coloured: mask `[y, x]`, or None without colour.
    """

    pixels: np.ndarray
    coloured: np.ndarray | None = None


def grey(pixels: np.ndarray, *, exact: bool = False) -> np.ndarray:
    """The single channel `[y, x]` of a grey picture `[y, x]` or `[y, x, channels]`.

    Raises:
      Refused: colour, bad_shape.
    """
    found = grey_of(pixels, exact=exact)
    if found.coloured is not None:
        raise Refused("colour", COLOUR_REASON)
    return found.pixels


def grey_of(pixels: np.ndarray, *, exact: bool = False) -> Grey:
    """The single channel of a picture, with its coloured pixels if they are few enough for writing.

    Args:
      pixels: `[y, x]` or `[y, x, channels]`.
      exact: whether the channels must be equal, as in a mask.
    Raises:
      Refused: colour, bad_shape.
    """
    if pixels.ndim == 2:
        return Grey(np.ascontiguousarray(pixels))
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4):
        raise Refused("bad_shape", "the picture does not have 1 to 4 channels")
    if pixels.shape[-1] in (2, 4):
        # The last of 2 or 4 channels is alpha; its highest value is opaque.
        if pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
            raise Refused(
                "colour", "the picture is transparent in places: what lies below is not known"
            )
        pixels = pixels[..., :-1]
    if pixels.shape[-1] == 1:
        return Grey(np.ascontiguousarray(pixels[..., 0]))
    low, high = pixels.min(axis=-1), pixels.max(axis=-1)
    range_ = np.iinfo(pixels.dtype).max
    tolerance = 0 if exact else GREY_TOLERANCE * range_
    # Red letters are legible, however small their share of the picture.
    coloured = np.count_nonzero(high - low > COLOUR * range_)
    is_grey = high - low <= tolerance
    if (low == high).all():
        return Grey(np.ascontiguousarray(low))
    # ITU-R BT.601, as JPEG itself weighs them
    luminance = np.rint(pixels @ np.array([0.299, 0.587, 0.114], np.float32)).astype(pixels.dtype)
    # Noise of a grey JPEG is faint and rare. Its luminance is the intended grey.
    if coloured <= COLOURED and np.mean(is_grey) >= (1 if exact else GREY_SHARE):
        return Grey(luminance)
    if exact or np.mean(~is_grey) > MOST_WRITING:
        raise Refused("colour", COLOUR_REASON)
    return Grey(luminance, ~is_grey)


def settled_writing(
    voxels: np.ndarray,
    coloured: np.ndarray | None,
    told: tuple[tuple[str, str], ...],
    burnt_in: str | None,
    *,
    letters: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """Voxels and warnings, after writing in the pixels is handled as the user asked.

    Args:
      voxels: `[z, y, x]`.
      coloured: mask `[y, x]` of a picture's coloured pixels, or None.
      told: warnings of the reader; "burnt_in" means that the header mentions writing.
      burnt_in: a word of BURNT_IN. None refuses colour and only warns of the rest.
      letters: mask `[y, x]` of lines of grey writing, or None.
    Raises:
      Refused: colour, burnt_in.
    """
    said = next((reason for code, reason in told if code == "burnt_in"), None)
    if letters is not None:
        said = said or LETTERS_REASON
    if coloured is None and said is None:
        return voxels, told
    if coloured is not None and burnt_in in (None, "refuse"):
        raise Refused("colour", COLOUR_REASON)
    if said is not None and burnt_in == "refuse":
        raise Refused("burnt_in", said)
    told = tuple(entry for entry in told if entry[0] != "burnt_in")
    if burnt_in != "mask":
        return voxels, (*told, ("burnt_in", said or "colour, which is writing, was taken in grey"))
    strokes = coloured if letters is None else letters if coloured is None else coloured | letters
    # Only a picture has colour or letters, and it has one slice.
    masked = np.stack([without_writing(one, strokes) for one in voxels])
    blank = np.mean(masked != voxels)
    reason = f"what looks like writing was blanked ({blank:.1%} of the pixels): look at it"
    return masked, (*told, ("burnt_in", reason))


def without_writing(pixels: np.ndarray, coloured: np.ndarray | None = None) -> np.ndarray:
    """`pixels` `[y, x]` with boxes around writing filled by the median of their surroundings.

    Writing is colour, or thin strokes much brighter or darker than their surroundings
    (morphological top hats). Letters with strokes wider than STROKE are missed, but lead markers
    are found. This helps, but does not prove that nobody is named.
    """
    values = pixels.astype(np.float32)
    # Odd, so that the structuring element has a centre.
    width = max(5, 2 * round(STROKE * max(pixels.shape) / 2) + 1)
    low, high = np.percentile(values, (0.1, 99.9))
    stands_out = CONTRAST * max(high - low, values.max() - values.min())
    # White hats find strokes brighter than their surroundings, black hats darker ones.
    strokes = ndimage.white_tophat(values, size=width) > stands_out
    strokes |= ndimage.black_tophat(values, size=width) > stands_out
    if coloured is not None:
        strokes |= coloured
    # Dilated until the letters of a word touch: one box per word, not one per letter.
    near = ndimage.maximum_filter(strokes.astype(np.uint8), size=BETWEEN * (width - 1) + 1)
    out = pixels.copy()
    for box in ndimage.find_objects(ndimage.label(near)[0]):
        # Without the strokes: the median is that of the background.
        around = out[box][~strokes[box]]
        out[box] = np.median(around) if around.size else pixels.min()
    return out
