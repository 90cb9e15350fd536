"""Planning: from the bytes of a layer range to a Plan or a Refusal. Pure functions."""
