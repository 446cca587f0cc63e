"""What is true of a painted thorax, counted from its voxels: every label is what is drawn, not what was asked for."""

import numpy as np

from mmv_jax.phantom.patient import Patient
from mmv_jax.phantom.thorax import ANATOMY, FINDINGS, Thorax


def labels(patient: Patient, body: Thorax) -> dict[str, int | float | str]:
    """Findings (0 or 1) and measures; "" where a measure has no meaning (the diameter of no nodule).

    `pneumothorax_fraction` is air / (air + lung) of the side that has it; volumes are in ml; `cardiothoracic_ratio` see there.
    """
    has = {name: bool((body.findings & flag).any()) for name, flag in FINDINGS.items()}
    voxel_ml = float(np.prod(body.grid.spacing_mm)) / 1000
    lungs = [int((body.anatomy == ANATOMY[name]).sum()) for name in ("left_lung", "right_lung")]
    out: dict[str, int | float | str] = {name: int(has[name]) for name in ("pneumothorax", "effusion", "nodule", "chest_tube")}
    out["cardiothoracic_ratio"] = round(cardiothoracic_ratio(body), 4)
    out["pneumothorax_fraction"] = round(pneumothorax_fraction(patient, body), 4)
    out["effusion_ml"] = round(int(((body.findings & FINDINGS["effusion"]) > 0).sum()) * voxel_ml, 1)
    out["lung_ml"] = round(sum(lungs) * voxel_ml, 1)
    out["heart_ml"] = round(int((body.anatomy == ANATOMY["cardiomediastinum"]).sum()) * voxel_ml, 1)
    out["nodule_diameter_mm"] = round(max(n.diameter_mm for n in patient.nodules), 1) if has["nodule"] else ""
    return out


def pneumothorax_fraction(patient: Patient, body: Thorax) -> float:
    """Air / (air + lung) of the side of the pneumothorax; 0 without one."""
    if patient.pneumothorax is None:
        return 0.0
    side = ANATOMY["left_lung" if patient.pneumothorax[0] > 0 else "right_lung"]
    air = int(((body.findings & FINDINGS["pneumothorax"]) > 0).sum())
    return air / max(air + int((body.anatomy == side).sum()), 1)


def cardiothoracic_ratio(body: Thorax) -> float:
    """Greatest width of the cardiomediastinum over the greatest width inside the ribs, both of the projection along y, by columns."""
    heart = (body.anatomy == ANATOMY["cardiomediastinum"]).any(1)
    lungs = (body.anatomy == ANATOMY["left_lung"]) | (body.anatomy == ANATOMY["right_lung"])
    chest = (lungs | ((body.findings & (FINDINGS["pneumothorax"] | FINDINGS["effusion"])) > 0)).any(1)
    return _width(heart) / max(_width(chest), 1)


def _width(silhouette: np.ndarray) -> int:
    """The widest row, from its first to its last voxel."""
    columns = np.where(silhouette, np.arange(silhouette.shape[1])[None], -1)
    last = columns.max(1)
    first = np.where(silhouette, columns, silhouette.shape[1]).min(1)
    return int(np.where(last >= 0, last - first + 1, 0).max())
