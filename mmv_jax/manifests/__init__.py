"""Manifests: the CSV that lists the files of a store, and recipes that write one for a public data
set.
"""
