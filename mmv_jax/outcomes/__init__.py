"""Outcomes of a cohort: from calcified areas and follow-up to hazard ratios and predicted risk."""
