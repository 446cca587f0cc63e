"""Metrics of predictions and of features, with confidence intervals by patient."""
