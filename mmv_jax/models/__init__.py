"""The encoder, its heads and decoders, and the networks that it is compared with."""
