"""A model's files, without torch: which tensors it has, where their bytes lie, and its pieces with their hashes."""
