"""The loss terms of pretraining, one file each, and their table."""
