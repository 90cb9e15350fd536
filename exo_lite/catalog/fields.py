"""Values out of a file that anybody may have written, each checked before use."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeGuard

from exo_lite.domain.errors import InvalidModel

MAX_WHOLE_NUMBER = 2**31 - 1
MAX_TEXT_CHARS = 200
"""Names and the like: what is longer is none, and would fill the error that quotes it."""
_MAX_NUMBER = 1e18


@dataclass(frozen=True, slots=True)
class Fields:
    """A config.json, or a table within it. A null counts as absent, as in Hugging Face. Raises InvalidModel."""

    values: Mapping[str, object]
    prefix: str = ""
    """The prefix of its keys in messages: `rope_scaling.`"""

    def get(self, key: str) -> object:
        return self.values.get(key)

    def whole_number(self, key: str, default: int | None = None) -> int:
        """Return a number from 1 to MAX_WHOLE_NUMBER."""
        value = self._value(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WHOLE_NUMBER:
            return value
        self.reject(key, f"a whole number from 1 to {MAX_WHOLE_NUMBER}")

    def number(self, key: str, default: float | None = None) -> float:
        """Above 0 and finite."""
        value = self._value(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MAX_NUMBER:
            return float(value)
        self.reject(key, f"a number above 0, at most {_MAX_NUMBER:g}")

    def flag(self, key: str) -> bool:
        """False where it is absent."""
        value = self._value(key, default=False)
        if isinstance(value, bool):
            return value
        self.reject(key, "true or false")

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is None or _is_text(value):
            return value
        self.reject(key, f"a text of at most {MAX_TEXT_CHARS} characters")

    def texts(self, key: str) -> list[str]:
        """Empty where it is absent."""
        value = self._value(key, default=[])
        if isinstance(value, list) and all(_is_text(item) for item in value):
            return value
        self.reject(key, f"a list of texts of at most {MAX_TEXT_CHARS} characters")

    def table(self, key: str) -> Fields | None:
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, Mapping):
            return Fields(value, prefix=f"{self.prefix}{key}.")
        self.reject(key, "an object")

    def reject(self, key: str, expected: str) -> NoReturn:
        """Raise InvalidModel that names the key, its value and what should stand there."""
        found = f"is {reprlib.repr(self.values[key])}" if self.get(key) is not None else "is missing"
        raise InvalidModel(f"config.json: {self.prefix}{key} {found}, expected {expected}")

    def _value(self, key: str, default: object) -> object:
        value = self.get(key)
        return default if value is None else value


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARS
