"""Errors that the tokenizers library raises over a model's files, translated into ours."""

from __future__ import annotations

from types import TracebackType

from exo_lite.domain.errors import ExoLiteError, InvalidModel


class LibraryFaults:
    """Within it, the library's faults are InvalidModel.

    It raises plain Exception for most of them, and where it panics what Python does not count as an Exception: that
    would end whoever catches those.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, ExoLiteError):
            return
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise InvalidModel(f"{self._what} cannot be used: {str(error)[:500]}") from error
