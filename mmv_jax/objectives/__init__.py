"""Loss terms of pretraining: one file a term, and the table of them."""
