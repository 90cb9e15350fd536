"""Drawing tokens from logits, on numpy: pure functions of scores and parameters."""
