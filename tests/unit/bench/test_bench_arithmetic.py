from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.step import SequenceChunk
from tests.bench import quality
from tests.bench.compare import BANDWIDTH, DECODE, Outcome, Row, Side, rows, table
from tests.bench.contender import Contender, Loaded, Task
from tests.bench.engine import Engine, EngineCase, weight_share
from tests.bench.loading import WholeModel, decode_weight_bytes, load_whole
from tests.bench.make_model import make_checkpoint
from tests.bench.memory import WorkerMemory, peak_resident_bytes
from tests.bench.quality import Pass, run_pass, windows_of
from tests.bench.shapes import TINY
from tests.daemons import MIB


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def model(folder: Path) -> WholeModel:
    return load_whole(folder, LoadRequest("float32", context_length=1024, num_slots=4))


ENGINE = EngineCase("1b", "int8", 2)


def test_the_share_of_the_bandwidth_is_that_of_reading_the_weights_once_a_step() -> None:
    assert weight_share(Loaded("", weight_bytes=10), tokens_per_second=8.0, batch=4, bandwidth=100.0) == 0.2


def test_a_tied_head_is_read_and_so_is_the_embedding_that_it_is(model: WholeModel) -> None:
    assert decode_weight_bytes(model.shard) == model.shard.num_bytes == 4 * TINY.num_parameters


@pytest.mark.parametrize("task", [Task("prefill", 300), Task("decode", 3), Task("decode", 3, batch=4)])
def test_the_engine_measures(model: WholeModel, task: Task) -> None:
    rate = Engine(model).measure(task)
    assert rate > 0


def test_the_engine_decodes_what_it_would_prefill(model: WholeModel) -> None:
    """Whatever is measured is real: after a prefill, the next token is the model's own."""
    token_id = Engine(model).prefill(0, 300)
    assert 0 <= token_id < TINY.vocab_size
    assert model.kv_cache.length(0) == 300


def test_the_table_has_medians_and_ratios() -> None:
    row = Row("bandwidth", Side(ENGINE, DECODE), Side(ENGINE, BANDWIDTH), is_bytes=True)
    outcome = Outcome(row, ((8.0, 10.0), (9.0, 10.0), (3.0, 12.0)))
    assert outcome.medians == (8.0, 10.0)
    assert outcome.ratio == pytest.approx(0.8)
    assert outcome.ratio_range == pytest.approx((0.25, 0.9))
    name = "exo_lite 1b int8, threads 2"
    figures = f"{name}: decode, batch 1 | 8.0 GB/s | {name}: read bandwidth | 10.0 GB/s"
    assert table([outcome]).splitlines()[-1] == f"| bandwidth | {figures} | 0.80 | 0.25 to 0.90 |"


def test_rows_have_names_of_their_own() -> None:
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)


SCRIPTED = """
from tests.bench.contender import Loaded, Task, serve
def measure(task):
    print("engines print")
    if task.kind == "bandwidth":
        raise ValueError("no such thing")
    return task.num_tokens * task.batch
serve(lambda: (Loaded("scripted", 7), measure))
"""


def test_a_contender_answers_task_by_task_and_its_end_is_told() -> None:
    with Contender("scripted", [sys.executable, "-c", SCRIPTED]) as contender:
        assert contender.loaded == Loaded("scripted", 7)
        assert contender.measure(Task("decode", 5, batch=3)) == 15.0
        assert contender.measure(Task("prefill", 4)) == 4.0
        with pytest.raises(RuntimeError, match=r"(?s)scripted ended.*no such thing"):
            contender.measure(Task("bandwidth"))


def test_a_contender_that_cannot_load_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)broken ended.*out of luck"):
        Contender("broken", [sys.executable, "-c", "raise SystemExit('out of luck')"])


def test_a_worker_may_take_a_tenth_more_than_planned_and_its_interpreter() -> None:
    def memory(peak_mib: int) -> WorkerMemory:
        return WorkerMemory("a", "0..3", planned_bytes=1000 * MIB, peak_bytes=peak_mib * MIB)

    assert memory(0).allowed_bytes == 1400 * MIB
    assert memory(1400).is_within
    assert not memory(1401).is_within
    assert memory(1401).line() == "| a | 0..3 | 1000 | 1401 | 1400 | NO |"


def test_the_peak_is_read_from_the_processs_status() -> None:
    assert peak_resident_bytes("VmPeak:\t  900 kB\nVmHWM:\t  400 kB\nVmRSS:\t  300 kB\n") == 400 * 1024


def test_windows_stand_one_behind_the_other() -> None:
    assert windows_of(range(8), 2, 3) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(SystemExit, match="8 tokens: enough for 2 windows"):
        windows_of(range(8), 3, 3)


def test_perplexity_and_agreement() -> None:
    reference = Pass(math.log(2.0), torch.tensor([1, 2, 3, 4]))
    assert reference.perplexity == pytest.approx(2.0)
    assert Pass(0.0, torch.tensor([1, 2, 3, 0])).agreement(reference) == 0.75


def test_a_pass_is_the_likelihood_of_every_token_but_a_windows_first(model: WholeModel) -> None:
    window = [(7 * index) % TINY.vocab_size for index in range(600)]
    found = run_pass(model, [window, window])
    (first, _), *_ = quality._chunks(model, window)
    assert found.likeliest.shape == (1200,)
    assert torch.equal(found.likeliest[:256], first.argmax(dim=-1))
    assert found.mean_nll == pytest.approx(_whole_nll(model, window), abs=1e-4)


def _whole_nll(model: WholeModel, window: list[int]) -> float:
    """The same in one chunk, by the definition."""
    chunk = SequenceChunk(0, 0, len(window))
    logits = model.shard.logits(model.shard.forward(torch.tensor(window), [chunk], model.kv_cache))
    scores = logits.log_softmax(dim=-1)[:-1].gather(1, torch.tensor(window[1:]).unsqueeze(1))
    return float(-scores.mean())
