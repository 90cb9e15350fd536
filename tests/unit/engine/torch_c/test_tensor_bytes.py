"""Hidden states to bytes and back."""

import pytest
import torch

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.step import HiddenStates
from exo_lite.engine.torch_c.dtypes import TORCH_DTYPES
from exo_lite.engine.torch_c.tensor_bytes import from_hidden_states, to_hidden_states


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_round_trip(dtype, num_tokens):
    tensor = torch.randn(num_tokens, 6).to(TORCH_DTYPES[dtype])
    sent = to_hidden_states(tensor)
    assert (sent.dtype, sent.num_tokens, sent.hidden_size) == (dtype, num_tokens, 6)
    received = from_hidden_states(sent, "cpu")
    assert received.dtype == tensor.dtype
    assert torch.equal(received, tensor)


def test_bytes_are_little_endian_and_row_major():
    tensor = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert to_hidden_states(tensor).data.hex() == "0000803f000000400000404000008040"
    assert to_hidden_states(tensor.T).data.hex() == "0000803f000040400000004000008040"


def test_results_of_inference_mode_go_out():
    with torch.inference_mode():
        tensor = torch.ones(1, 2, dtype=torch.bfloat16)
    assert to_hidden_states(tensor).data == b"\x80\x3f\x80\x3f"


def test_what_was_received_can_be_written():
    received = from_hidden_states(to_hidden_states(torch.zeros(2, 2)), "cpu")
    received.add_(1)
    assert received.sum() == 4


@pytest.mark.parametrize("tensor", [torch.zeros(3), torch.zeros(1, 1, 3), torch.zeros(1, 3, dtype=torch.float64)])
def test_other_tensors_do_not_go_out(tensor):
    with pytest.raises(MalformedStep, match=r"hidden states must be \[tokens, hidden_size\] floats"):
        to_hidden_states(tensor)


@pytest.mark.parametrize(("num_tokens", "hidden_size"), [(-1, -1), (0, 0), (-2, 0)])
def test_shapes_that_no_tensor_has(num_tokens, hidden_size):
    hidden_states = HiddenStates("float32", num_tokens, hidden_size, bytes(4 * num_tokens * hidden_size))
    with pytest.raises(MalformedStep, match="cannot have the shape"):
        from_hidden_states(hidden_states, "cpu")
