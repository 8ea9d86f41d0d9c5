"""What int8 does to a tensor, told by the end of its name. The name that PyTorch has for it stands before:

    activation   <module>[.xN][.eq]              n times the module's output; each channel rescaled by its own factor
                 <module>.gate                   relu6(x + 3) of the hard-swish <module>; what is cut to 0..1 for
                                                 the hard-sigmoid <module>
    constant     <constant>[.dN][.xN][.plus3]    divided by n; multiplied by n; with the 3 of a hard-sigmoid added

A comparison with PyTorch undoes what a name says, and nobody who opens a file in a viewer is misled. The factors of an
`.eq` travel in the file's metadata (channel_factors).
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = [
    "added",
    "divided",
    "equalized",
    "gate_of",
    "is_constant_of",
    "is_equalized",
    "multiplied",
    "raised",
    "split_name",
]

_EQUALIZED, _GATE, _RAISED = ".eq", ".gate", ".plus3"
_ACTIVATION = re.compile(r"(.+?)(?:\.x(\d+))?(?:\.eq)?")
_CONSTANT_END = re.compile(r"(\.d\d+)?(\.x\d+)?(\.plus3)?")


def multiplied(name: str, n: int) -> str:
    """`name` holding n times what it means; 1 is no multiple."""
    return name if n == 1 else f"{name}.x{n}"


def divided(name: str, n: int) -> str:
    """The constant `name` divided by n; 1 is no division."""
    return name if n == 1 else f"{name}.d{n}"


def raised(name: str) -> str:
    """The bias `name` with the 3 of a hard-sigmoid added."""
    return name + _RAISED


def equalized(name: str) -> str:
    """The activation `name` with its channels rescaled."""
    return name + _EQUALIZED


def gate_of(name: str) -> str:
    """relu6(x + 3) of the hard-swish `name`."""
    return name + _GATE


def split_name(name: str, known: Collection[str] = ()) -> tuple[str, int]:
    """(module path, n) of an activation: "features.4.block.0.2.x6.eq" -> ("features.4.block.0.2", 6).

    `known` are tensors of the reference, whose modules may themselves be called like a multiple: block.x1.
    """
    for path in (name, name.removesuffix(_EQUALIZED)):
        if path in known:
            return path, 1
    match = _ACTIVATION.fullmatch(name)
    return (match[1], int(match[2] or 1)) if match else (name, 1)


def is_equalized(name: str) -> bool:
    return name.endswith(_EQUALIZED)


def is_constant_of(stored: str, name: str) -> bool:
    """Whether `stored` is the constant `name`, whatever was done to it."""
    return stored.startswith(name) and _CONSTANT_END.fullmatch(stored, len(name)) is not None


def added(name: str) -> float:
    """What the constant of a layer holds beyond the trained one: the 3 of a hard-sigmoid in a bias, or 0."""
    return 3.0 if name.endswith(_RAISED) else 0.0
