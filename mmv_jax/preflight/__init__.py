"""What a training config costs, found by compiling it without its accelerator."""
