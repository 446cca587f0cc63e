"""The cost of a training config, found by compiling it without its accelerator."""
