"""Short passes over rows in C, against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it

from exo_lite.engine.torch_c.native.rows import MAX_NUMBERS, all_finite, embed, greatest, is_quick


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1023, 1024, 1025, 49152])
def test_the_greatest_of_each_row_is_found_wherever_it_stands(size: int):
    rows = torch.randn(64, size)
    places = torch.linspace(0, size - 1, 64).long()
    rows[torch.arange(64), places] = 100.0
    assert greatest(rows) == places.tolist()


def test_the_first_among_equals_is_the_greatest():
    rows = torch.full((3, 4000), -torch.inf)
    rows[0] = -5.0
    for place in (2999, 7, 3500):
        rows[1, place] = rows[2, place + 400] = 0.0
    rows[1, 7] = -0.0
    assert greatest(rows) == [0, 7, 407]


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 16, 1002])
def test_one_bad_value_is_found(value: float, place: int):
    numbers = torch.full((1003,), 3.4e38)
    assert all_finite(numbers)
    numbers[place] = value
    assert not all_finite(numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_a_table_come_as_floats(dtype: torch.dtype):
    table, token_ids = torch.randn(10, 72).to(dtype), torch.tensor([9, 0, 3, 3])
    embedded = embed(token_ids, table)
    assert embedded is not None
    assert torch.equal(embedded, F.embedding(token_ids, table).float())


@pytest.mark.parametrize(
    "token_ids",
    [
        torch.tensor([0, 10]),
        torch.tensor([-1]),
        torch.tensor([[1]]),
        torch.tensor([1], dtype=torch.int32),
        torch.tensor([1, 2, 3, 4])[::2],
    ],
)
def test_what_is_no_row_of_the_table_is_left_to_others(token_ids: torch.Tensor):
    assert embed(token_ids, torch.randn(10, 16)) is None


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(0),
        torch.ones(4, dtype=torch.bfloat16),
        torch.ones(4, 4).T[1:],
        torch.ones(1).expand(MAX_NUMBERS + 1),
        torch.empty(MAX_NUMBERS + 1),
    ],
)
def test_others_take_their_time(tensor: torch.Tensor):
    assert is_quick(torch.ones(4))
    assert not is_quick(tensor)
