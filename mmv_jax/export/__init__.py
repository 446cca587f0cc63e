"""The encoder of a checkpoint, for others: weights, programs and folders that other tools open."""
