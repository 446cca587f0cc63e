"""The lead letters beside a breast that say which view of which breast a mammogram is."""

import numpy as np
from PIL import Image, ImageDraw

AIR = 500  # of 4095: darker pixels beside the upper edge are air, fogged or not


def marked(image: np.ndarray, side: str, view: str) -> np.ndarray:
    """Image with the lead letters of side and view, in the air beside the upper edge."""
    size = max(image.shape[0] // 24, 8)
    letters = Image.new("L", (3 * size, 2 * size))
    ImageDraw.Draw(letters).text((2, 2), f"{side}{view}", fill=255, font_size=size)
    stamp = np.asarray(letters)
    row, column = (
        image.shape[0] // 20,
        (
            image.shape[1] // 24
            if side == "R"
            else image.shape[1] - image.shape[1] // 24 - stamp.shape[1]
        ),
    )
    out = np.ascontiguousarray(image)
    # Letters are drawn into air only, so that they never cover tissue or truth.
    part = out[row : row + stamp.shape[0], column : column + stamp.shape[1]]
    part[:] = np.where((stamp[: part.shape[0], : part.shape[1]] > 90) & (part < AIR), 3600, part)
    return out
