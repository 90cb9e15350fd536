from __future__ import annotations

import pytest

from exo_lite.domain.chat import AnswerOptions, ChatRequest, Document
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.request import Sampling

OPTIONS = AnswerOptions("tiny", Sampling())


def test_what_no_engine_obeys_yet_is_refused_whatever_dialect_asks() -> None:
    tool: Document = {"type": "function", "function": {"name": "look"}}
    with pytest.raises(InvalidRequest, match="tools is not supported yet") as refused:
        ChatRequest(OPTIONS, (), tools=(tool,))
    assert refused.value.param == "tools"
    with pytest.raises(InvalidRequest) as refused:
        ChatRequest(OPTIONS, (), response_format={})
    assert refused.value.param == "response_format"
