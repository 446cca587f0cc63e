r"""Calcified arteries on mammograms against the truth, and what the measured areas mean for a
cohort.

  mmv phantom runs/bac/heldout --kind breast --studies 100 --seed 26
  mmv evaluate --config experiments/eval_bac.py --checkpoint runs/bac/fit_film \
      --workdir runs/bac/evaluate

With a cohort CSV (`patient_id, time_years, event, age`, covariates; patient_id as in the manifest)
the measured areas are related to outcomes:

  mmv evaluate --config experiments/eval_bac.py --checkpoint runs/bac/fit_film \
      --workdir runs/bac/outcomes \
      --config.cohort=cohort.csv --config.adjust=age,sbp

How areas are measured (`measure` in experiments/bac.py) was chosen by the table "Other rules of
measuring" of the report on yet other women:

  mmv phantom runs/bac/choice --kind breast --studies 48 --seed 23 --bac 0.4
  mmv evaluate --config experiments/eval_bac.py --checkpoint runs/bac/fit_film \
      --workdir runs/bac/choose \
      --config.mammograms=runs/bac/choice/manifest.csv

Where the manifest has a `bac_mask`, areas and severity are compared with it; the thresholds of
severity come with the checkpoint.

Paper:    severity by area and its hazard ratios, arXiv 2503.14550.
Measured: docs/results.md, "Breast arterial calcification".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict(dict(mammograms="runs/bac/heldout/manifest.csv"))
    # Of the probability, and of the sure area of a group and of a breast; None: as the checkpoint
    # says.
    c.threshold, c.least_group_mm2, c.least_mm2 = None, None, None
    c.splits = ("train", "val", "test")  # of the manifest: none of these women was fitted to
    # no cohort: agreement with the truth alone
    c.cohort, c.adjust, c.horizons = "", "age", (5.0, 10.0)
    return c
