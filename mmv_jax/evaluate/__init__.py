"""Evaluate: what an encoder is worth, against floors, with intervals by patient."""
