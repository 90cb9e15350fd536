"""The parts that compute: what a shard engine is, and the engines that there are."""
