"""Tasks: which studies, which labels, which split, which part of an image."""
