"""What the engine finds on machines with and without accelerators, as torch would tell of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from exo_lite.domain.engine import Detected
from exo_lite.engine.torch_c import detection
from exo_lite.engine.torch_c.detection import detect
from exo_lite.engine.torch_c.numerics import C_KERNELS, torch_numerics


class Machine:
    """Sets what torch tells of the machine, and whether our kernels build."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def has(self, *, cuda: Sequence[str] = (), mps: bool = False, kernels: bool = True) -> None:
        replace = self._monkeypatch.setattr
        replace(torch.cuda, "is_available", lambda: len(cuda) > 0)
        replace(torch.cuda, "device_count", lambda: len(cuda))
        replace(torch.cuda, "get_device_name", lambda index: cuda[index])
        replace(torch.backends.mps, "is_available", lambda: mps)
        replace(detection, "load_library", lambda: object() if kernels else None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_a_processor_computes_in_our_kernels_where_they_build(machine: Machine, wanted: str) -> None:
    machine.has()
    assert detect(wanted) == Detected("cpu", "", "cpu", C_KERNELS)
    machine.has(kernels=False)
    assert detect(wanted) == Detected("cpu", "", "cpu", torch_numerics("cpu"))


def test_an_accelerator_is_taken_before_the_processor(machine: Machine) -> None:
    machine.has(cuda=["H200", "T4"])
    assert detect("auto") == Detected("cuda", "H200", "cuda:0", torch_numerics("cuda"))
    machine.has(mps=True)
    assert detect("auto") == Detected("mps", "Apple", "mps", torch_numerics("mps"))


@pytest.mark.parametrize(("wanted", "name", "device"), [("cuda", "H200", "cuda:0"), ("cuda:1", "T4", "cuda:1")])
def test_a_device_is_taken_by_its_number(machine: Machine, wanted: str, name: str, device: str) -> None:
    machine.has(cuda=["H200", "T4"])
    assert detect(wanted) == Detected("cuda", name, device, torch_numerics("cuda"))


def test_the_processor_is_taken_where_it_is_wanted_beside_an_accelerator(machine: Machine) -> None:
    machine.has(cuda=["H200"], mps=True)
    assert detect("cpu").kind == "cpu"


def test_what_is_not_there_is_refused(machine: Machine) -> None:
    machine.has(cuda=["H200"])
    with pytest.raises(LookupError, match="torch sees 1 CUDA devices; is it a CUDA build"):
        detect("cuda:1")
    with pytest.raises(LookupError, match="no Metal device"):
        detect("mps")
    machine.has()
    with pytest.raises(LookupError, match="torch sees 0 CUDA devices"):
        detect("cuda")


def test_numerics_of_different_kinds_differ() -> None:
    assert len({C_KERNELS, *(torch_numerics(kind) for kind in ("cpu", "cuda", "mps"))}) == 4
