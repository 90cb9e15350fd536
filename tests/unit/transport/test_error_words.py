"""What a call that failed is told as: our words, and never gRPC's."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from grpc import StatusCode

from exo_lite.domain.errors import ConnectionRefused, NodeLost
from exo_lite.transport.errors import FAILED_STAGES_KEY, _metadata, error_from_status


@dataclass
class Ended:
    """A call that gRPC itself ended."""

    status: StatusCode
    text: str
    metadata: tuple[tuple[str, str], ...] = ()

    def code(self) -> StatusCode:
        return self.status

    def details(self) -> str:
        return self.text

    def trailing_metadata(self) -> Iterable[tuple[str, str]]:
        return self.metadata


CASES = [
    (StatusCode.UNAVAILABLE, "failed to connect: Connection refused (111)", "its process is gone"),
    (
        StatusCode.UNAVAILABLE,
        "Stream removed (ping timeout)",
        "stopped answering: it hangs, or the network to it is cut",
    ),
    (StatusCode.UNAVAILABLE, "keepalive watchdog timeout", "stopped answering"),
    (StatusCode.UNAVAILABLE, "Socket closed", "closed the connection"),
    (StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer", "closed the connection"),
    (StatusCode.UNAVAILABLE, "No route to host", "there is no network route to it"),
    (StatusCode.UNAVAILABLE, "something new", "it is gone, or the network to it is"),
    (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "did not answer in time"),
    (StatusCode.UNIMPLEMENTED, "Method not found!", "another version"),
    (StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max", "how large a message may be"),
    (StatusCode.CANCELLED, "RST_STREAM with error code 8", "cancelled"),
    (StatusCode.INTERNAL, "RST_STREAM with error code 2", "its log says more"),
    (StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>", "its log says more"),
]


@pytest.mark.parametrize(("status", "details", "words"), CASES)
def test_a_call_that_failed_is_told_in_our_words_and_the_raw_ones_are_in_the_debug_log(
    status: StatusCode, details: str, words: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, logger="exo_lite.transport.errors")
    error = error_from_status(Ended(status, details), peer="attic (10.0.0.7:1)")
    assert isinstance(error, NodeLost)
    assert str(error).startswith("attic (10.0.0.7:1) ")
    assert words in str(error)
    assert status.name not in str(error)
    assert details not in str(error)
    assert [record.__dict__["details"] for record in caplog.records] == [details]


def test_a_refused_connection_is_one_by_its_class_too():
    refused = error_from_status(Ended(StatusCode.UNAVAILABLE, "Connection refused"), peer="attic")
    assert isinstance(refused, ConnectionRefused)


def test_a_peer_that_answered_with_a_failure_was_not_silent():
    for status, is_unanswered in ((StatusCode.UNAVAILABLE, True), (StatusCode.INTERNAL, False)):
        error = error_from_status(Ended(status, ""), peer="attic")
        assert isinstance(error, NodeLost)
        assert error.is_unanswered is is_unanswered


@pytest.mark.parametrize("stages", [(2, 0), None])
def test_between_which_stages_a_stream_broke_off_travels_with_the_error(stages: tuple[int, int] | None):
    raised = NodeLost("attic is gone")
    raised.failed_stages = stages
    error = error_from_status(Ended(StatusCode.UNAVAILABLE, "attic is gone", _metadata(raised)), peer="cellar")
    assert isinstance(error, NodeLost)
    assert (str(error), error.failed_stages, error.is_unanswered) == ("attic is gone", stages, False)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2"])
def test_odd_words_on_stages_are_none(text: str):
    metadata = (*_metadata(NodeLost("x")), (FAILED_STAGES_KEY, text))
    error = error_from_status(Ended(StatusCode.UNAVAILABLE, "x", metadata), peer="cellar")
    assert isinstance(error, NodeLost)
    assert error.failed_stages is None
