r"""Calcified area on mammograms and outcomes: hazard ratios from a cohort table, without images.

  # simulated women; leave this out with a cohort of your own
  python -m mmv_jax.outcomes.simulate FILE.csv --women 116135
  mmv evaluate --config experiments/eval_outcomes.py --config.cohort=FILE.csv \
      --config.adjust=age,sbp,diabetes,smoker --workdir runs/outcomes

The table has `patient_id, time_years, event, area_mm2, age` (event: 0 censored, 1 outcome, 2
competing death) and any covariates; `entry_years` is for delayed entry. Age enters as a restricted
cubic spline; `splines="age,area"` adds the area as a curve. With the columns `total_cholesterol,
hdl, sbp, bp_treated, smoker, diabetes` the ASCVD risk is a comparator too. With `bmi, egfr, statin`
in addition, the PREVENT risk is one.

Several endpoints in one run, each with its own competing risk: `endpoints="all"`, or names of
`mmv_jax/outcomes/endpoints.py`. The table then has `follow_up_years` and `death_years`,
`infarction_years`, `stroke_years`, `heart_failure_years` in the place of `time_years, event`.

Paper:    adjusted hazard ratios of mild, moderate, severe 1.18-1.22, 1.38-1.47, 2.03-2.22 in
  116,135 women (arXiv 2503.14550).
Measured: docs/results.md, "Outcomes". On as many simulated women with ratios 1.2, 1.4, 2.1: 1.21
  [1.13, 1.28], 1.40 [1.31, 1.50], 2.16 [2.02, 2.32] adjusted for age, sbp, diabetes and smoker;
  1.87, 2.49, 4.24 unadjusted.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "cohort": "cohort.csv",
            "adjust": "age",
            "thresholds": (0.0, 10.0, 25.0),
            "horizons": (5.0, 10.0),
            "splines": "age",
            "endpoint": "",
            "endpoints": "",
        }
    )
