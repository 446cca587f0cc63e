"""The commands of `mmv`, a file a group: each parses its words and calls one function."""
