r"""Evaluation of eight encoders, frozen and fine-tuned, on real studies and phantoms.

Studies are planar and volumetric. A stopped evaluation resumes.

  mmv phantom runs/eval_chest/phantoms --kind thorax-cxr --studies 480 --seed 11 --pixels 128 \
      --tube-tie 0
  mmv ingest DATA/cxr.csv DATA/cxr_seg.csv DATA/pneumoniamnist.csv DATA/adrenalmnist3d.csv \
      runs/eval_chest/phantoms/manifest.csv --store runs/eval_chest/store
  mmv ingest DATA/lidc.csv --unit HU --store runs/eval_chest/store
  mmv evaluate --config experiments/eval_chest.py --checkpoint chest-best \
      --workdir runs/eval_chest/evaluate --config.protocols="('linear',)"
  # the same with fine-tuning, the smallest tasks first; the features are kept
  mmv evaluate --config experiments/eval_chest.py --checkpoint chest-best \
      --workdir runs/eval_chest/evaluate --config.only="('heart', 'lungs')"

Five encoders have their own weights: both released ones, a convolutional network of ImageNet,
random weights, and principal components of pixels. Three are small stand-ins for encoders whose
real weights are not available here: random too, marked everywhere and compared with nothing; they
show only that their family can be loaded. Astra's network of CT is one line more, see
docs/how-to/convert-encoders.md.

Each encoder is evaluated in every task, frozen by a linear probe, and fine-tuned. Random weights,
fine-tuned, are "scratch-vit"; pixels have nothing to fine-tune. A fit sees at most `fit.studies`
training studies, so that two cores can make all of them; probes see all. More cores can have more:
`--config.fit.studies=400`. With `--config.protocols="('linear', 'native')"` networks of full width
learn from scratch: they want a GPU. On a shared machine set OMP_NUM_THREADS=1, so that PyTorch does
not wait for a second thread.
Needs the extras `torch` and `imagenet`.
Measured: docs/results.md.
"""

from ml_collections import ConfigDict

STAND_INS = {"rad-dino": "dinov2", "biomedclip": "clip", "ark": "swin"}


def get_config() -> ConfigDict:
    # seed: of the floor's random weights
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": "runs/eval_chest/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.encoders = {
        "chest-mini": {"checkpoint": "chest-mini"},
        "efficientnet": {"package": "efficientnet-lite0", "stand_in": False},
    }
    for name, family in STAND_INS.items():
        c.encoders[name] = {
            "folder": f"runs/eval_chest/stand_ins/{name}",
            "family": family,
            "stand_in": True,
        }
    c.protocols = ("linear", "finetune", "scratch")
    c.only = ()  # names of tasks; none: all
    # rates and layer decays are chosen on val for every encoder, see docs/how-to/compare-fairly.md
    c.fit = {"epochs": 10, "patience": 5, "batch": 8, "seeds": 3, "studies": 100}
    # as many patients as fits see, about: 15 % of those with films, 35 % of the phantoms
    c.few_shot = {"shares": (0.15, 0.35), "draws": 10}
    # readouts to try for every encoder, floors included; val chooses one
    c.readout = {
        "blocks": (1, 3),
        "poolings": ("cls+mean", "mean+max+deviation", "cls+max", "pyramid"),
    }
    c.tasks = nih_tasks() | other_tasks() | phantom_tasks()
    return c


def nih_tasks() -> dict:
    """Tasks on films of NIH ChestX-ray14."""
    nih = {"source": "NIH ChestX-ray14"}
    people = {"sex": {}, "age": {"edges": (40, 60)}, "view": {}}
    return {
        "sex": {
            "kind": "classification",
            "label": "sex",
            "positive": "M",
            "where": nih,
            "subgroups": {"age": {"edges": (40, 60)}, "view": {}},
        },
        # Whether a film was taken lying or standing is easy to see and correlates with pneumonia.
        "pneumonia": {
            "kind": "classification",
            "label": "pneumonia",
            "where": nih,
            "subgroups": people,
            "confounders": {"view": {}},
        },
        "age": {
            "kind": "regression",
            "label": "age",
            "where": nih,
            "subgroups": {"sex": {}, "view": {}},
        },
    }


def other_tasks() -> dict:
    """Tasks on small public sets: one label each, and the outlines of lungs and heart."""
    lidc = {"source": "LIDC-IDRI"}
    return {
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
            "confounders": {"diameter_mm": {"quantiles": 3}},
        },
        "adrenal": {
            "kind": "classification",
            "label": "abnormal",
            "where": {"source": "AdrenalMNIST3D"},
            "pixels": {"grid": (16, 16, 16)},
        },
        "lungs": {
            "kind": "segmentation",
            "mask": "anatomy",
            "values": (1, 2),
            "where": {"manifest": 2},
        },
        "heart": {
            "kind": "segmentation",
            "mask": "anatomy",
            "values": (3,),
            "where": {"manifest": 2},
        },
    }


def phantom_tasks() -> dict:
    """Tasks on phantoms in which chest tube and pneumothorax are independent."""
    phantoms = {"tube_tie": 0.0}
    return {
        "phantom_pneumothorax": {
            "kind": "classification",
            "label": "pneumothorax",
            "where": phantoms,
            "subgroups": {"sex": {}, "chest_tube": {"positives": True}},
            "confounders": {"chest_tube": {}},
        },
        "phantom_cardiothoracic_ratio": {
            "kind": "regression",
            "label": "cardiothoracic_ratio",
            "where": phantoms,
            "subgroups": {"sex": {}},
        },
        "phantom_pneumothorax_mask": {
            "kind": "segmentation",
            "mask": "findings",
            "flags": 8,
            "where": phantoms,
            "subgroups": {"pneumothorax_fraction": {"quantiles": 3}},
        },
    }
