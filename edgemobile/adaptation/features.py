"""What the int8 kernels of a net do, counted from its table: the numbers that a cost is a sum of.

A kernel computes whole tiles, so that channels count as rounded up to its tile; which tile a device's kernels have is
found by the fit (adaptation.cost_model). One row for a kind of work:

    products    multiply-accumulates of 1x1 convolutions, in whole tiles of rows x columns
    outputs     sums that those requantize and store
    rows        pixels that they read
    vector      the same products where there is one pixel: squeeze-and-excite, the last stage
    depthwise   of each kernel size, channels in whole vectors, and pixels
    elementwise values of hard-swish, of skips and of scaling by squeeze-and-excite
    stem, pool, op
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgemobile.models.arch import Arch, scaled_blocks
from edgemobile.models.layers import Layer, layers

__all__ = ["TILES", "Tile", "features"]


@dataclass(frozen=True)
class Tile:
    """What a kernel of 1x1 convolutions computes at once, `rows` pixels of `columns` channels, and a depthwise one
    `channels`."""

    rows: int
    columns: int
    channels: int


TILES = tuple(Tile(rows, columns, channels) for rows in (1, 2, 3, 4, 6) for columns in (8, 16) for channels in (8, 16))


def features(arch: Arch, tile: Tile) -> Counter[str]:
    """The work of one inference by kind."""
    found: Counter[str] = Counter()
    blocks = scaled_blocks(arch)
    spatial = 0
    for layer in layers(arch):
        found.update(_of_layer(layer, tile))
        channels, high, wide = layer.out_shape
        if layer.role == "depthwise":
            spatial = high * wide
        elif layer.role == "fc2":
            found["scaled"] += spatial * channels
            found["scaled pixels"] += spatial
        elif layer.role in ("project", "plain_project") and blocks[layer.block].skip:
            found["skip"] += high * wide * channels
    return found


def _of_layer(layer: Layer, tile: Tile) -> dict[str, int]:
    channels, high, wide = layer.out_shape
    pixels = high * wide
    rows, columns = _up(pixels, tile.rows), _up(channels, tile.columns)
    gate = {"hard-swish": pixels * channels, "hard-swish ops": 1} if layer.act == "hardswish" else {}
    match layer.op:
        case "mean":
            _, high, wide = layer.in_shape
            return {"op": 1, "pool": high * wide * _up(channels, tile.channels), "pool outputs": channels}
        case "depthwise":
            each = {"": pixels * _up(channels, tile.channels), " pixels": pixels, " rest": pixels * _odd(channels)}
            work = {f"depthwise {layer.kernel}{name}": count for name, count in each.items()}
        case _ if layer.role == "stem":
            work = {"stem": rows * columns, "stem pixels": pixels}
        case _ if pixels == 1:
            inputs = layer.in_shape[0]
            work = {"vector": columns * inputs, "vector outputs": columns, "vector rest": columns * _odd(inputs)}
        case _:
            inputs = layer.in_shape[0]
            work = {"products": rows * columns * inputs, "outputs": rows * columns, "rows": pixels}
            work["products rest"] = rows * columns * _odd(inputs)
    return {"op": 1, **work, **gate}


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _odd(channels: int) -> int:
    """1 where loops over sixteens have a rest."""
    return int(channels % 16 > 0)
