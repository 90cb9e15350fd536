"""The last words of a program: the part of its standard error that says why it ended."""

from __future__ import annotations

import json
import re
from collections import deque

MAX_LINES = 40
MAX_LINE_BYTES = 500
MAX_CHARS = 300
NUM_TOLD = 2

_OWN_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (?P<level>\w+) +[^:]*: (?P<text>.*)")
_GRPC_LINE = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d")


class LastWords:
    """Keeps the last MAX_LINES lines of what it is fed."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._unfinished = b""

    def feed(self, chunk: bytes) -> None:
        *lines, rest = (self._unfinished + chunk).split(b"\n")
        self._lines.extend(line[:MAX_LINE_BYTES] for line in lines)
        self._unfinished = rest[:MAX_LINE_BYTES]

    def text(self) -> str | None:
        """The last lines that are no mere record of work: an exception's, an abort's or an error's."""
        lines = (line.decode(errors="replace").rstrip() for line in (*self._lines, self._unfinished))
        told = [words for line in lines if (words := _words(line))]
        return "; ".join(told[-NUM_TOLD:])[:MAX_CHARS] or None


def _words(line: str) -> str | None:
    """None for a line of our own logs below an error, of gRPC's, or from the middle of a traceback."""
    own = _OWN_LINE.match(line)
    if own is not None:
        return own["text"] if own["level"] == "error" else None
    if line.startswith("{"):
        return _of_json(line)
    if not line or (line[0].isspace() and not line.strip().startswith("what():")) or line.startswith("Traceback"):
        return None
    return None if _GRPC_LINE.match(line) else line.strip()


def _of_json(line: str) -> str | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("level") != "error":
        return None
    return " ".join(str(record[key]) for key in ("event", "cause") if key in record)
