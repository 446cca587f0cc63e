"""Comparison of runs: curves, configs, last figures, and paired tests on the same test studies."""
