"""Blocks are given out once, in runs where there are some, and come back."""

from hypothesis import given
from hypothesis import strategies as st

from exo_lite.domain.step import KV_BLOCK_TOKENS
from exo_lite.pipeline.block_pool import BlockPool, Key, block_keys


def test_neighbours_come_first_and_scattered_blocks_serve_too():
    pool = BlockPool(6)
    first, second, third = pool.take(2), pool.take(2), pool.take(2)
    assert (first, second, third) == ((0, 1), (2, 3), (4, 5))
    assert pool.take(1) is None
    pool.give_back([1, 3, 4, 5])
    assert pool.take(3) == (3, 4, 5)
    pool.give_back([5])
    assert pool.take(2) == (1, 5)


@given(st.lists(st.integers(1, 9), max_size=60), st.randoms())
def test_no_block_is_given_twice_and_all_come_back(wanted, rng):
    pool, held = BlockPool(20), []
    for num_blocks in wanted:
        num_free = pool.num_free
        taken = pool.take(num_blocks)
        assert (taken is None) == (num_blocks > num_free)
        if taken is not None:
            held.append(taken)
        given_out = [block for blocks in held for block in blocks]
        assert len(given_out) == len(set(given_out)) == 20 - pool.num_free
        if held and rng.random() < 0.5:
            pool.give_back(held.pop(rng.randrange(len(held))))
    for blocks in held:
        pool.give_back(blocks)
    assert pool.take(20) == tuple(range(20))


KEYS = block_keys(range(5 * KV_BLOCK_TOKENS), "a")


def filled(pool: BlockPool, num_blocks: int, keys: list[Key] = KEYS) -> tuple[int, ...]:
    """Blocks that hold the first tokens of a chain, owned by one sequence."""
    blocks = pool.take(num_blocks)
    assert blocks is not None
    for block, key in zip(blocks, keys, strict=False):
        pool.fill(block, key)
    return blocks


def test_keys_stand_for_all_tokens_up_to_theirs_and_for_one_tenant():
    tokens = list(range(5 * KV_BLOCK_TOKENS))
    assert block_keys(tokens[:-1], "a") == KEYS[:4]
    assert block_keys(tokens[: 2 * KV_BLOCK_TOKENS + 3], "a") == KEYS[:2]
    other = [7, *tokens[1:]]
    assert not set(block_keys(other, "a")) & set(KEYS)
    assert not set(block_keys(tokens, "b")) & set(KEYS)
    assert len(set(block_keys([1] * 640, "a"))) == 10
    assert block_keys([1], "a") == []


def test_what_a_block_holds_is_found_while_it_is_owned_and_after():
    pool = BlockPool(8)
    blocks = filled(pool, 3)
    assert pool.find(KEYS) == list(blocks)
    pool.give_back(blocks)
    assert (pool.find(KEYS), pool.num_free, pool.num_kept) == (list(blocks), 8, 3)
    assert pool.find(KEYS[1:]) == [1, 2]
    assert pool.find([*KEYS[:2], b"?", KEYS[2]]) == [0, 1]


def test_shared_blocks_come_back_with_their_last_owner():
    pool = BlockPool(4)
    blocks = filled(pool, 2)
    second = pool.take(3, pool.find(KEYS))
    assert second == (0, 1, 2)
    pool.give_back(blocks)
    assert (pool.num_free, pool.num_kept) == (1, 0)
    assert pool.take(2) is None
    pool.give_back(second)
    assert (pool.num_free, pool.num_kept) == (4, 2)


def test_kept_blocks_do_not_count_twice():
    pool = BlockPool(4)
    pool.give_back(filled(pool, 3))
    assert pool.take(5, pool.find(KEYS)) is None
    assert pool.take(4, pool.find(KEYS)) == (0, 1, 2, 3)


def test_the_least_recently_used_goes_first_and_the_end_of_a_chain_before_its_beginning():
    pool = BlockPool(6)
    other = block_keys(range(1000, 1000 + 3 * KV_BLOCK_TOKENS), "a")
    first = filled(pool, 3)
    second = filled(pool, 3, other)
    pool.give_back(first)
    pool.give_back(second)
    pool.take(1)
    assert (len(pool.find(KEYS)), len(pool.find(other))) == (2, 3)
    again = pool.take(2, pool.find(KEYS))
    assert again is not None
    pool.give_back(again)  # now the others have not been used for longer
    pool.take(2)
    assert (len(pool.find(KEYS)), len(pool.find(other))) == (2, 1)


def test_of_two_blocks_with_the_same_tokens_one_is_kept():
    pool = BlockPool(4)
    first, second = filled(pool, 2), filled(pool, 2)
    assert pool.find(KEYS) == list(first)
    pool.give_back(second)
    pool.give_back(first)
    assert (pool.num_free, pool.num_kept) == (4, 2)


def test_new_blocks_come_next_to_shared_ones_where_they_can():
    pool = BlockPool(8)
    start = pool.take(3)
    pool.give_back(filled(pool, 2))
    assert start is not None
    pool.give_back(start)
    assert pool.take(4, pool.find(KEYS)) == (3, 4, 5, 6)
