"""Tasks: studies, labels, split, and part of the image."""
