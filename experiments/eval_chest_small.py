r"""Evaluation of the encoder of experiments/chest_small.py on real studies, against its floors.

  mmv evaluate --config experiments/eval_chest_small.py --checkpoint runs/chest_small/pretrain \
      --workdir runs/chest_small/evaluate

Floors measured elsewhere with 100 principal components of pixels (test AUROC): sex 0.81, pneumonia
0.84, effusion 0.79, nodule malignancy 0.876 (the logarithm of its diameter alone: 0.921),
AdrenalMNIST3D 0.809, PneumoniaMNIST 0.925; age 11.2 years (the mean alone: 14.4). Beware of a
shortcut: AP or PA of a film is predictable (0.97) and correlates with pneumonia.
Measured: docs/results.md, "All real studies together".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    # seed: of the floor's random weights
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": "runs/chest_small/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.encoders = {}  # of others, by name: {"folder": a Hugging Face folder, "stand_in": False}
    nih, lidc, adrenal = (
        {"source": "NIH ChestX-ray14"},
        {"source": "LIDC-IDRI"},
        {"source": "AdrenalMNIST3D"},
    )
    c.tasks = {
        "sex": {"kind": "classification", "label": "sex", "positive": "M", "where": nih},
        "pneumonia": {"kind": "classification", "label": "pneumonia", "where": nih},
        "effusion": {"kind": "classification", "label": "effusion", "where": nih},
        "age": {"kind": "regression", "label": "age", "where": nih},
        "pneumoniamnist": {
            "kind": "classification",
            "label": "pneumonia",
            "where": {"source": "PneumoniaMNIST"},
        },
        # The pixel floor sees a nodule in a box of fixed size: stretching would lose its diameter.
        "nodule_malignancy": {
            "kind": "classification",
            "label": "malignant",
            "where": lidc,
            "local": "nodule",
            "pixels": {"grid": (24, 24, 24), "spacing_mm": 1.5},
        },
        "adrenal": {
            "kind": "classification",
            "label": "abnormal",
            "where": adrenal,
            "pixels": {"grid": (16, 16, 16)},
        },
        "heart": {"kind": "segmentation", "mask": "anatomy", "values": (3,)},
        "lungs": {"kind": "segmentation", "mask": "anatomy", "values": (1, 2)},
        "nodule": {"kind": "segmentation", "mask": "nodule"},
    }
    return c
