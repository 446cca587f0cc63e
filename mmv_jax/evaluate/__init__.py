"""Evaluation of an encoder against floors, with confidence intervals by patient."""
