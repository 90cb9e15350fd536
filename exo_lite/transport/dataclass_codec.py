"""Dataclasses ↔ messages whose fields have the same names: what the types say needs no code of its own."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.ids import ModelId, parse_model_id
from exo_lite.transport.literals import read_literal

T = TypeVar("T")
M = TypeVar("M", bound=Message)


def to_message(value: object, kind: type[M]) -> M:
    """Every field of a dataclass in the field of its name. What is None stays unset."""
    return kind(**_sent_fields(value))


def from_message(kind: type[T], message: Message) -> T:
    """Read a dataclass back. What is unset has its default.

    Raises MalformedMessage for a word that none of a Literal's is and for a field that is not there and has no default,
    InvalidRequest for what is no model id, and whatever `kind` itself raises.
    """
    found = read_fields(kind, message)
    return kind(**found, **_absent_fields(kind, found))


def read_fields(kind: type, message: Message) -> dict[str, Any]:
    """The fields of `kind` that the message has. Raises as `from_message`, but for missing ones."""
    return {
        name: _read(getattr(message, name), hint, name)
        for name, (hint, _) in _fields_of(kind).items()
        if _is_set(message, name, hint)
    }


def _absent_fields(kind: Any, found: Mapping[str, Any]) -> dict[str, None]:
    """None for those fields that were not found and have no default. Raises MalformedMessage where None is no value."""
    absent = [name for name, (_, has_default) in _fields_of(kind).items() if name not in found and not has_default]
    for name in absent:
        if type(None) not in get_args(_fields_of(kind)[name][0]):
            raise MalformedMessage(f"{kind.__name__}.{name} is missing: do both nodes run the same version?")
    return dict.fromkeys(absent)


def _sent_fields(value: Any) -> dict[str, Any]:
    return {one.name: _sent(getattr(value, one.name)) for one in fields(value)}


def _sent(value: Any) -> Any:
    """A value as protobuf's constructors take it."""
    if is_dataclass(value):
        return _sent_fields(value)
    if isinstance(value, tuple):
        return [_sent(one) for one in value]
    return value


@cache
def _fields_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it has a default."""
    hints = get_type_hints(kind)
    return {
        one.name: (hints[one.name], one.default is not MISSING or one.default_factory is not MISSING)
        for one in fields(kind)
    }


def _is_set(message: Message, name: str, hint: Any) -> bool:
    """Say whether a field has a value; a message that is not optional has one even if it is empty."""
    if not message.DESCRIPTOR.fields_by_name[name].has_presence:
        return True
    return is_dataclass(hint) or message.HasField(name)


def _read(value: Any, hint: Any, name: str) -> Any:
    """Raises as `from_message`."""
    if hint is ModelId:
        return parse_model_id(value)
    if isinstance(hint, NewType):
        return _read(value, hint.__supertype__, name)
    if isinstance(hint, type) and is_dataclass(hint):
        return from_message(hint, value)
    return _read_generic(value, get_origin(hint), get_args(hint), name)


def _read_generic(value: Any, origin: Any, arguments: tuple[Any, ...], name: str) -> Any:
    if origin is Literal:
        return read_literal(value, arguments)
    if origin in (Union, types.UnionType):
        return _read_optional(value, arguments, name)
    if origin is tuple:
        return _read_tuple(value, arguments, name)
    return dict(value) if origin is Mapping else value


def _read_optional(value: Any, arguments: tuple[Any, ...], name: str) -> Any:
    """A field that is there. A list has no way not to be: an empty one is None."""
    hint = next(one for one in arguments if one is not type(None))
    return None if get_origin(hint) is tuple and not value else _read(value, hint, name)


def _read_tuple(values: Any, arguments: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """Raises MalformedMessage for another number of values than a tuple of a fixed length has."""
    hints = (arguments[0],) * len(values) if arguments[1:] == (Ellipsis,) else arguments
    if len(values) != len(hints):
        raise MalformedMessage(f"{name} has {len(hints)} values, not {len(values)}")
    return tuple(_read(one, hint, name) for one, hint in zip(values, hints, strict=True))
