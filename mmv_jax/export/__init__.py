"""Exports of a checkpoint's encoder: weights, programs and folders for other tools."""
