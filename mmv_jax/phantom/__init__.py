"""Phantoms: a seed -> files with known truth."""
