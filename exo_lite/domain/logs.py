"""Log lines with fields, as text for people or JSON for machines, on standard error."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Literal

from exo_lite.domain.repeats import Repeats

LogFormat = Literal["text", "json"]

MAX_LINES_OF_A_PLACE = 50
SPAN_S = 30.0

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up_logging(log_format: LogFormat, *, source: str) -> None:
    """Send every record of this process to standard error. `source` names the process, e.g. the node."""
    handler = logging.StreamHandler()
    handler.addFilter(_LeaveOutRepeats())
    handler.setFormatter(_JsonFormatter(source) if log_format == "json" else _TextFormatter(source))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _LeaveOutRepeats(logging.Filter):
    """Drops warnings and errors of one place in the code that come by the hundred; the next line says how many."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats(time.monotonic, burst=MAX_LINES_OF_A_PLACE, every_s=SPAN_S)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        num_left_out = self._repeats.tell(f"{record.pathname}:{record.lineno}")
        if num_left_out:
            record.left_out = num_left_out
        return num_left_out is not None


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}


class _TextFormatter(logging.Formatter):
    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{when} {record.levelname.lower():7} {self._source}: {record.getMessage()}{fields}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class _JsonFormatter(logging.Formatter):
    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "source": self._source,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
