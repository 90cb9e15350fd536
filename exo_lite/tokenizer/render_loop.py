"""The program that renders chat templates for `BoundedTemplate`: a job a line on standard input, a reply a line back.

A rendering that takes more processor time than allowed ends this process; one that takes more memory fails.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

from exo_lite.domain.errors import ExoLiteError, InvalidModel
from exo_lite.tokenizer.chat_template import ChatTemplate
from exo_lite.tokenizer.special_tokens import SpecialTokens

MAX_CPU_S = 1.0
"""The processor time of one rendering. Real templates take milliseconds."""
MAX_MEMORY_BYTES = 256 << 20
"""The address space of the whole process: ten times what it takes at rest."""
MAX_MESSAGE_CHARACTERS = 500
"""The length of an error message, which the template may have written itself."""


def main() -> None:
    _limit_memory()
    for line in sys.stdin.buffer:
        with _limited_cpu():
            reply = answer(line)
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()


def answer(line: bytes) -> bytes:
    """`{"prompt"}` or `{"code", "message"}` for a job of `BoundedTemplate`."""
    try:
        job = json.loads(line)
        tokens = {**job["special"], "stop_token_ids": frozenset(job["special"]["stop_token_ids"])}
        template = _compiled(job["source"], SpecialTokens(**tokens))
        how = {key: job[key] for key in ("add_generation_prompt", "continues_last", "variables")}
        reply = {"prompt": template.render(job["messages"], **how)}
    except ExoLiteError as error:
        reply = {"code": error.code, "message": str(error)[:MAX_MESSAGE_CHARACTERS]}
    except MemoryError:
        limit = f"{MAX_MEMORY_BYTES >> 20} MiB"
        reply = {"code": InvalidModel.code, "message": f"the model's chat template takes more memory than {limit}"}
    return json.dumps(reply).encode() + b"\n"


@lru_cache(maxsize=1)
def _compiled(source: str, special: SpecialTokens) -> ChatTemplate:
    return ChatTemplate(source, special)


def _limit_memory() -> None:
    with suppress(OSError, ValueError):  # macOS knows no such limit: there, processor time alone bounds memory
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


@contextmanager
def _limited_cpu() -> Iterator[None]:
    """SIGPROF ends the process wherever it is, even amid one long operation of the interpreter."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
