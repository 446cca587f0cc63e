r"""Evaluation of the encoder of experiments/chest_distilled.py beside its teacher and the floors.

  mmv evaluate --config experiments/eval_chest_distilled.py --checkpoint runs/chest/distilled \
      --workdir runs/chest/evaluate

The teacher is read frozen, with 384 pixels a side. Every encoder, the floors included, has the
readout that val chooses. Needs the extras `torch` and `imagenet`.
Measured: docs/results.md, "Distilled from an ImageNet network".
"""

from ml_collections import ConfigDict

FINDINGS = ("pneumonia", "effusion", "edema")


def get_config() -> ConfigDict:
    # seed: of the floor's random weights
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": "runs/chest/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.encoders = {"teacher": {"package": "efficientnet-lite0", "side": 384, "stand_in": False}}
    c.weights = ("encoder", "average 2")  # val chooses one
    c.only = ()  # names of tasks; none: all
    # readouts to try for every encoder, floors included; val chooses one
    c.readout = {
        "blocks": (1, 3),
        "poolings": ("cls+mean", "mean+max+deviation", "cls+max", "pyramid"),
    }
    nih = {"source": "NIH ChestX-ray14"}
    sex = {"kind": "classification", "label": "sex", "positive": "M", "where": nih}
    tasks = {"sex": sex, "age": {"kind": "regression", "label": "age", "where": nih}}
    for label in FINDINGS:
        tasks[label] = {"kind": "classification", "label": label, "where": nih}
    c.tasks = tasks | {
        # The pixel floor sees a nodule in a box of fixed size: stretching would lose its diameter.
        "nodule_malignancy": {
            "kind": "classification",
            "label": "malignant",
            "where": {"source": "LIDC-IDRI"},
            "local": "nodule",
            "pixels": {"grid": (24, 24, 24), "spacing_mm": 1.5},
        },
        "heart": {"kind": "segmentation", "mask": "anatomy", "values": (3,)},
        "lungs": {"kind": "segmentation", "mask": "anatomy", "values": (1, 2)},
        "nodule": {"kind": "segmentation", "mask": "nodule"},
    }
    return c
