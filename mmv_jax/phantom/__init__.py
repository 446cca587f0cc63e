"""Phantoms: image files with known truth, drawn from a seed."""
