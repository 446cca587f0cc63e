"""Manifests: the list of files of a store, and the recipes that make one of a public data set."""
