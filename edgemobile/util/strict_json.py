"""JSON to records and back. Refuses anything that a record does not declare: data from a board is untrusted.

A record is a frozen dataclass of int, float, Real, str, bool, records, tuples (tuple[X, ...] and tuple[X, Y]), mappings
(Mapping[str, X]) and any of these | None. Its own checks run when it is built.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar

from edgemobile.errors import EdgemobileError

__all__ = ["Real", "decode", "encode", "loads", "parse", "to_json_text", "to_text", "versioned"]

# A number that may be infinite or nan, which JSON cannot express: written as "inf", "-inf" and "nan".
Real = Annotated[float, "inf, -inf and nan are texts"]
_NOT_FINITE = ("inf", "-inf", "nan")
_T = TypeVar("_T")
_MAX_TEXT = 2000
_MOST_INT = 2**63
# A list of numbers is easier to read on one line than on a thousand.
_NUMBER_LIST = re.compile(r"\[\s+(-?\d[-+.eE\d,\s]*?)\s+\]")


def parse(data: bytes, what: str, max_bytes: int) -> Any:
    """The value of a JSON text of at most `max_bytes`. `what` names it in errors.

    Raises EdgemobileError for a text that is larger, invalid, nested too deeply, or has NaN, infinity or a repeated
    key.
    """
    if len(data) > max_bytes:
        raise EdgemobileError(f"{what} is larger than {max_bytes} bytes, which is refused")
    try:
        return loads(data.decode())
    except ValueError as error:
        raise EdgemobileError(f"{what} is not valid JSON: {_shown(error)}") from error


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is invalid, nested too deeply, or has NaN or a repeated key."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode(record: type[_T], value: Any, where: str) -> _T:
    """Convert `value`, from `parse`, to a `record`.

    Raises EdgemobileError with the path of the first field that is missing, unknown, of another type or invalid.
    """
    return _decoded(record, value, where)


def versioned(given: str | Mapping[str, Any], version: int, what: str) -> dict[str, Any]:
    """The fields of a record of `version`, from its JSON text or parsed object; `what` names it in errors.

    Raises EdgemobileError for anything but an object, and for another version.
    """
    try:
        value = loads(given) if isinstance(given, str) else given
        if not isinstance(value, Mapping):
            raise TypeError(f"it is a {type(value).__name__}, not an object")
    except (ValueError, TypeError) as error:
        raise EdgemobileError(f"not a {what}: {error}") from error
    found = value.get("version")
    # In Python True is 1, and 1.0 is.
    if type(found) is not int or found != version:
        raise EdgemobileError(f"{what} version {found!r} is not known to this edgemobile; it reads version {version}")
    return {key: item for key, item in value.items() if key != "version"}


def encode(value: Any) -> Any:
    """A record as JSON types, fields in their order; numbers that are not finite as text."""
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def to_text(value: Any) -> str:
    """Strict JSON with lists of numbers on one line each. Raises ValueError for nan and infinity."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return _NUMBER_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _decoded(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return float(value) if isinstance(value, str) and value in _NOT_FINITE else _finite(value, where)
    if origin in (types.UnionType, typing.Union):
        (some,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _decoded(some, value, where)
    if origin is tuple and arguments[-1] is not Ellipsis:
        items = _typed(list, value, where)
        if len(items) != len(arguments):
            raise EdgemobileError(f"{where}: expected {len(arguments)} values, found {len(items)}")
        return tuple(
            _decoded(argument, item, f"{where}[{i}]")
            for i, (argument, item) in enumerate(zip(arguments, items, strict=True))
        )
    if origin is tuple:
        return tuple(_decoded(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(_typed(list, value, where)))
    if origin is Mapping:
        pairs = _typed(dict, value, where).items()
        return {_text(key, where): _decoded(arguments[1], item, f"{where}.{_shown(key)}") for key, item in pairs}
    if is_dataclass(kind):
        return _record(kind, _typed(dict, value, where), where)
    if kind is float:
        return _finite(value, where)
    return _text(value, where) if kind is str else _typed(kind, value, where)


def _record(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind, include_extras=True)
    if hints.keys() != value.keys():
        missing, unknown = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
        found = f"missing {', '.join(missing)}" if missing else f"unknown {_shown(', '.join(unknown))}"
        raise EdgemobileError(f"{where}: {found}. Allowed: exactly {', '.join(hints)}")
    given = {name: _decoded(hint, value[name], f"{where}.{name}") for name, hint in hints.items()}
    try:
        return kind(**given)
    except ValueError as error:
        raise EdgemobileError(f"{where}: {_shown(error, 400)}") from error


def _typed(kind: type, value: Any, where: str) -> Any:
    # In Python True is an int; in a record it is not.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise EdgemobileError(f"{where}: expected {kind.__name__}, found {_shown(value)}")
    if kind is int and isinstance(value, int) and not -_MOST_INT <= value < _MOST_INT:
        raise EdgemobileError(f"{where}: expected a 64-bit integer, found {_shown(value)}")
    return value


def _finite(value: Any, where: str) -> float:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST_INT:
        return float(value)
    # 1e999 is legal JSON, and infinite.
    if not math.isfinite(_typed(float, value, where)):
        raise EdgemobileError(f"{where}: expected a finite number, found {value}")
    return value


def _text(value: Any, where: str) -> str:
    text = _typed(str, value, where)
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise EdgemobileError(f"{where}: expected at most {_MAX_TEXT} printable characters, found {_shown(text)}")
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _shown(value: Any, most: int = 120) -> str:
    """An untrusted value for an error message: short, without control characters of a terminal."""
    text = repr(value) if isinstance(value, str | bytes) else str(value)
    clean = "".join(char if char.isprintable() else "?" for char in text[:most])
    return clean + "..." * (len(text) > most)


def to_json_text(value: Any) -> str:
    """Strict JSON, keys in the given order; inf and nan, which JSON does not have, become null."""
    return json.dumps(_null_if_not_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _null_if_not_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _null_if_not_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_if_not_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
