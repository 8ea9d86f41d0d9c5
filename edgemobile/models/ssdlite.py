"""What SSDLite adds to a MobileNet: the blocks behind it, and the boxes that each of its levels starts from.

Sources: SSD (arXiv:1512.02325, section 2.2), SSDLite (arXiv:1801.04381, section 6.2), on v3 (arXiv:1905.02244, section
6.3). Where a paper leaves a number open, it is that of torchvision's ssdlite320_mobilenet_v3_large.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from edgemobile.models.arch import Arch

if TYPE_CHECKING:
    from edgemobile.postprocess import Postprocess

__all__ = ["ANCHORS_PER_PIXEL", "extra_channels", "postprocess"]

_EXTRA = (512, 256, 256, 128)
_FEWEST_CHANNELS = 16
LEVELS = 2 + len(_EXTRA)

_ASPECT_RATIOS = (2, 3)
_SMALLEST, _LARGEST = 0.2, 0.95  # of the side of the image
# Two squares, and each aspect ratio lying and standing.
ANCHORS_PER_PIXEL = 2 + 2 * len(_ASPECT_RATIOS)


def extra_channels(arch: Arch) -> tuple[int, ...]:
    """The channels of each block behind the backbone, at the width of `arch`."""
    return tuple(max(_FEWEST_CHANNELS, int(channels * arch.width)) for channels in _EXTRA)


def postprocess(arch: Arch) -> Postprocess:
    """The anchors of `arch` at its resolution, and how its outputs become boxes.

    The first level has 1/16 of the resolution, every other one half of the one before. Anchors of level k of 6 have a
    scale s_k = 0.2 + 0.75 k / 5, s_6 = 1: a square of s_k, one of sqrt(s_k s_k+1), and for each aspect ratio a one of
    (s_k sqrt(a), s_k / sqrt(a)) and the same turned by 90 degrees. None is larger than the image.
    """
    from edgemobile.postprocess import AnchorLevel, Postprocess

    scales = [_SMALLEST + (_LARGEST - _SMALLEST) * level / (LEVELS - 1) for level in range(LEVELS)] + [1.0]
    levels, side = [], -(-arch.input_px // 16)
    for scale, following in pairwise(scales):
        levels.append(AnchorLevel((side, side), tuple(_sizes(scale, math.sqrt(scale * following)))))
        side = -(-side // 2)
    return Postprocess(tuple(levels))


def _sizes(scale: float, between: float) -> Iterator[tuple[float, float]]:
    for ratio in (1, *_ASPECT_RATIOS):
        width, height = min(scale * math.sqrt(ratio), 1.0), scale / math.sqrt(ratio)
        yield width, height
        yield (between, between) if ratio == 1 else (height, width)
