"""Removes the prefixes that wrappers add to state_dict keys.

DataParallel and weight averaging add `module.`, a LightningModule adds the name of an attribute, torch.compile adds
`_orig_mod.` anywhere; next to the model there may be a loss, metrics or a teacher. Only the model's own keys show
which part of a key is the wrapper's: the model may have a `module` itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, TypeVar

__all__ = ["Unwrapped", "unwrapped"]

_Value = TypeVar("_Value")
_COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
# A count that torch.optim.swa_utils.AveragedModel keeps next to its module.
_BESIDE = ("n_averaged",)


class Unwrapped(NamedTuple):
    """Where the model was found: under `prefix`. `left_out` are the keys of whatever else was there."""

    prefix: str
    left_out: list[str]


def unwrapped(state: Mapping[str, _Value], wanted: Collection[str]) -> tuple[dict[str, _Value], Unwrapped]:
    """(the part of `state` under the prefix that most of the `wanted` keys have, without it; where that was).

    All of `state` where no prefix explains more. Of two models that explain as much, averaged weights come first.
    """
    plain = {key if key in wanted else _COMPILED.sub("", key): value for key, value in state.items()}
    found = Counter(prefix for key in plain for prefix in _prefixes(key) if key.removeprefix(prefix) in wanted)
    prefix = max(found, key=lambda prefix: (found[prefix], not prefix, "ema" in prefix), default="")
    below = {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}
    if 2 * found[prefix] < len(below):
        return plain, Unwrapped("", [])
    left_out = [key for key in plain if not key.startswith(prefix) and key not in _BESIDE]
    return below, Unwrapped(prefix, left_out)


def _prefixes(key: str) -> Iterator[str]:
    """ "", "a." and "a.b." of a.b.c"""
    yield ""
    for dot in re.finditer(r"\.", key):
        yield key[: dot.end()]
