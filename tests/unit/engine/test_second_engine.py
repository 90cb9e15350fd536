"""A second engine is a folder and a line in the table: stages, pipelines and planning take it as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from exo_lite.domain.engine import are_same_numbers
from exo_lite.domain.ids import Epoch, ModelId, NodeId, RequestId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.engine.engine import Engine
from exo_lite.engine.table import ENGINES, TORCH_C, footprints
from exo_lite.pipeline.scheduler import Features
from exo_lite.planning.plan import plan
from tests.numpy_engine import NumpyEngine
from tests.unit.pipeline.local_pipeline import SPEC, LocalPipeline, open_pipeline, write_checkpoint

NUMPY = NumpyEngine()
BOTH = {**ENGINES, NUMPY.name: NUMPY}
MODEL = ModelId("tiny")
GREEDY = Sampling(temperature=0.0, logprobs=3)
REPEATING = Sampling(temperature=0.0, logit_bias=tuple((token_id, 60.0) for token_id in range(3)), logprobs=3)
DRAWN = Sampling(temperature=0.4, seed=9, top_k=3, presence_penalty=-2.0, logprobs=2)
"""Both draw what they drew before, so that there is something to guess."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder)
    return folder


def opened(checkpoint: Path, *engines: Engine, features: Features | None = None) -> LocalPipeline:
    return open_pipeline(checkpoint, "none", features or Features(is_exact=False), engines=engines)


def request(name: str, prompt: Sequence[int], sampling: Sampling, num_tokens: int = 20) -> GenerateRequest:
    return GenerateRequest(RequestId(name), MODEL, Epoch(1), 0, AnswerRequest(tuple(prompt), num_tokens, sampling))


def prompts() -> list[list[int]]:
    return [[(7 * place + index) % SPEC.vocab_size for place in range(70 + index)] for index in range(3)]


def ids(answers: list[list[Token]]) -> list[list[int]]:
    return [[token.token_id for token in answer] for answer in answers]


@pytest.mark.parametrize(
    "engines", [(NUMPY, NUMPY), (TORCH_C, NUMPY), (NUMPY, TORCH_C)], ids=["alone", "last", "first"]
)
def test_two_stages_answer_as_those_of_the_first_engine(checkpoint: Path, engines: tuple[Engine, Engine]):
    """Hidden states are bytes: each engine reads the other's."""
    requests = [request(str(index), prompt, GREEDY) for index, prompt in enumerate(prompts())]
    expected = opened(checkpoint, TORCH_C, TORCH_C).answer(*requests)
    found = opened(checkpoint, *engines).answer(*requests)
    assert ids(found) == ids(expected)
    for answer, reference in zip(found, expected, strict=True):
        for token, other in zip(answer, reference, strict=True):
            assert token.logprobs is not None
            assert other.logprobs is not None
            assert token.logprobs.chosen == pytest.approx(other.logprobs.chosen, abs=1e-3)


@pytest.mark.parametrize("sampling", [REPEATING, DRAWN], ids=["greedy", "drawn"])
def test_its_exact_numbers_let_guesses_and_shared_blocks_change_no_bit(checkpoint: Path, sampling: Sampling):
    phrase = prompts()[0][:9]
    requests = [request(str(index), phrase * (8 + index), sampling, 40) for index in range(2)]
    plain = opened(checkpoint, NUMPY, NUMPY, features=Features(prefix_cache=False, speculation=False))
    clever = opened(checkpoint, NUMPY, NUMPY, features=Features())
    expected = [plain.answer(one) for one in requests]
    assert [_bare(clever.answer(one)) for one in requests] == [_bare(one) for one in expected]
    assert clever.scheduler.counts.num_cached_tokens > 0
    assert clever.scheduler.counts.num_proposed_tokens > 0


def _bare(answers: list[list[Token]]) -> list[tuple[int, object]]:
    return [(token.token_id, token.logprobs) for answer in answers for token in answer]


def test_stages_of_two_engines_are_not_taken_for_the_same_numbers(checkpoint: Path):
    numerics = [
        stage.numerics for stage in open_pipeline(checkpoint, "int8", Features(), engines=(TORCH_C, NUMPY)).stages
    ]
    assert None not in numerics
    assert not are_same_numbers(numerics)
    assert are_same_numbers(numerics[1:] * 2)
    assert not are_same_numbers([None, None])


def planned(memory_bytes: dict[str, int], *engines: str) -> Plan | Refusal:
    options = LoadOptions("float32", context_length=64)
    named = zip(memory_bytes.items(), engines, strict=True)
    offers = [NodeOffer(NodeId(name), name, size, engine=engine) for (name, size), engine in named]
    return plan(MODEL, SPEC.n_layers, options, offers, footprints(SPEC, options, BOTH))


def test_planning_takes_the_bytes_of_each_nodes_own_engine():
    options = LoadOptions("float32", context_length=64)
    sizes = {name: engine.footprint(SPEC, options) for name, engine in BOTH.items()}
    ample = 2 * max(one.model_bytes for one in sizes.values())
    outcome = planned({"a": ample, "b": ample}, TORCH_C.name, NUMPY.name)
    assert isinstance(outcome, Plan)
    by_name = {"a": TORCH_C.name, "b": NUMPY.name}
    for part in outcome.assignments:
        taken = sizes[by_name[part.name]].of(part.shard)
        assert (part.weight_bytes, part.kv_cache_bytes, part.working_bytes) == (
            taken.weight_bytes,
            taken.kv_cache_bytes,
            taken.working_bytes,
        )


def test_what_fits_one_engine_may_be_too_much_for_another():
    options = LoadOptions("float32", context_length=64)
    small, large = sorted((engine.footprint(SPEC, options).model_bytes, name) for name, engine in BOTH.items())
    assert small[0] < large[0]
    assert isinstance(planned({"a": small[0]}, small[1]), Plan)
    assert isinstance(planned({"a": small[0]}, large[1]), Refusal)
