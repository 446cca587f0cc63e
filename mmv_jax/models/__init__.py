"""The encoder, its heads and decoders, and the baseline networks."""
