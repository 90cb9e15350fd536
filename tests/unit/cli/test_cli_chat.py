"""The chat, on a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CHAT = "/v1/chat/completions"


@contextmanager
def chatting(daemon, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The program with a terminal as its stdin, and our end of that."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "exo_lite", "run", "tiny", *flags, "--http", daemon.address]
    with subprocess.Popen(command, stdin=its, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        os.close(its)
        try:
            yield running, ours
        finally:
            running.kill()
            os.close(ours)


@pytest.fixture(autouse=True)
def _interruptible() -> None:
    """A suite that a script started in its background ignores SIGINT, and so would the programs that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def ready(daemon, documents, home):
    daemon.on("GET", "/api/v1/state", documents.state(documents.model()))
    daemon.streams("POST", CHAT, documents.chat("One"), documents.chat("Two"))
    return daemon


def conversations(daemon) -> list[list[str]]:
    return [[message["content"] for message in body["messages"]] for body in daemon.bodies(CHAT)]


def test_keeps_the_conversation_until_it_is_cleared(ready):
    with chatting(ready, "--system", "Count.") as (running, terminal):
        os.write(terminal, b"first\n\nsecond\n/clear\nthird\n/help\n/bye\n")
        stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 0
    assert stdout == b"One\nTwo\nTwo\n"
    assert conversations(ready) == [
        ["Count.", "first"],
        ["Count.", "first", "One", "second"],
        ["Count.", "third"],
    ]
    assert stderr.count(b"tokens/s") == 3
    assert b"Unknown command /help" in stderr


def test_ctrl_d_leaves(ready):
    with chatting(ready) as (running, terminal):
        os.write(terminal, b"first\n\x04")
        stdout, _ = running.communicate(timeout=30)
    assert (running.returncode, stdout) == (0, b"One\n")


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(ready, documents):
    ready.streams("POST", CHAT, documents.chat("Par")[:2], documents.chat("Two"), holds=True)
    with chatting(ready) as (running, terminal):
        os.write(terminal, b"first\n")
        assert running.stdout is not None
        assert running.stdout.read(3) == b"Par"
        os.kill(running.pid, signal.SIGINT)
        os.write(terminal, b"second\n/bye\n")
        stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, stdout) == (0, b"\nTwo\n")
    assert b"(stopped)" in stderr
    assert conversations(ready)[1] == ["first", "Par", "second"]


def test_an_error_leaves_the_question_out_and_the_chat_goes_on(ready, documents):
    ready.streams("POST", CHAT, [("", documents.error("queue_full", "try later"))], documents.chat("Two"))
    with chatting(ready) as (running, terminal):
        os.write(terminal, b"first\nsecond\n/bye\n")
        _, stderr = running.communicate(timeout=30)
    assert running.returncode == 0
    assert b"try later" in stderr
    assert conversations(ready) == [["first"], ["second"]]


@pytest.mark.parametrize("flag", ["--json", "--raw"])
def test_these_need_a_prompt(ready, flag):
    with chatting(ready, flag) as (running, _):
        assert running.wait(timeout=30) == 2
