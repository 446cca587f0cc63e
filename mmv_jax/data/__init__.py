"""From the store to packed rows: crops, tokens, the plan, and the pipeline that reads it."""
