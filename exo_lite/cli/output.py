"""Output for people and scripts: aligned tables, progress and JSON. Answers go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click


class ShowProgress(Protocol):
    def __call__(self, doing: str, fraction: float) -> None:
        """Say what is being done and how much of it is, from 0 to 1."""


def note(text: str, *, ends_line: bool = True) -> None:
    """Something on stderr that is not an answer."""
    click.echo(text, err=True, nl=ends_line)


def print_json(document: Any, *, is_compact: bool = False) -> None:
    click.echo(json.dumps(document, ensure_ascii=False, indent=None if is_compact else 2))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Columns two spaces apart; those named in `right` stand flush right, as numbers do."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    is_right = [heading in right for heading in headings]
    lines = [_line(row, widths, is_right) for row in (headings, *rows)]
    return "\n".join([click.style(lines[0], bold=True), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int], is_right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if flush_right else cell.ljust(width)
        for cell, width, flush_right in zip(cells, widths, is_right, strict=True)
    ]
    return "  ".join(padded).rstrip()


@contextmanager
def progress() -> Iterator[ShowProgress]:
    """A bar on a terminal; elsewhere a line for each new task and each tenth of it."""
    if not sys.stderr.isatty():
        yield _ProgressLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda doing, fraction: bar.update(task, description=doing, completed=fraction)


class _ProgressLines:
    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, doing: str, fraction: float) -> None:
        step = (doing, int(fraction * 10))
        if step != self._last:
            self._last = step
            note(f"{doing}: {fraction:.0%}".replace("%", " %"))
