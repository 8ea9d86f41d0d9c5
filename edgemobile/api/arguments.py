"""Checks arguments against their annotations, and converts what callers may pass into one form.

A wrong argument raises one EdgemobileError that names the argument, what was found and what is allowed.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from edgemobile.errors import EdgemobileError
from edgemobile.printing.notebook import NotebookProgress, in_notebook

__all__ = ["PathText", "Texts", "check_arguments", "optional_path", "optional_text", "texts"]

PathText = str | PathLike[str]
Texts = str | Iterable[str]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LONGEST = 60
# Integral and Real include numpy's numbers.
_PLAIN: Mapping[Any, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    type(None): (type(None), "None"),
}
_WORDS = {PathLike: "a path", Mapping: "a mapping", Iterable: "a list"}


def check_arguments(**hints: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function to refuse arguments of other types than its annotations, and a `seed` below 0. `hints`:
    argument -> further advice.

    In a notebook, a `progress` of None shows a bar below the cell.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        shape = signature(function)

        @wraps(function)
        def checked(*args: _P.args, **options: _P.kwargs) -> _R:
            kinds = get_type_hints(function)
            given = shape.bind(*args, **options).arguments
            if "progress" in shape.parameters and given.get("progress") is None and in_notebook():
                options["progress"] = NotebookProgress()
            for name, value in given.items():
                if not _fits(value, kinds[name]):
                    hint = f". {hints[name]}" if name in hints else ""
                    raise EdgemobileError(f"{name} must be {_described(kinds[name])}, found {_shown(value)}{hint}")
                if name == "seed" and value < 0:
                    raise EdgemobileError(f"seed must be at least 0, found {value}")
            return function(*args, **options)

        return checked

    return decorate


def texts(given: Texts) -> tuple[str, ...]:
    """A list of texts. A single string is a list of that one string, not of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def optional_path(given: PathText | None) -> Path | None:
    return None if given is None else Path(given)


def optional_text(given: PathText | None) -> str | None:
    return None if given is None else fspath(given)


# ---- annotations ----------------------------------------------------------------------------------------------------


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind][0]) and (kind is bool or not isinstance(value, bool))
    if origin is None or origin is PathLike:
        # An object with its methods satisfies a protocol.
        return kind is Any or getattr(kind, "_is_protocol", False) or isinstance(value, origin or kind)
    if not isinstance(value, origin) or isinstance(value, str | bytes):
        return False
    if issubclass(origin, Mapping):
        return all(_fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items())
    # A generator can be read only once, by its consumer, so its items are not checked.
    return not isinstance(value, Collection) or all(_fits(item, inner[0]) for item in value)


def _described(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, inner)))
    if origin is Literal:
        return ", ".join(map(repr, inner))
    if kind in _PLAIN:
        return _PLAIN[kind][1]
    word = next((word for abstract, word in _WORDS.items() if origin is abstract), None)
    has_items = word is not None and origin is not PathLike and inner[-1] is not Any
    return f"{word or kind.__name__}{f', each {_described(inner[-1])}' if has_items else ''}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST and "\n" not in text else f"a {type(value).__name__}"
