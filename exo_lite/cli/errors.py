"""Ways to fail, each with its exit code.

click.ClickException
├── Failed          1
├── WrongUsage      2
├── NoDaemon        3
└── DoesNotFit      4
"""

from __future__ import annotations

from typing import ClassVar

import click

from exo_lite.domain.errors import ContextLengthExceeded, ExoLiteError, InvalidRequest, ModelDoesNotFit, Unauthorized

INTERRUPTED = 130


class Failed(click.ClickException):
    exit_code: ClassVar[int] = 1


class WrongUsage(click.ClickException):
    exit_code: ClassVar[int] = 2


class NoDaemon(click.ClickException):
    """Nothing answers at the daemon's address."""

    exit_code: ClassVar[int] = 3

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(
            f"no daemon answers at {address} ({cause}). Start one with `exo-lite node`, "
            "or name another one's address with --http HOST:PORT."
        )


class DoesNotFit(click.ClickException):
    exit_code: ClassVar[int] = 4


def failure(error: ExoLiteError) -> click.ClickException:
    """Turn an error, ours or a daemon's, into the command line's message and exit code."""
    match error:
        case ModelDoesNotFit():
            return DoesNotFit(str(error))
        case ContextLengthExceeded():
            return Failed(str(error))  # the command was right, the prompt too long
        case InvalidRequest():
            return WrongUsage(str(error))
        case Unauthorized():
            return Failed(f"{error} (give the key with --api-key or EXO_LITE_API_KEY)")
        case _:
            return Failed(str(error))
