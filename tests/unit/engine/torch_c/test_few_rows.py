"""Few rows times float weights: what torch computes, rounded once, and the same for a row beside others."""

from __future__ import annotations

import pytest
import torch

from exo_lite.engine.torch_c.native.few_rows import CANDIDATES, FewRows, few_rows_for
from exo_lite.engine.torch_c.native.kernels import native_library

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Of the result's type, or of float32 sums, beside the greatest value."""


@pytest.fixture
def few_rows() -> FewRows:
    library = native_library()
    assert library is not None, "the suite needs a C compiler"
    return FewRows(library, 8)


def matrices(dtype: torch.dtype, rows: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, weights, biases."""
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, k), (n, k), (n,)))
    return x, weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
def test_products_are_exact_but_for_one_rounding(few_rows: FewRows, dtype: torch.dtype, rows: int):
    x, weight, bias = matrices(dtype, rows, n=203, k=192)  # neither whole groups of channels nor even shares
    expected = x.double() @ weight.double().t()
    greatest = float(expected.abs().max())
    assert (few_rows(x, weight, None).double() - expected).abs().max() <= ROUNDING[dtype] * greatest
    with_bias = few_rows(x, weight, bias)
    assert (with_bias.double() - expected - bias.double()).abs().max() <= 2 * ROUNDING[dtype] * greatest
    assert with_bias.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_alone_and_beside_others(few_rows: FewRows, dtype: torch.dtype):
    x, weight, bias = matrices(dtype, 8, n=64, k=64)
    together = few_rows(x, weight, bias)
    for row in range(8):
        assert torch.equal(few_rows(x[row : row + 1], weight, bias), together[row : row + 1])


def test_more_rows_and_odd_widths_are_not_its(few_rows: FewRows):
    weight = torch.zeros((32, 64))
    assert few_rows.is_for(torch.zeros((8, 64)), weight)
    assert not few_rows.is_for(torch.zeros((9, 64)), weight)
    assert not few_rows.is_for(torch.zeros((1, 40)), torch.zeros((32, 40)))
    assert few_rows_for([torch.zeros((32, 40))]) is None


def test_as_many_rows_are_taken_as_were_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch):
    weight = torch.zeros((64, 64))
    seconds = iter([1.0, 2.0, 1.0, 2.0, 3.0, 2.0])  # ours and torch's in turn: faster with 1 and 2 rows, slower with 4
    monkeypatch.setattr("exo_lite.engine.torch_c.native.few_rows._best_seconds", lambda call, samples: next(seconds))
    found = few_rows_for([weight])
    assert found is not None
    assert [found.is_for(torch.zeros((rows, 64)), weight) for rows in CANDIDATES] == [True, True, False, False]
    seconds = iter([2.0, 1.0])
    assert few_rows_for([weight]) is None


def test_small_matrices_of_two_byte_types_stay_with_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exo_lite.engine.torch_c.native.few_rows._best_seconds", lambda call, samples: 1.0)
    assert few_rows_for([torch.zeros((1024, 2048), dtype=torch.bfloat16)]) is None
    assert few_rows_for([torch.zeros((1024, 2048))]) is not None
    assert few_rows_for([torch.zeros((2048, 2048), dtype=torch.bfloat16)]) is not None
