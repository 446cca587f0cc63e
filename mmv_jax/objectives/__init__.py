"""Losses, one file each, and the targets and batches that they share."""
