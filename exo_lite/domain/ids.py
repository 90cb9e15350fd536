"""Identifiers. They name things and are never used as file paths without `parse_model_id`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from exo_lite.domain.errors import InvalidRequest

NodeId = NewType("NodeId", str)
"""Made once for a machine and kept in its data folder."""

BootId = NewType("BootId", str)
"""Made anew at each start of a daemon."""

ModelId = NewType("ModelId", str)
RequestId = NewType("RequestId", str)

Epoch = NewType("Epoch", int)
"""Number of a placement; greater than every one seen before it."""


@dataclass(frozen=True, slots=True)
class InstanceId:
    """One placing of a model. Two of one model may stand side by side while one takes over from the other."""

    model_id: ModelId
    epoch: Epoch

    def __str__(self) -> str:
        return f"{self.model_id} of epoch {self.epoch}"


_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")


def parse_model_id(text: str) -> ModelId:
    """Accept lower-case letters, digits, `.`, `_` and `-`, so that an id is safe as a folder name.

    Raises InvalidRequest for anything else.
    """
    if not _MODEL_ID.fullmatch(text) or ".." in text:
        raise InvalidRequest(
            f"{text!r} is not a model id: use up to 96 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
            param="model",
        )
    return ModelId(text)
