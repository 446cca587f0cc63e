"""Metrics: what a prediction or a feature is worth, with intervals by patient."""
