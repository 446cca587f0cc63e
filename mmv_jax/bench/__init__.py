"""Speed of this package and of peers, measured in one run."""
