"""Published checkpoints of encoders, as safe folders that an evaluation reads."""
