"""How a study is known to be a phantom, by what its manifest says."""

from collections.abc import Mapping

# Numbers that only a generator can know, of a thorax and of a breast; a study that has all of
# one line is a phantom.
ONLY_GENERATORS_KNOW = (
    ("pneumothorax_fraction", "effusion_ml", "heart_ml", "lung_ml"),
    ("breast_density", "film", "area_mm2", "woman_area_mm2"),
)


def is_phantom(labels: Mapping[str, str]) -> bool:
    """Whether the labels of a line of a manifest are those of a phantom, or say that it is one.

    Example:
      >>> is_phantom({"site": "phantoms of a breast"}), is_phantom({"film": "1"})
      (True, False)
    """
    measured = any(all(labels.get(name, "") for name in names) for names in ONLY_GENERATORS_KNOW)
    return measured or any("phantom" in text.lower() for text in labels.values())
