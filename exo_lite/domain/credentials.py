"""Credentials: how a process proves itself to other nodes, and how it knows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Credentials:
    """Empty for now: whoever reaches a port is believed, and nothing is encrypted."""
