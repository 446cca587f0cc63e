"""The page of an evaluation: tables, pictures, subspaces."""
