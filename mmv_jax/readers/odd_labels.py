"""Labels of a manifest that contradict the DICOM header of their study.

The wrong one of the two cannot be known: both lines of a table and headers are mixed up. A warning
names the column, and quotes neither.
"""

import math
import re
from collections.abc import Iterator, Mapping

from mmv_jax.study import Study

Told = tuple[str, str]  # code, sentence
FEMALE = frozenset(("f", "female", "w", "weiblich", "woman", "femme", "mujer", "frau"))
MALE = frozenset(("m", "male", "man", "maennlich", "männlich", "homme", "hombre", "mann"))
LEFT, RIGHT = frozenset(("l", "left", "links")), frozenset(("r", "right", "rechts"))
LATERAL = frozenset(("ll", "rl", "lat", "lateral", "llat", "rlat"))
# Column's name, without capitals and separators -> what it is about.
COLUMNS = {
    "sex": ("sex", "gender", "patientsex", "patientgender", "geschlecht", "sexe", "sexo"),
    "age": ("age", "patientage", "ageyears", "agey", "ageatstudy", "ageatscan", "alter"),
    "view": ("view", "viewposition", "projection", "viewpos"),
    "laterality": ("laterality", "imagelaterality", "side", "breastside"),
    "body part": ("bodypart", "bodypartexamined", "anatomy", "region", "bodyregion"),
}
# What counts as one value, by what a column is about.
CLASSES = {
    "sex": (FEMALE, MALE),
    "laterality": (LEFT, RIGHT),
    "view": (
        *({word} for word in ("pa", "ap", "cc", "mlo", "ml", "lm", "xccl")),
        LATERAL,
    ),
    "modality": (
        frozenset(("ct",)),
        frozenset(("mr", "mri", "mrt")),
        frozenset(("mg", "mammography", "mammogram")),
        frozenset(("cxr", "cr", "dx", "xr", "dr", "x-ray", "xray", "rg", "px")),
        frozenset(("us", "ultrasound")),
        frozenset(("pt", "pet")),
    ),
    "body part": (
        frozenset(("chest", "thorax", "lung", "lungs")),
        frozenset(("head", "skull", "brain")),
        frozenset(("breast", "mamma")),
        *({word} for word in ("abdomen", "pelvis", "neck", "knee", "hand", "foot", "ankle")),
        *({word} for word in ("hip", "shoulder", "elbow", "wrist", "heart")),
    ),
}
# An age counts in whole years, and a table may have that of another examination.
YEARS_APART = 2.0
CAPPED = 89.0  # years: above it both sides may have another number


def odd_labels(study: Study, labels: Mapping[str, object], modality: str) -> Iterator[Told]:
    """(code, sentence) of each label that the header of the study's file contradicts.

    Args:
      labels: name -> value of the manifest line, a number or a text.
      modality: of the manifest line.
    """
    values = [(name, _about(name), value) for name, value in labels.items()]
    for name, what, value in [*values, ("modality", "modality", modality)]:
        header = study.said.get(what)
        if header is not None and _differ(what, value, header):
            yield "label_differs", f"{name} and the header of the file contradict each other"


def _about(name: str) -> str:
    plain = re.sub(r"[^a-z]", "", name.casefold())
    return next((what for what, names in COLUMNS.items() if plain in names), "")


def _differ(what: str, label: object, header: str | float) -> bool:
    if what == "age":
        if not isinstance(label, int | float) or not isinstance(header, float):
            return False
        # Newborns have 000Y in many headers, and so have those whose age was taken out.
        known = not math.isnan(label) and max(label, header) < CAPPED and header > 0
        return known and abs(label - header) > YEARS_APART
    classes = CLASSES[what]
    words = (str(label).strip().casefold(), header)
    # A word that is on no list, such as 1 or `oblique`, says nothing.
    places = [next((n for n, one in enumerate(classes) if word in one), None) for word in words]
    return None not in places and places[0] != places[1]
