"""Encoders and heads that are trained on a task, and what is kept of them."""
