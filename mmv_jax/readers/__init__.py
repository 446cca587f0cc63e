"""Readers: a file of any kind becomes a Study, or is refused with a code."""
