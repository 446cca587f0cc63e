"""Outcomes of a patient cohort: masks and tables become hazard ratios."""
