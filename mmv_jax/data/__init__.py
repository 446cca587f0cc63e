"""Data: crops, tokens and the packing plan, and the pipeline from a store to packed rows."""
