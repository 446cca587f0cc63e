"""Manifests: CSV lists of the files of a store, and recipes to write them for public data sets."""
