"""Attention of one sequence against the textbook formula."""

import pytest
import torch

from exo_lite.engine.torch_c.attention import attend, causal_mask

CPU = torch.device("cpu")


def textbook(queries, keys, values, position):
    num_tokens, num_heads, head_dim = queries.shape
    group = num_heads // keys.shape[1]
    keys, values = (one[0].repeat_interleave(group, dim=0).double() for one in (keys, values))
    scores = torch.einsum("thd,hld->htl", queries.double(), keys) / head_dim**0.5
    is_later = torch.arange(keys.shape[1])[None, :] > position + torch.arange(num_tokens)[:, None]
    weights = scores.masked_fill(is_later, float("-inf")).softmax(-1)
    return torch.einsum("htl,hld->thd", weights, values).reshape(num_tokens, -1).float()


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize(("position", "num_tokens"), [(0, 1), (0, 9), (12, 1), (12, 2), (12, 9), (600, 70)])
def test_equals_the_formula(num_heads, num_kv_heads, position, num_tokens):
    torch.manual_seed(position + num_tokens)
    length = position + num_tokens
    queries = torch.randn(num_tokens, num_heads, 16)
    keys, values = torch.randn(2, 1, num_kv_heads, length, 16)
    mask = causal_mask(position, num_tokens, torch.float32, CPU)
    expected = textbook(queries, keys, values, position)
    torch.testing.assert_close(attend(queries, keys, values, mask), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("position", "num_tokens"), [(0, 1), (0, 9), (12, 1), (12, 9)])
def test_smaller_types_stay_near_the_formula(dtype, position, num_tokens):
    torch.manual_seed(position + num_tokens)
    queries = torch.randn(num_tokens, 6, 16).to(dtype)
    keys, values = torch.randn(2, 1, 2, position + num_tokens, 16).to(dtype)
    mask = causal_mask(position, num_tokens, dtype, CPU)
    expected = textbook(queries, keys, values.double(), position)
    torch.testing.assert_close(attend(queries, keys, values, mask).float(), expected, atol=2e-2, rtol=0)


def test_a_mask_hides_what_is_later():
    infinity = float("inf")
    mask = causal_mask(1, 2, torch.float32, CPU)
    assert mask is not None
    assert mask.tolist() == [[0, 0, -infinity], [0, 0, 0]]
    assert causal_mask(0, 5, torch.float32, CPU) is None
    assert causal_mask(7, 1, torch.float32, CPU) is None
