"""Encoders to evaluate, our own and others, and their features."""
