"""Runs beside each other: curves, configs, last figures, and the same test studies."""
