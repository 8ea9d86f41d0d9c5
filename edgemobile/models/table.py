"""An architecture as data: the rows of a family's table with any widths, as an adapted checkpoint contains them.

    {"version": 1, "model": "v3-large", "stem": 16, "conv": 720, "hidden": 960,
     "blocks": [{"kernel": 3, "expand": 0, "out_channels": 16, "stride": 1, "squeeze": 0, "act": "relu"}, ...]}

`model` is the family: what the rows do not say, such as the activation of the stem, is as there. The channels are
exact, not those at width 1. An `expand` of 0 means that the block does not expand its input, a `squeeze` of 0 that it
has no squeeze-and-excite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.models.arch import ARCHS, Activation, Arch, Block, scaled_blocks, scaled_stem, scaled_tail
from edgemobile.util.strict_json import decode, encode, loads, versioned

__all__ = ["FAMILIES", "Row", "Table", "exact_arch", "read_table", "table_of"]

_VERSION = 1
# The families whose blocks a row describes completely.
FAMILIES = tuple(
    name
    for name, arch in ARCHS.items()
    if arch.head == "classifier"
    and all(block.kind in ("inverted", "separable") and not block.start for block in arch.blocks)
)
_MOST_BLOCKS, _MOST_CHANNELS = 64, 4096
_KERNELS = (3, 5, 7)


@dataclass(frozen=True)
class Row:
    """One block in real channels; those of `arch.Block` that a row of such a family has."""

    kernel: int
    expand: int
    out_channels: int
    stride: int
    squeeze: int
    act: str

    def __post_init__(self) -> None:
        if self.kernel not in _KERNELS:
            raise ValueError(f"a kernel of {self.kernel}. Allowed: {', '.join(map(str, _KERNELS))}")
        if self.stride not in (1, 2):
            raise ValueError(f"a stride of {self.stride}. Allowed: 1, 2")
        if self.act not in get_args(Activation):
            raise ValueError(f"the activation {self.act!r}. Allowed: {', '.join(get_args(Activation))}")
        _check_channels(expand=self.expand or None, out_channels=self.out_channels, squeeze=self.squeeze or None)


@dataclass(frozen=True)
class Table:
    """The rows of a net of the family `model`. `conv` and `hidden` are those of `arch.Tail`."""

    model: str
    stem: int
    conv: int
    hidden: int
    blocks: tuple[Row, ...]

    def __post_init__(self) -> None:
        if self.model not in FAMILIES:
            raise ValueError(f"rows of {self.model!r}. Allowed: rows of {', '.join(FAMILIES)}")
        if not 1 <= len(self.blocks) <= _MOST_BLOCKS:
            raise ValueError(f"{len(self.blocks)} blocks. Allowed: 1 to {_MOST_BLOCKS}")
        _check_channels(stem=self.stem, conv=self.conv or None, hidden=self.hidden or None)
        family = ARCHS[self.model]
        for name in ("conv", "hidden"):
            if bool(getattr(self, name)) != bool(getattr(family.tail, name)):
                raise ValueError(f"{name} {getattr(self, name)}, where {self.model} has {getattr(family.tail, name)}")
        if family.keys == "timm" and any(row.expand or row.squeeze for row in self.blocks):
            raise ValueError(f"blocks with expand or squeeze, which {self.model} does not have")

    def arch(self) -> Arch:
        """The net: classes and resolution are the family's."""
        family = ARCHS[self.model]
        blocks = tuple(
            Block(
                kernel=row.kernel,
                expand=row.expand,
                out_channels=row.out_channels,
                stride=row.stride,
                act=row.act,  # type: ignore[arg-type]
                se=row.squeeze > 0,
                kind=family.blocks[0].kind,
                squeeze=row.squeeze,
            )
            for row in self.blocks
        )
        tail = replace(family.tail, conv=self.conv, hidden=self.hidden)
        return replace(family, stem=self.stem, blocks=blocks, tail=tail, ends="fixed", expand_is_ratio=False)

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION, **encode(self)}


def read_table(given: str | Mapping[str, Any], source: str) -> Table:
    """What `Table.to_json` wrote, as a text or parsed. Raises EdgemobileError, naming `source`, for anything else."""
    try:
        value = loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise EdgemobileError(f"the architecture in {source} is not valid JSON: {error}") from error
    return decode(Table, versioned(value, _VERSION, f"architecture in {source}"), f"the architecture in {source}")


def table_of(arch: Arch) -> Table:
    """The rows of `arch` in real channels. Raises Unsupported for a family whose blocks rows do not describe."""
    if arch.name not in FAMILIES:
        raise Unsupported(f"the blocks of {arch.name} cannot be written as rows. Supported: {', '.join(FAMILIES)}")
    conv, hidden = scaled_tail(arch)
    rows = tuple(
        Row(
            kernel=block.kernel,
            expand=block.expand if block.expands else 0,
            out_channels=block.out_channels,
            stride=block.stride,
            squeeze=block.squeeze,
            act=block.act,
        )
        for block in scaled_blocks(arch)
    )
    return Table(arch.name, scaled_stem(arch), conv, hidden, rows)


def exact_arch(arch: Arch) -> Arch:
    """The same net with the width multiplier carried out: its rows have the real channels."""
    kept = {name: getattr(arch, name) for name in ("padding", "bn_eps", "bn_momentum", "input_px", "classes")}
    return replace(table_of(arch).arch(), **kept)


def _check_channels(**channels: int | None) -> None:
    for name, count in channels.items():
        if count is not None and (count % 8 or not 8 <= count <= _MOST_CHANNELS):
            raise ValueError(f"{name} {count}. Allowed: multiples of 8 from 8 to {_MOST_CHANNELS}")
