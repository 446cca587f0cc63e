r"""Two tests on phantoms of known truth: pneumothorax and chest tube, CLS and small nodules.

They show whether an encoder sees the pneumothorax or only the tube, and whether CLS sees a nodule.
Released weights will do; `--checkpoint` may be a run of your own too.

  for tie in 0 0.5 1; do
    mmv phantom runs/shortcuts/tie$tie --kind thorax-cxr --studies 480 --seed 11 --pixels 128 \
        --tube-tie $tie
  done
  mmv ingest runs/shortcuts/tie0/manifest.csv runs/shortcuts/tie0.5/manifest.csv \
      runs/shortcuts/tie1/manifest.csv --store runs/shortcuts/store
  mmv evaluate --config experiments/eval_shortcuts.py --checkpoint chest-best \
      --workdir runs/shortcuts/evaluate

The three sets show the same 480 patients; only their chest tubes differ. A probe is fitted on the
training patients of one tie. It is tested on the test patients of the same tie, as in a usual
split, and on those of tie 0 (`..._untied`), where tube and pneumothorax are independent.

Paper:    classification leans on the tube, segmentation does not (arXiv 2511.09742); CLS is at
          chance on small findings (AUROC 0.50-0.52) where the patch tokens of their place reach
          about 1 (arXiv 2606.11606).
Needs the extras `torch` and `imagenet`.
Measured: docs/results.md, "Shortcuts".
"""

from ml_collections import ConfigDict

TIES = {"tie_0": 0.0, "tie_half": 0.5, "tie_1": 1.0}


def get_config() -> ConfigDict:
    # seed: of the floor's random weights
    c = ConfigDict({"seed": 1, "exclude_overlap": False})
    c.data = {"store": "runs/shortcuts/store"}
    # the most voxels of a whole study; None: as many as a global crop of training has
    c.view = {"planar": None, "volume": None}
    c.rows = {"length": 1024, "rows": 4}
    c.encoders = {"efficientnet": {"package": "efficientnet-lite0", "stand_in": False}}
    air = {"kind": "classification", "label": "pneumothorax", "confounders": {"chest_tube": {}}}
    # Positive studies with and without a tube, each group against all negatives.
    by_tube = {"subgroups": {"chest_tube": {"positives": True}}}
    mask = {"kind": "segmentation", "mask": "findings", "flags": 8}
    untied = {"tube_tie": 0.0}
    c.tasks = {}
    for name, tie in TIES.items():
        c.tasks[name] = air | {"where": {"tube_tie": tie}} | (by_tube if tie == 0 else {})
        c.tasks[f"{name}_mask"] = mask | {
            "where": {"tube_tie": tie},
            "subgroups": {"chest_tube": {}} if tie < 1 else {},
        }
        if tie:
            c.tasks[f"{name}_untied"] = (
                air | by_tube | {"where": {"tube_tie": tie}, "test_where": untied}
            )
            c.tasks[f"{name}_untied_mask"] = mask | {
                "where": {"tube_tie": tie},
                "test_where": untied,
                "subgroups": {"chest_tube": {}},
            }
    # A control: can the features show the tube at all?
    c.tasks["chest_tube"] = {"kind": "classification", "label": "chest_tube", "where": untied}
    sizes = {"site_nodule_mm": {"edges": (12, 20), "positives": True}}
    c.tasks["nodule"] = {
        "kind": "classification",
        "label": "nodule",
        "where": untied,
        "local": "site",
        "subgroups": sizes,
    }
    return c
