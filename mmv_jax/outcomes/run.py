"""Evaluation of a cohort file: writes `metrics.json`, `protocol.json` and `report.html`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmv_jax.config import to_json
from mmv_jax.files import write_json
from mmv_jax.outcomes.analysis import HORIZONS, SPLINES, analyse, metrics
from mmv_jax.outcomes.apart import EndpointResult, side_by_side
from mmv_jax.outcomes.apart_page import apart_lines, apart_metrics, apart_sections
from mmv_jax.outcomes.cohort import THRESHOLDS_MM2, read_cohort, split_names
from mmv_jax.outcomes.endpoints import read_endpoints
from mmv_jax.outcomes.page import TASK_NAMES, write_outcomes
from mmv_jax.outcomes.risk import PREVENT_INPUTS
from mmv_jax.outcomes.stated import state_cohort
from mmv_jax.provenance import facts, of_file, provenance, refuse_others, write_metrics
from mmv_jax.report.page import Section
from mmv_jax.result_folder import clear_results


def evaluate_config(config: ConfigDict, workdir: Path) -> str:
    """Run `evaluate_cohort` with a config: a table of areas and outcomes, without any image."""
    return evaluate_cohort(
        config.cohort,
        workdir,
        adjust=split_names(config.adjust),
        thresholds=config.thresholds,
        horizons=config.horizons,
        splines=split_names(config.get("splines", ",".join(SPLINES))),
        endpoint=config.get("endpoint", ""),
        endpoints=split_names(config.get("endpoints", "")),
        config=to_json(config),
    )


def evaluate_cohort(
    path: str | Path,
    workdir: Path,
    *,
    adjust: Sequence[str] = ("age",),
    thresholds: Sequence[float | int] = THRESHOLDS_MM2,
    horizons: Sequence[float | int] = HORIZONS,
    splines: Sequence[str] = SPLINES,
    endpoint: str = "",
    endpoints: Sequence[str] = (),
    areas: Mapping[str, float] | None = None,
    config: str = "",
) -> str:
    """Analyse the women of a cohort CSV and write the results into `workdir`.

    Args:
      adjust: covariates, by their columns.
      thresholds: areas in mm² above which calcification is mild, moderate and severe.
      horizons: years at which risk is predicted.
      splines: covariates of `adjust` that enter as restricted cubic splines; "area" for its curve.
      endpoint: meaning of event 1: ascvd, cvd, heart_failure, infarction, stroke, death, mace or
        mace_without_death. A published score is compared only for its own endpoint.
      endpoints: several of these, made from the columns of `endpoints.py`, or "all". The first is
        analysed as a whole, the others beside it; `endpoint` is then not read.
      areas: mm² by patient id, as measured on images; without it the column `area_mm2` is used.
      config: as JSON, printed at the end of the report.
    Returns:
      The hazard ratios as text, the notes, and the path of the report.
    Raises:
      UserError: a cohort file has mistakes, or no model can be made from it.
    """
    refuse_others(workdir, None, "--workdir")
    # Inputs of the published scores are read where they exist, adjusted for or not.
    asked: dict[str, Any] = {
        "covariates": adjust,
        "also": (*PREVENT_INPUTS, "black"),
        "areas": areas,
    }
    cohorts = (
        read_endpoints(path, endpoints, **asked)
        if endpoints
        else {endpoint: read_cohort(path, **asked)}
    )
    main, cohort = next(iter(cohorts.items()))
    rules: dict[str, Any] = {
        "adjust": adjust,
        "thresholds": thresholds,
        "horizons": horizons,
        "splines": splines,
    }
    analysis = analyse(cohort, endpoint=main, **rules)
    found, more, others = metrics(analysis), list[Section](), list[str]()
    apart, definitions = dict[str, EndpointResult](), dict[str, EndpointResult]()
    if endpoints:
        apart, definitions, notes = side_by_side(cohorts, analysis, **rules)
        found |= apart_metrics(apart, definitions)
        more = apart_sections(apart, definitions, notes)
        others = ["", *apart_lines(apart), *notes]
    protocol, stated = state_cohort(analysis, main, endpoints=apart, definitions=definitions)
    record = provenance("mmv evaluate", config=json.loads(config or "{}"), data=of_file(path))
    clear_results(workdir)
    write_outcomes(workdir / "report.html", analysis, config, facts(record), more=[*more, *stated])
    write_json(workdir / "protocol.json", protocol)
    write_metrics(workdir, found, record)
    lines = [f"{'model':<36}{'level':<12}hazard ratio"]
    for task, effects in analysis.effects.items():
        lines += [
            f"{TASK_NAMES[task]:<36}{level:<12}{e.hazard_ratio:.3f} [{e.ci95[0]:.3f},"
            f" {e.ci95[1]:.3f}]"
            for level, e in effects.items()
        ]
    return "\n".join([*lines, *analysis.notes, *others, "", f"report: {workdir / 'report.html'}"])
