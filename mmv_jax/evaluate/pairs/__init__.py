"""Representations of two modalities of the same patients."""
