"""Published ten-year risks: the pooled cohort equations (ASCVD) and PREVENT. Axis: N people."""

import contextlib
import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.errors import UserError

PCE_AGES = (40.0, 79.0)
# Inputs of a score beside age: cholesterols in mg/dL, pressure in mmHg, bmi in kg/m², egfr in
# mL/min/1.73 m², the others 0 or 1.
PCE_INPUTS = ("total_cholesterol", "hdl", "sbp", "bp_treated", "smoker", "diabetes")
PREVENT_INPUTS = (*PCE_INPUTS, "bmi", "egfr", "statin")

# Domain of the equations. Outside it, and for a code that is neither 0 nor 1, there is no risk:
# cholesterol in mmol/L or a smoker of 2 would give a plausible but wrong one.
RANGES = {
    "total_cholesterol": (130.0, 320.0, "mg/dL"),
    "hdl": (20.0, 100.0, "mg/dL"),
    "sbp": (90.0, 200.0, "mmHg"),
    "bmi": (18.5, 40.0, "kg/m²"),
    "egfr": (15.0, 140.0, "mL/min/1.73 m²"),
}
# Scores by the endpoint that they were made for: "ascvd" is infarction, coronary death and stroke;
# "cvd" also includes heart failure. Other endpoints have no score; "" means not stated.
SCORES_OF = {
    "": ("pce", "prevent"),
    "ascvd": ("pce", "prevent_ascvd"),
    "cvd": ("prevent",),
    "heart_failure": ("prevent_heart_failure",),
    **dict.fromkeys(("infarction", "stroke", "death", "mace", "mace_without_death"), ()),
}
YES_OR_NO = ("bp_treated", "smoker", "diabetes", "statin", "black")
# Other possible units of a column, and the factor to the units above.
OTHER_UNITS = {
    "total_cholesterol": ("mmol/L", 38.67),
    "hdl": ("mmol/L", 38.67),
    "sbp": ("kPa", 7.5),
}

# Coefficients of ln age, ln² age, ln total cholesterol, × ln age, ln HDL, × ln age, ln treated SBP,
# × ln age, ln untreated SBP, × ln age, smoker, × ln age, diabetes; the mean of the sum; the
# survival at ten years. Table A of the guideline's appendix 7.
_PCE = {
    (True, False): (
        (-29.799, 4.884, 13.540, -3.114, -13.578, 3.149, 2.019, 0, 1.957, 0, 7.574, -1.665, 0.661),
        -29.18,
        0.9665,
    ),
    (True, True): (
        (17.114, 0, 0.940, 0, -18.920, 4.475, 29.291, -6.432, 27.820, -6.087, 0.691, 0, 0.874),
        86.61,
        0.9533,
    ),
    (False, False): (
        (12.344, 0, 11.853, -2.664, -7.990, 1.769, 1.797, 0, 1.764, 0, 7.837, -1.795, 0.658),
        61.18,
        0.9144,
    ),
    (False, True): (
        (2.469, 0, 0.302, 0, -0.307, 0, 1.916, 0, 1.809, 0, 0.549, 0, 0.645),
        19.54,
        0.8954,
    ),
}


def pooled_cohort(
    age: Float[np.ndarray, "N"],
    inputs: Mapping[str, Float[np.ndarray, "N"]],
    *,
    female: Bool[np.ndarray, "N"],
    black: Bool[np.ndarray, "N"],
) -> Float[np.ndarray, "N"]:
    """Ten-year risk (0 to 1) of infarction, coronary death and stroke.

    NaN if an input is missing or outside its domain (`in_domain`), or the age is outside 40 to 79.

    Args:
      inputs: `PCE_INPUTS` by name.
      black: selects the equations of African Americans; those of white people stand for all others,
        as the guideline says.
    Source: Goff et al., 2013 ACC/AHA guideline on the assessment of cardiovascular risk, appendix 7
    (Circulation 2014).
    """
    cholesterol, hdl, sbp, treated, smoker, diabetes = (
        in_domain(name, np.asarray(inputs[name], float)) for name in PCE_INPUTS
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        a, c, h, s = np.log(age), np.log(cholesterol), np.log(hdl), np.log(sbp)
    # SBP has one coefficient in treated people and another in untreated ones.
    on, off = treated * s, (1 - treated) * s
    terms = np.stack(
        [a, a * a, c, a * c, h, a * h, on, a * on, off, a * off, smoker, a * smoker, diabetes],
        axis=1,
    )
    risk = np.full(len(age), np.nan)
    for (is_female, is_black), (coefficients, mean, survival) in _PCE.items():
        of = (female == is_female) & (black == is_black)
        # Survival of a person at the mean sum, raised to the hazard ratio against that person. The
        # logarithm of an impossible input is not finite, and so gives no risk.
        with np.errstate(invalid="ignore"):
            risk[of] = 1 - survival ** np.exp(terms[of] @ np.array(coefficients) - mean)
    # A cholesterol of 0 gives a risk of 0 or 1, which is not valid.
    possible = (age >= PCE_AGES[0]) & (age <= PCE_AGES[1]) & (risk > 0) & (risk < 1)
    return np.where(possible, risk, np.nan)


def prevent(
    age: Float[np.ndarray, "N"],
    inputs: Mapping[str, Float[np.ndarray, "N"]],
    *,
    female: Bool[np.ndarray, "N"],
    outcome: str = "cvd",
) -> Float[np.ndarray, "N"]:
    """Ten-year risk (0 to 1) by the PREVENT base model.

    NaN if an input is missing or outside the range of the equations.

    Args:
      inputs: `PREVENT_INPUTS` by name.
      outcome: "cvd" (ASCVD or heart failure), "ascvd" or "heart_failure".
    Raises:
      UserError: pyprevent is not installed.
    Source: Khan et al., Circulation 2024, as implemented by pyprevent.
    """
    try:
        import pandas as pd
        import pyprevent
    except ImportError as error:
        raise UserError("PREVENT needs pyprevent: pip install 'mmv_jax[survival]'.") from error
    table = pd.DataFrame(
        {
            _PYPREVENT[name]: in_domain(name, np.asarray(inputs[name], float))
            for name in PREVENT_INPUTS
        }
    )
    table["age"], table["sex"] = np.asarray(age, float), np.where(female, "female", "male")
    whole = table.notna().all(axis=1).to_numpy()
    risk = np.full(len(table), np.nan)
    batch = getattr(pyprevent, f"batch_calculate_10_yr_{outcome}_risk")
    if whole.any():
        # pyprevent prints how many are out of range; the caller counts them
        with contextlib.redirect_stdout(io.StringIO()):
            # pyprevent returns per cent.
            risk[whole] = np.asarray(batch(table[whole]), float) / 100
    return risk


_PYPREVENT = {
    "total_cholesterol": "total_cholesterol",
    "hdl": "hdl_cholesterol",
    "sbp": "systolic_bp",
    "bp_treated": "on_htn_meds",
    "smoker": "current_smoker",
    "diabetes": "has_diabetes",
    "bmi": "bmi",
    "egfr": "egfr",
    "statin": "on_cholesterol_meds",
}


def in_domain(name: str, values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Input of a score, NaN outside the domain of the equations.

    In a 0/1 column without 0, other codes than 1 make it all NaN: of 1 and 2, either may mean yes.
    """
    if name in YES_OR_NO:
        fits = np.isin(values, (0, 1))
        other = np.any(np.isfinite(values) & ~fits) and not np.any(values == 0)
        return np.where(fits & (not other), values, np.nan)
    low, high, _ = RANGES[name]
    return np.where((values >= low) & (values <= high), values, np.nan)


def _outside(name: str, values: np.ndarray) -> list[str]:
    """Note about the cells of an input that are outside its domain."""
    lost = np.isfinite(values) & np.isnan(in_domain(name, values))
    if not lost.any():
        return []
    said = f"{name}: {lost.sum():,} of {len(values):,} cells"
    ending = "and count as missing for the published risks."
    if name in YES_OR_NO:
        hint = " If 1 is yes and 2 is no, write 0 for no." if np.any(values == 2) else ""
        return [f"{said} are in a code other than 0 and 1 {ending}{hint}"]
    low, high, unit = RANGES[name]
    note = f"{said} are outside {low:g} to {high:g} {unit} {ending}"
    if name in OTHER_UNITS:
        other, factor = OTHER_UNITS[name]
        # Cells outside whose converted median is inside have a wrong unit; they are no outliers.
        if low <= float(np.median(values[lost])) * factor <= high:
            note += f" They look like {other}: multiply them by {factor:g}."
    return [note]


def women_scores(
    age: Float[np.ndarray, "N"],
    covariates: Mapping[str, Float[np.ndarray, "N"]],
    endpoint: str = "",
) -> tuple[dict[str, Float[np.ndarray, "N"]], list[str]]:
    """Risks of women by the scores for the endpoint whose inputs are among the covariates; notes.

    A column `black` (0 or 1) selects the pooled cohort equation; where it is unknown there is no
    risk.

    Args:
      endpoint: a key of `SCORES_OF`.
    Raises:
      UserError: an unknown endpoint.
    """
    if endpoint not in SCORES_OF:
        known = ", ".join(filter(None, SCORES_OF))
        raise UserError(f"endpoint is {endpoint!r}, which is none of: {known}.")
    wanted = SCORES_OF[endpoint]
    inputs = {name: PCE_INPUTS if name == "pce" else PREVENT_INPUTS for name in wanted}
    asked = [name for name in wanted if set(inputs[name]) <= set(covariates)]
    if not wanted and set(PCE_INPUTS) <= set(covariates):
        return {}, [f"No published score was made for {endpoint}, so none is compared with it."]
    as_text = {
        column: None
        for name in wanted
        for column in inputs[name]
        if any(each.startswith(f"{column}=") for each in covariates)
    }
    used = dict.fromkeys(column for name in asked for column in inputs[name])
    if "pce" in asked and "black" in covariates:
        used["black"] = None
    notes = [note for column in used for note in _outside(column, covariates[column])]
    if as_text:
        notes.append(
            f"{', '.join(as_text)} is text, so there is no risk by a published score. Write 0 and 1"
            " for no and yes."
        )
    scores: dict[str, np.ndarray] = {}
    for name in asked:
        if name == "pce":
            scores[name], race_notes = _pooled_cohort_of_women(age, covariates)
            notes += race_notes
        else:
            outcome = name.removeprefix("prevent").strip("_") or "cvd"
            scores[name] = prevent(age, covariates, female=np.ones(len(age), bool), outcome=outcome)
    for name, risk in scores.items():
        if without := int(np.isnan(risk).sum()):
            notes.append(
                f"{without:,} of {len(age):,} women have no {name} risk: an input is missing, or"
                " outside the range of the equations."
            )
    return scores, notes


def _pooled_cohort_of_women(
    age: np.ndarray, covariates: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, list[str]]:
    """Risk by the equation of each woman's race, NaN where that is unknown; notes."""
    said = "black" in covariates
    black = in_domain("black", covariates["black"]) if said else np.zeros(len(age))
    # NaN == 1 is False, so unknown race gets the equation of white women. The return statement
    # undoes this.
    risk = pooled_cohort(age, covariates, female=np.ones(len(age), bool), black=black == 1)
    unknown = int(np.isnan(black).sum())
    notes = []
    if not said:
        notes.append(
            "There is no column black: the pooled cohort equation of white women stands for all."
        )
    elif unknown:
        notes.append(
            f"{unknown:,} women whose race is unknown (black) have no pce risk: unknown is not"
            " white."
        )
    return np.where(np.isnan(black), np.nan, risk), notes
