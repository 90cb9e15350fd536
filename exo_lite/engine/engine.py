"""A shard engine, in protocols: the seam between what computes layers and everything else.

An engine is a folder of its own and a line in `engine.table`. Nothing outside an engine knows its types: hidden states
go in and out as bytes, logits come out as numpy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from exo_lite.domain.engine import Detected
from exo_lite.domain.footprint import Footprint
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import HiddenStates, SequenceChunk

if TYPE_CHECKING:
    import numpy as np  # the daemon, which asks an engine for bytes only, starts without it
    from numpy.typing import NDArray


class Logits(Protocol):
    """Finite scores of every next token, in rows. What is asked for is computed then, where the engine has the rows."""

    @property
    def values(self) -> NDArray[np.float32]:
        """All rows: [rows, vocab_size]."""

    @property
    def greatest(self) -> list[int]:
        """The token with the greatest score of each row, the lowest among equals."""

    def log_sum(self, row: int) -> float:
        """Return the logarithm of the sum of a row's exponentials, computed in float64. No other row affects it."""


class ComputedRows(Protocol):
    """The result of the rows of one step, one per token, kept where the engine computes."""

    def hidden_states(self) -> HiddenStates:
        """Return all rows for the next stage."""

    def logits(self, rows: Sequence[int]) -> Logits:
        """Return the scores after some rows, on the last shard. Raises MalformedStep where they aren't finite.

        rows: ascending, each once.
        """


class LoadedShard(Protocol):
    """The layers of a shard in memory, with the KV cache of its sequences. Used by one thread at a time."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def shard(self) -> Shard: ...

    @property
    def numerics(self) -> str | None:
        """Identifies the numbers that this very shard computes: from two alike, a token gets the same bits.

        None where a token's bits depend on what is computed beside it.
        """

    @property
    def num_sequences(self) -> int:
        """How many sequences the KV cache holds at once: their indices begin at 0."""

    def admit(self, sequence_index: int, blocks: Sequence[int] = (), *, num_cached_tokens: int = 0) -> None:
        """Begin a sequence, in place of one before it, with these blocks, which hold so many of its tokens already.

        Without blocks it gets its own part of the cache. Raises MalformedStep for blocks that do not exist or
        cannot hold so much.
        """

    def forward(self, inputs: Sequence[int] | HiddenStates, chunks: Sequence[SequenceChunk]) -> ComputedRows:
        """Compute the rows of all chunks through the layers; the cache keeps their keys and values.

        inputs: token ids on the first shard, else the hidden states of the stage before, chunk after chunk.
        Raises MalformedStep before anything is computed; the cache is then as it was.
        """


class Engine(Protocol):
    """One way to compute. To import its module costs nothing: what computes is imported when a method needs it."""

    @property
    def name(self) -> str: ...

    def footprint(self, spec: ModelSpec, options: LoadOptions) -> Footprint:
        """Say how many bytes any range of layers takes, without loading it: weights and KV cache exactly."""

    def detect(self, wanted: str) -> Detected:
        """Look for a device, `auto` or by its name, and try what will compute there: what is to be compiled is.

        Takes seconds, and is called in a process of its own. Raises LookupError where there is no such device.
        """

    def prepare(self, num_threads: int) -> None:
        """Import what computes, to use so many threads of the processor. Called once, before anything is loaded."""

    def load(
        self,
        model_dir: Path,
        spec: ModelSpec,
        shard: Shard,
        options: LoadOptions,
        *,
        device: str,
        on_progress: Callable[[float], None],
    ) -> LoadedShard:
        """Read a shard's weights; `on_progress` hears fractions that rise to 1.

        Raises InvalidModel, UnsupportedModel, InvalidShard.
        """
