"""Encoders and heads that are trained on a task, and the cache of their results."""
