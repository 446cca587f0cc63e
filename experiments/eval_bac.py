r"""Evaluation of calcified areas on mammograms: agreement with the truth, and outcomes of a cohort.

  mmv phantom runs/bac/heldout --kind breast --studies 100 --seed 48 \
      --looks 0.5 --hard 0.3 --borders 0.5
  mmv evaluate --config experiments/eval_bac.py --checkpoint runs/bac/fit_looks \
      --workdir runs/bac/evaluate

With a cohort CSV (`patient_id, time_years, event, age`, covariates; patient_id as in the manifest)
the measured areas are related to outcomes:

  mmv evaluate --config experiments/eval_bac.py --checkpoint runs/bac/fit_looks \
      --workdir runs/bac/outcomes \
      --config.cohort=cohort.csv --config.adjust=age,sbp

The rules of measuring (`measure` in experiments/bac_looks.py) were chosen on other women, whose
report has the tables "Other rules of measuring" and "Weights of groups":

  mmv phantom runs/bac/choice --kind breast --studies 48 --seed 43 --bac 0.4 \
      --looks 0.5 --hard 0.3 --borders 0.5
  mmv evaluate --config experiments/eval_bac.py --checkpoint runs/bac/fit_looks \
      --workdir runs/bac/choose \
      --config.mammograms=runs/bac/choice/manifest.csv

If the manifest has a `bac_mask`, areas and severity are compared with it. The checkpoint has the
thresholds of severity.

Paper:    severity by area and its hazard ratios, arXiv 2503.14550.
Measured: docs/results.md, "Breast arterial calcification".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(mammograms="runs/bac/heldout/manifest.csv"))
    # Lower limits of the probability, and of the area of a group and of a breast; weights of
    # groups, and the least probability that a group is of an artery. None: those of the checkpoint.
    c.threshold, c.least_group_mm2, c.least_mm2 = None, None, None
    c.artery, c.least_artery = None, None
    c.splits = ("train", "val", "test")  # of the manifest: none of these women was fitted to
    # Without a cohort only the agreement with the truth is evaluated.
    c.cohort, c.adjust, c.horizons = "", "age", (5.0, 10.0)
    return c
