"""The layers of one file as a picture: a row for each block of the net, a box for each layer.

The box's colour is the SQNR of the layer against the reference, the bar below it its share of the multiply-accumulates,
and the lines above the boxes are what a layer reads besides the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from edgemobile.comparison.layers import LayerParity
from edgemobile.report.drawing import NARROW_PX, short
from edgemobile.report.words import db

__all__ = ["graph_view"]

# Lowest SQNR in dB -> the colour of such layers, a name in drawing.COLOURS.
_COLOURS = ((60.0, "db60"), (40.0, "db40"), (30.0, "db30"), (20.0, "db20"), (-math.inf, "db0"))
_SHORT = {
    "conv2d": "conv",
    "hardswish": "h-swish",
    "hardsigmoid": "h-sigmoid",
    "max_pool2d": "max pool",
    "avg_pool2d": "avg pool",
}
_BOX, _HIGH, _GAP, _PITCH = 62, 24, 8, 50
_LABEL_PX, _LABEL_HIGH, _LEGEND = 104, 18, 40
_TEXT = 'font-size="10.5"'


@dataclass(frozen=True)
class _Box:
    """A layer and the upper left corner of its box, on a line of boxes that begins at `left`."""

    layer: LayerParity
    x: int
    y: int
    left: int


def graph_view(layers: Sequence[LayerParity], width_px: int) -> str:
    """An <svg> of `layers`, in the reference's order, `width_px` wide; colours are the page's CSS variables."""
    narrow = width_px <= NARROW_PX
    labels, boxes = _placed(layers, width_px, narrow)
    height = boxes[-1].y + _HIGH + 14
    most = max(layer.macs for layer in layers) or 1
    total = sum(layer.macs for layer in layers) or 1
    ends = {box.layer.name: box for box in boxes}
    parts = [*_legend(width_px), *(_label(x, y, name) for x, y, name in labels)]
    for before, box in zip([None, *boxes], boxes, strict=False):
        parts += [*_links(before, box, ends), _box(box, most), _tip(box.layer, box, total)]
    alt = f"{len(layers)} layers, coloured by their SQNR against the reference"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width_px}" height="{height}" '
        f'viewBox="0 0 {width_px} {height}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
    )


def _stage(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _placed(
    layers: Sequence[LayerParity], width_px: int, narrow: bool
) -> tuple[list[tuple[int, int, str]], list[_Box]]:
    """(x, y, text) of the rows' labels, and the boxes."""
    left = 0 if narrow else _LABEL_PX
    columns = max(1, (width_px - left + _GAP) // (_BOX + _GAP))
    labels: list[tuple[int, int, str]] = []
    boxes: list[_Box] = []
    y, column, stage = _LEGEND - _PITCH, 0, None
    for layer in layers:
        if _stage(layer.name) != stage or column == columns:
            new = _stage(layer.name) != stage
            y, column = y + _PITCH + (_LABEL_HIGH if new and narrow else 0), 0
            if new:
                stage = _stage(layer.name)
                labels.append((0, y - 9 if narrow else y + 16, short(stage, 48 if narrow else 16)))
        boxes.append(_Box(layer, left + column * (_BOX + _GAP), y, left))
        column += 1
    return labels, boxes


def _legend(width_px: int) -> Iterator[str]:
    step = min(70, width_px // 5)
    bounds = [bound for bound, _ in _COLOURS]
    words = [
        f"> {bounds[0]:.0f} dB",
        *(f"{low:.0f} to {high:.0f}" for high, low in pairwise(bounds[:-1])),
    ]
    for index, (word, (_, tint)) in enumerate(zip([*words, f"< {bounds[-2]:.0f}"], _COLOURS, strict=True)):
        yield f'<rect x="{index * step}" y="1" width="12" height="12" rx="2" fill="var(--{tint})"/>'
        yield f'<text x="{index * step + 16}" y="11" {_TEXT} fill="var(--muted)">{escape(word)}</text>'


def _label(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="12" fill="var(--ink)">{escape(text)}</text>'


def _links(before: _Box | None, box: _Box, ends: dict[str, _Box]) -> Iterator[str]:
    """Lines from the inputs of a layer: short from the box before it, above the boxes from any other."""
    for name in box.layer.inputs:
        source = ends.get(name)
        if source is None:
            continue
        if source is before:
            if source.y == box.y:
                yield _path(f"M{box.x - _GAP} {box.y + _HIGH // 2}h{_GAP}")
            continue
        near, to = source.y == box.y, box.x + _BOX // 2
        top = box.y - (6 if near else 10)
        start = f"M{source.x + _BOX // 2} {source.y}V{top}" if near else f"M{max(0, box.left - _GAP)} {top}"
        yield _path(f"{start}H{to}V{box.y}")


def _path(steps: str) -> str:
    return f'<path d="{steps}" fill="none" stroke="var(--muted)"/>'


def _tint(sqnr_db: float) -> str:
    return next((tint for bound, tint in _COLOURS if sqnr_db >= bound), "db0")


def _box(box: _Box, most: int) -> str:
    layer, x, y = box.layer, box.x, box.y
    tint = _tint(layer.sqnr_db)
    edge = ' stroke="var(--bad)" stroke-width="2.5"' if layer.diverges_in else ""
    ink = "paper" if tint == "db0" else "ink"
    text = escape(short(_SHORT.get(layer.op, layer.op.replace("_", " ")), 10))
    bar = f'<rect x="{x}" y="{y + _HIGH + 3}" width="{_BOX * layer.macs / most:.1f}" height="4" fill="var(--muted)"/>'
    return (
        f'<rect x="{x}" y="{y}" width="{_BOX}" height="{_HIGH}" rx="3" fill="var(--{tint})"{edge}/>'
        f'<text x="{x + _BOX // 2}" y="{y + 16}" {_TEXT} text-anchor="middle" fill="var(--{ink})">{text}</text>'
        f"{bar if layer.macs else ''}"
    )


def _tip(layer: LayerParity, box: _Box, total: int) -> str:
    words = [f"{layer.name} ({layer.op})", f"drift {db(layer.sqnr_db)}"]
    if layer.arithmetic_sqnr_db is not None:
        words.append(f"by itself {db(layer.arithmetic_sqnr_db)}")
    if layer.macs:
        words.append(f"{layer.macs / 1e6:.2f} M MACs, {100 * layer.macs / total:.1f} %")
    if layer.diverges_in:
        words.append(f"diverges in its {layer.diverges_in}")
    text = escape("\n".join("".join(char for char in line if char.isprintable()) for line in words))
    return f'<rect class="tip" x="{box.x}" y="{box.y}" width="{_BOX}" height="{_HIGH + 8}"><title>{text}</title></rect>'
