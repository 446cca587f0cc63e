"""Kinds of task, one file each: its probe, its metrics, its loss."""
