"""The decoder in torch: a shard of layers, its KV cache, its weights and the sampler."""
