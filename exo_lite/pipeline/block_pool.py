"""Blocks of the KV cache: whose they are, and which ones nobody has are kept for what they hold."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain, takewhile

from exo_lite.domain.step import KV_BLOCK_TOKENS

Key = bytes
"""Stands for a full block's tokens and all those before them: equal keys, equal tokens (BLAKE2b, 256 bits)."""


def first_key(owner: str) -> Key:
    """Return the key before any block. Each owner has its own chains: nobody learns from a cache what others asked."""
    return blake2b(owner.encode(), digest_size=32, person=b"exo-lite kv").digest()


def next_key(key: Key, token_ids: Sequence[int]) -> Key:
    """Return the key of the block that holds these tokens, after the one with `key`."""
    return blake2b(key + array("I", token_ids).tobytes(), digest_size=32, person=b"exo-lite kv").digest()


def block_keys(token_ids: Sequence[int], owner: str) -> list[Key]:
    """Return the keys of all blocks that the tokens fill."""
    keys = [first_key(owner)]
    for start in range(0, len(token_ids) - KV_BLOCK_TOKENS + 1, KV_BLOCK_TOKENS):
        keys.append(next_key(keys[-1], token_ids[start : start + KV_BLOCK_TOKENS]))
    return keys[1:]


class BlockPool:
    """Blocks 0 to num_blocks - 1. Gives out runs of neighbours where it can: those are read without being gathered.

    A full block whose key is known may belong to several sequences at once. When the last of them gives it back it is
    kept, and goes to somebody else, least recently used first, only when no other block is free.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = set(range(num_blocks))
        self._kept: dict[int, None] = {}
        """Least recently used first."""
        self._num_owners = [0] * num_blocks
        self._keys: dict[int, Key] = {}
        self._blocks: dict[Key, int] = {}

    @property
    def num_free(self) -> int:
        """Nobody's, the kept ones included."""
        return len(self._free) + len(self._kept)

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    def find(self, keys: Sequence[Key]) -> list[int]:
        """The blocks of the longest known beginning of a chain of keys."""
        return [self._blocks[key] for key in takewhile(self._blocks.__contains__, keys)]

    def take(self, num_blocks: int, shared: Sequence[int] = ()) -> tuple[int, ...] | None:
        """`shared`, found before, and new ones up to so many; None, and nothing taken, where there are too few."""
        num_new = num_blocks - len(shared)
        if num_new > self.num_free - sum(block in self._kept for block in shared):
            return None
        for block in shared:
            self._kept.pop(block, None)
        while len(self._free) < num_new:
            self._forget(next(iter(self._kept)))
        taken = (*shared, *self._take_free(num_new, after=shared[-1] if shared else None))
        for block in taken:
            self._num_owners[block] += 1
        return taken

    def fill(self, block: int, key: Key) -> None:
        """Register an owned block that every stage has filled; of two with the same tokens the first is found again."""
        if key not in self._blocks:
            self._blocks[key] = block
            self._keys[block] = key

    def give_back(self, blocks: Sequence[int]) -> None:
        """Free a sequence's blocks, in order. The last ones are reused first: they need those before them."""
        for block in reversed(blocks):
            self._num_owners[block] -= 1
            if self._num_owners[block]:
                continue
            if block in self._keys:
                self._kept[block] = None
            else:
                self._free.add(block)

    def _forget(self, block: int) -> None:
        del self._kept[block], self._blocks[self._keys.pop(block)]
        self._free.add(block)

    def _take_free(self, num_blocks: int, *, after: int | None) -> list[int]:
        """The neighbours of `after` if they are free, else the first run that is long enough, else scattered ones."""
        in_order = sorted(self._free)
        starts = range(len(in_order) - num_blocks + 1)
        next_to = [in_order.index(after + 1)] if after is not None and after + 1 in self._free else []
        start = next((one for one in chain(next_to, starts) if _is_run(in_order, one, num_blocks)), 0)
        taken = in_order[start : start + num_blocks]
        self._free.difference_update(taken)
        return taken


def _is_run(in_order: Sequence[int], start: int, num_blocks: int) -> bool:
    end = start + num_blocks
    return num_blocks == 0 or (end <= len(in_order) and in_order[end - 1] - in_order[start] == num_blocks - 1)
