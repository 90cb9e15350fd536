"""How a model is to be held: the one list of load options.

Flags, HTTP bodies, messages between nodes, documents and the worker's configuration are made from it. A new option is
a field of LoadOptions, the same field of LoadRequest, and a field of the message LoadOptions in `proto/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.model_spec import DType, ModelSpec, Quantization

Strategy = Literal["by_memory", "by_work"]
"""Layers in proportion to the memory that nodes offer, or so that stages take about as long."""

DEFAULT_CONTEXT_LENGTH = 2048
DEFAULT_NUM_SLOTS = 8
MAX_NUM_SLOTS = 256
SEQUENCES_PER_SLOT = 4

AUTO = "auto"
"""A user's word for an option that the model's own files decide."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is held. The KV cache has room for `num_slots` sequences of `context_length` tokens each.

    `metadata` is what LoadOption says of a field beside its name, type and default.
    """

    dtype: DType = field(
        metadata={"help": "Number type to compute in; auto: the checkpoint's own, if the device has it."},
    )
    quant: Quantization = field(
        default="none",
        metadata={"help": "Quantize the weights of the layers."},
    )
    context_length: int = field(
        default=DEFAULT_CONTEXT_LENGTH,
        metadata={
            "alias": "context",
            "metavar": "TOKENS",
            "help": "Most tokens of prompt and answer together.",
            "default_text": f"{DEFAULT_CONTEXT_LENGTH}, or the model's own limit if less",
        },
    )
    num_slots: int = field(
        default=DEFAULT_NUM_SLOTS,
        metadata={
            "alias": "slots",
            "metavar": "N",
            "maximum": MAX_NUM_SLOTS,
            "help": "Memory for so many sequences of full context; shorter ones share it.",
        },
    )
    strategy: Strategy = field(
        default="by_memory",
        metadata={"help": "Split layers in proportion to memory, or so that all stages have equal work."},
    )
    prefix_cache: bool = field(
        default=True,
        metadata={"help": "Compute the common beginning of prompts once."},
    )
    speculation: bool = field(
        default=True,
        metadata={"help": "Guess tokens from the text so far where that is faster."},
    )

    @property
    def num_sequences(self) -> int:
        """How many sequences may be under way at once: more than slots, where they are shorter than the context."""
        return min(SEQUENCES_PER_SLOT * self.num_slots, MAX_NUM_SLOTS)


def hidden_states_dtype(options: LoadOptions) -> DType:
    """The type of what travels between stages. Quantized models are exact whatever the split: nothing is rounded."""
    return options.dtype if options.quant == "none" else "float32"


@dataclass(frozen=True, slots=True)
class LoadOption:
    """One field of LoadOptions, as users meet it."""

    field: str
    kind: Any
    """bool, int, or a Literal of texts."""
    default: Any
    """MISSING where the model's own files decide."""
    help: str
    alias: str | None = None
    default_text: str | None = None
    """The default in words, where it is not one value for all models."""
    metavar: str | None = None
    maximum: int | None = None
    """The largest number; the smallest is 1."""

    @property
    def name(self) -> str:
        """The key in JSON, and the flag but for its dashes."""
        return self.alias or self.field

    @property
    def has_auto(self) -> bool:
        return self.default is MISSING

    @property
    def words(self) -> tuple[str, ...]:
        """The values of an option that is a choice."""
        return get_args(self.kind)

    def check(self, value: Any) -> None:
        """Raises InvalidRequest for a number beyond the limits."""
        if self.maximum is not None and not 1 <= value <= self.maximum:
            raise InvalidRequest(f"{self.name} must lie between 1 and {self.maximum}, not {value}", param=self.name)


def _load_options() -> tuple[LoadOption, ...]:
    hints = get_type_hints(LoadOptions)
    return tuple(LoadOption(one.name, hints[one.name], one.default, **one.metadata) for one in fields(LoadOptions))


LOAD_OPTIONS = _load_options()


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A user's options for a load. An option that is None is left open."""

    dtype: DType | None = None
    quant: Quantization | None = None
    context_length: int | None = None
    num_slots: int | None = None
    strategy: Strategy | None = None
    prefix_cache: bool | None = None
    speculation: bool | None = None
    keep_alive_s: float | None = None
    """Idle seconds after which it is evicted; None: for ever, or the node's default where a request asks."""
    is_on_demand: bool = False
    """A request asks: whatever of this model is placed already will do."""

    @property
    def asked(self) -> Mapping[str, Any]:
        """The options that are not left open, by field."""
        given = {option.field: getattr(self, option.field) for option in LOAD_OPTIONS}
        return {name: value for name, value in given.items() if value is not None}

    def resolve(self, spec: ModelSpec) -> LoadOptions:
        """Take the defaults for what is left open. Raises InvalidRequest where it asks for more than the model has."""
        defaults = {"dtype": spec.dtype, "context_length": min(DEFAULT_CONTEXT_LENGTH, spec.context_length)}
        options = LoadOptions(**{**defaults, **self.asked})
        if not 1 <= options.context_length <= spec.context_length:
            raise InvalidRequest(
                f"context must lie between 1 and the model's {spec.context_length}, not {options.context_length}",
                param="context",
            )
        for option in LOAD_OPTIONS:
            option.check(getattr(options, option.field))
        return options


def load_request_from_json(document: Mapping[str, Any]) -> LoadRequest:
    """The load request of checked values by JSON key; those that are None, AUTO or not there are left open."""
    given: dict[str, Any] = {option.field: document.get(option.name) for option in LOAD_OPTIONS}
    return LoadRequest(**{name: value for name, value in given.items() if value != AUTO})


def options_to_json(options: LoadOptions | LoadRequest) -> dict[str, Any]:
    """The options by JSON key, without those that are left open."""
    given = {option.name: getattr(options, option.field) for option in LOAD_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}
