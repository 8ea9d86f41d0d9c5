"""Damage to bytes, by seed: what transfers, disks and attackers do to a file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["mutate"]

# What a JSON leaf, a number of TOML or a line is replaced by.
_VALUES: tuple[Any, ...] = (
    *(None, True, "", "x", [], {}, [[]], {"a": {}}),
    *(0, -1, 1, 2**31, -(2**63), 2**64, 10**400, 0.5, -0.0, 1e308, 5e-324),
    *(float("nan"), float("inf"), "nan", "\x1b[31m", "\u202e", "a" * 5000, "../../x", "\x00"),
)
_WORDS = (b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"nan", b"-1", b"[" * 300, b"9" * 500)


def mutate(data: bytes, rng: random.Random, *, text: bool) -> bytes:
    """One to four damages of `data`; of JSON, also of its values while it stays JSON."""
    if text and rng.random() < 0.7 and (changed := _changed_json(data, rng)) is not None:
        return changed
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_DAMAGES)(bytearray(data), rng)
    return data


def _flip(data: bytearray, rng: random.Random) -> bytes:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, rng: random.Random) -> bytes:
    word, at = rng.choice(_WORDS), rng.randrange(len(data) + 1)
    data[at : at + len(word)] = word
    return bytes(data)


def _insert(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(_WORDS)
    return bytes(data)


def _cut(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 4, 64, len(data)))]
    return bytes(data)


def _repeat(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.choice((1, 4, 64))]
    data[start:start] = part * rng.choice((1, 2, 100))
    return bytes(data)


_DAMAGES: tuple[Callable[[bytearray, random.Random], bytes], ...] = (_flip, _flip, _overwrite, _insert, _cut, _repeat)


def _changed_json(data: bytes, rng: random.Random) -> bytes | None:
    """One value of the JSON replaced, removed or given twice; None where it is no JSON."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    places = list(_places(value))
    if not places:
        return None
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(_VALUES)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
