"""What a worker that died had to say."""

from __future__ import annotations

import pytest

from exo_lite.node.last_words import MAX_CHARS, LastWords

TRACEBACK = b"""\
10:49:27.407 info    a: loading shard=0-9
Traceback (most recent call last):
  File "/x/worker/main.py", line 40, in main
    import torch
    ^^^^^^^^^^^^
ImportError: libtorch_cpu.so: failed to map segment from shared object
"""
ABORT = b"""\
terminate called after throwing an instance of 'std::bad_alloc'
  what():  std::bad_alloc
"""


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (TRACEBACK, "ImportError: libtorch_cpu.so: failed to map segment from shared object"),
        (ABORT, "terminate called after throwing an instance of 'std::bad_alloc'; what():  std::bad_alloc"),
        (b"10:49:27.407 error   a 0-9: a step hangs cause=stage 1", "a step hangs cause=stage 1"),
        (
            b'{"level": "error", "event": "loading failed", "cause": "no file", "source": "a"}\n',
            "loading failed no file",
        ),
        (b'{"level": "info", "event": "loading"}\n{"level": \n[1', "[1"),
        (b"10:49:27.407 warning a: slow\nI1130 10:28:56.508864   19854 chttp2.cc:1403] goaway\n", None),
        (b"", None),
        (b"\n \n", None),
        (b"Killed\xff", "Killed\ufffd"),
    ],
)
def test_the_lines_that_tell_why_are_kept(written: bytes, told: str | None):
    words = LastWords()
    words.feed(written)
    assert words.text() == told


def test_they_come_in_any_pieces():
    words = LastWords()
    for index in range(len(TRACEBACK)):
        words.feed(TRACEBACK[index : index + 1])
    assert words.text() == "ImportError: libtorch_cpu.so: failed to map segment from shared object"


def test_a_flood_is_bounded():
    words = LastWords()
    for _ in range(100):
        words.feed(b"x" * 10_000)
    words.feed(b"\n" * 10_000 + b"the end: " + b"y" * 5000 + b"\n")
    assert words.text() is not None
    assert len(words.text() or "") <= MAX_CHARS
    assert (words.text() or "").startswith("the end")
