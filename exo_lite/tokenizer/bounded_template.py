"""A chat template that anybody may have written: rendered by a process of its own, within bounds of time and memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from subprocess import DEVNULL, PIPE
from typing import NoReturn

from exo_lite.domain.errors import ExoLiteError, InvalidModel, InvalidRequest, NotReady, error_class
from exo_lite.tokenizer.chat_template import MAX_PROMPT_CHARACTERS
from exo_lite.tokenizer.special_tokens import SpecialTokens

DEADLINE_S = 20.0
"""The time for one rendering. The bound on processor time strikes much earlier, unless the machine is overloaded."""
MAX_REPLY_BYTES = 12 * MAX_PROMPT_CHARACTERS + 4096
"""JSON takes up to twelve bytes for a character."""

_Process = subprocess.Popen[bytes]


class BoundedTemplate:
    """Renders as `ChatTemplate` does. Safe for several threads, which wait for each other.

    The process starts with the first rendering, serves the next ones too, and ends with this object.
    """

    def __init__(self, source: str, special: SpecialTokens) -> None:
        tokens = {**asdict(special), "stop_token_ids": sorted(special.stop_token_ids)}
        self._job = {"source": source, "special": tokens}
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._end: Callable[[], object] = lambda: None

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        continues_last: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt as text, special tokens written out; with `continues_last`, up to the end of the last message.

        Raises InvalidRequest where the template does not take these messages, InvalidModel where it misbehaves or takes
        too much, NotReady where the machine is too busy.
        """
        job = {
            **self._job,
            "messages": [dict(one) for one in messages],
            "add_generation_prompt": add_generation_prompt,
            "continues_last": continues_last,
            "variables": dict(variables or {}),
        }
        with self._lock:
            reply = self._ask(json.dumps(job).encode() + b"\n")
        if "prompt" in reply:
            return str(reply["prompt"])
        raise _error(str(reply["code"]), str(reply["message"]))

    def _ask(self, job: bytes) -> dict[str, object]:
        process = self._living_process()
        line = _exchange(process, job)
        if not line.endswith(b"\n"):
            self._end()
            _raise_end(process.returncode)
        reply: dict[str, object] = json.loads(line)
        return reply

    def _living_process(self) -> _Process:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start()
            self._end = weakref.finalize(self, _end, self._process)
        return self._process


def _start() -> _Process:
    """Start a process in its own group, which Ctrl-C does not reach, and mute, since its errors may quote prompts."""
    command = [sys.executable, "-m", "exo_lite.tokenizer.render_loop"]
    return subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, process_group=0)


def _exchange(process: _Process, job: bytes) -> bytes:
    """The reply's line, incomplete where the process has ended or says too much."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = threading.Timer(DEADLINE_S, process.kill)
    deadline.start()
    try:
        process.stdin.write(job)
        process.stdin.flush()
        return process.stdout.readline(MAX_REPLY_BYTES)
    except BrokenPipeError:
        return b""
    finally:
        deadline.cancel()


def _end(process: _Process) -> None:
    """Kill the process, if it still runs, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what the process never read
                pipe.close()


def _raise_end(exit_code: int) -> NoReturn:
    if exit_code == -signal.SIGKILL:
        raise NotReady(f"the chat template was not rendered within {DEADLINE_S:.0f} s: this machine is busy, try again")
    cause = "takes too long" if exit_code == -signal.SIGPROF else f"ended its process with exit code {exit_code}"
    raise InvalidModel(
        f"the model's chat template {cause}: correct it in the model's files, or ask for plain text "
        "(`exo-lite run --raw`, or POST /v1/completions)"
    )


def _error(code: str, message: str) -> ExoLiteError:
    kind = error_class(code)
    return InvalidRequest(message, param="messages") if kind is InvalidRequest else kind(message)
