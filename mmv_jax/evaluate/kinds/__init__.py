"""Kinds of task, one file each: probe, metrics and loss."""
