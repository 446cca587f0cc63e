"""Encoders that are evaluated, ours and others, and the features that they give."""
