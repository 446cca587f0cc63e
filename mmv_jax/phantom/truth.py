"""Truth of a painted thorax, counted from its voxels.

Every label describes what was drawn, not what was requested.
"""

import numpy as np

from mmv_jax.phantom.patient import Patient
from mmv_jax.phantom.radiograph import Radiograph
from mmv_jax.phantom.thorax import ANATOMY, FINDINGS, Thorax

LUNGS = (ANATOMY["left_lung"], ANATOMY["right_lung"])


def labels(
    patient: Patient, body: Thorax, shot: Radiograph | None = None
) -> dict[str, int | float | str]:
    """Findings (0 or 1) and measures of a thorax; "" where a measure has no meaning.

    `pneumothorax_fraction` is air / (air + lung) of the affected side. Volumes are in ml.
    `cardiothoracic_ratio` comes from the radiograph's masks if there is one, else from the volume's
    masks seen along y.

    `film_gain` and `lead_letter` are of the radiograph alone. `scanner_y_mm` is of the volume
    alone: parallel beams along y do not show where along y the patient lies.
    """
    voxel_ml = float(np.prod(body.grid.spacing_mm)) / 1000

    def ml(mask: np.ndarray) -> float:
        return round(float(mask.sum()) * voxel_ml, 1)

    seen = {name: (body.findings & flag) > 0 for name, flag in FINDINGS.items()}
    lung, heart = np.isin(body.anatomy, LUNGS), body.anatomy == ANATOMY["cardiomediastinum"]
    out: dict[str, int | float | str] = {
        name: int(seen[name].any()) for name in ("pneumothorax", "effusion", "nodule", "chest_tube")
    }
    # Air and fluid in the pleura displace lung, so they count towards the width of the chest.
    if shot is None:
        chest = (lung | seen["pneumothorax"] | seen["effusion"]).any(1)
        ratio = cardiothoracic_ratio(heart.any(1), np.asarray(chest))
    else:
        chest = np.isin(shot.anatomy, LUNGS) | (
            (shot.findings & (FINDINGS["pneumothorax"] | FINDINGS["effusion"])) > 0
        )
        ratio = cardiothoracic_ratio(shot.anatomy == ANATOMY["cardiomediastinum"], chest)
    out["cardiothoracic_ratio"] = round(ratio, 4)
    out["pneumothorax_fraction"] = round(pneumothorax_fraction(patient, body), 4)
    out |= {"effusion_ml": ml(seen["effusion"]), "lung_ml": ml(lung), "heart_ml": ml(heart)}
    out["nodule_diameter_mm"] = (
        round(max(n.diameter_mm for n in patient.nodules), 1) if out["nodule"] else ""
    )
    out["site_nodule_mm"] = round(patient.nodules[0].diameter_mm, 1) if patient.nodules else ""
    if shot is None:
        out["scanner_y_mm"] = round(patient.shift[1], 1)
    else:
        out |= {"film_gain": round(shot.film_gain, 3), "lead_letter": int(shot.lead_letter)}
    return out


def pneumothorax_fraction(patient: Patient, body: Thorax) -> float:
    """Air / (air + lung) on the side of the pneumothorax; 0 without one."""
    if patient.pneumothorax is None:
        return 0.0
    side = ANATOMY["left_lung" if patient.pneumothorax[0] > 0 else "right_lung"]
    air = int(((body.findings & FINDINGS["pneumothorax"]) > 0).sum())
    return air / max(air + int((body.anatomy == side).sum()), 1)


def cardiothoracic_ratio(heart: np.ndarray, chest: np.ndarray) -> float:
    """Greatest width of the heart's silhouette over the greatest width inside the ribs.

    Args:
      heart, chest: [row, column] masks.
    """
    return _width(heart) / max(_width(chest), 1)


def _width(silhouette: np.ndarray) -> int:
    """Width of the widest row in pixels, from its first to its last pixel."""
    # -1 marks an empty row, whose `last` stays below 0.
    columns = np.where(silhouette, np.arange(silhouette.shape[1])[None], -1)
    last = columns.max(1)
    first = np.where(silhouette, columns, silhouette.shape[1]).min(1)
    return int(np.where(last >= 0, last - first + 1, 0).max())
