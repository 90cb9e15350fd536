"""The look for NaN and infinity."""

import pytest
import torch

from exo_lite.engine.torch_c.finite import is_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", [0, 17, 999])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_finds_one_bad_value(dtype, place, value):
    tensor = torch.randn(1000).to(dtype)
    assert is_finite(tensor)
    tensor[place] = value
    assert not is_finite(tensor)


def test_nothing_is_finite():
    assert is_finite(torch.empty(0, 4))
