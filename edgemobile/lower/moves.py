"""Lowerings of aten ops that move values of an image: resize it, take some of its channels, or change their order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.lower.lowering import Lowering, arguments

if TYPE_CHECKING:
    import torch

__all__ = ["GETITEM", "MOVES", "channel_slice", "ends_rows", "ends_shuffle", "starts_rows", "starts_shuffle"]

# The target of the fx node that selects one part of a split.
GETITEM = str(operator.getitem)


def _bilinear(walk: Lowering, fx: torch.fx.Node) -> str:
    """To a size, or by factors that give integer sizes; with or without align_corners."""
    x, _, corners, *scales = arguments(fx, "input", "output_size", "align_corners", scales_h=None, scales_w=None)
    return _resized(walk, fx, x, "bilinear", "align_corners" if corners else "half_pixel", scales)


def _nearest(coordinates: str) -> Callable[[Lowering, torch.fx.Node], str]:
    def row(walk: Lowering, fx: torch.fx.Node) -> str:
        """To a size, or by factors that give integer sizes."""
        x, _, *scales = arguments(fx, "input", "output_size", scales_h=None, scales_w=None)
        return _resized(walk, fx, x, "nearest", coordinates, scales)

    return row


def _resized(
    walk: Lowering, fx: torch.fx.Node, x: torch.fx.Node, mode: str, coordinates: str, scales: Sequence[object]
) -> str:
    """A resize whose factors follow from its sizes, because files have no other factors."""
    image = walk.image(fx, x)
    before, after = tuple(x.meta["val"].shape[2:]), tuple(fx.meta["val"].shape[2:])
    given = scales[0] if isinstance(scales[0], list | tuple) else scales
    for side, size, factor in zip(before, after, given, strict=False):
        if coordinates != "align_corners" and isinstance(factor, float | int) and side * factor != size:
            walk.refuse(
                fx, f"scale_factor {factor:g} of {side} pixels is not an integer; use size={list(after)} instead"
            )
    if before == after:
        return image
    return walk.emit(fx, "resize", (image,), size=after, mode=mode, coordinates=coordinates)


def channel_slice(walk: Lowering, fx: torch.fx.Node) -> str | np.ndarray:
    """A range of channels, or a whole dimension."""
    x, dim, start, end, step = arguments(fx, "input", dim=0, start=None, end=None, step=1)
    before, after = list(x.meta["val"].shape), list(fx.meta["val"].shape)
    if before == after:
        return walk.values[x]
    if step != 1 or dim % len(before) != 1:
        walk.refuse(fx, f"only a slice of channels (dim=1) with step 1 is supported, found {before} -> {after}")
    begin = range(before[1])[slice(start, end)][0]
    return _part(walk, fx, x, begin, after[1])


def _split(walk: Lowering, fx: torch.fx.Node) -> str:
    """Of channels (dim=1); each part that is used becomes a slice."""
    x = fx.args[0]
    dim = arguments(fx, "input", "size", dim=0)[2]
    rank = len(x.meta["val"].shape)  # type: ignore[union-attr]
    if dim % rank != 1:
        walk.refuse(fx, f"only channels (dim=1) can be split, found dim={dim} of {rank}")
    return walk.operand(fx, x, "input")


def _split_part(walk: Lowering, fx: torch.fx.Node) -> str:
    source: Any
    index: Any
    source, index = fx.args
    if str(source.target) not in _SPLITS:
        walk.refuse(fx, f"parts of {source.target} are not supported")
    sizes = [part.shape[1] for part in source.meta["val"]]
    if len(sizes) == 1:
        return walk.operand(fx, source.args[0], "input")
    place = range(len(sizes))[index]
    return _part(walk, fx, source.args[0], sum(sizes[:place]), sizes[place])


def _part(walk: Lowering, fx: torch.fx.Node, x: torch.fx.Node, begin: int, size: int) -> str:
    rank = len(x.meta["val"].shape)
    if rank not in (2, 4):
        walk.refuse(fx, f"only channels of [N, C] or [N, C, H, W] can be selected, found {rank} dimensions")
    if any(str(user.target).partition(".")[2].partition(".")[0].endswith("_") for user in fx.users):
        walk.refuse(fx, "an in-place op overwrites a part of a tensor; use the op that is not in-place")
    return walk.emit(fx, "slice", (walk.operand(fx, x, "input"),), begin=begin, end=begin + size)


def _channel_shuffle(walk: Lowering, fx: torch.fx.Node) -> str:
    """Any number of groups."""
    x, groups = arguments(fx, "input", "groups")
    return walk.emit(fx, "channel_shuffle", (walk.image(fx, x),), groups=groups)


# ---- channel shuffle written as view, transpose, view ----------------------------------------------------------------
#
# Given:  y = x.view(N, groups, C / groups, H, W).transpose(1, 2).contiguous().view(N, C, H, W)
# Result: y = channel_shuffle(x, groups)

_VIEWS = ("aten.view.default", "aten.reshape.default", "aten.unflatten.int")
_PERMUTATIONS = ("aten.transpose.int", "aten.permute.default")
_COPIES = ("aten.contiguous.default", "aten.clone.default")


def starts_shuffle(fx: torch.fx.Node) -> bool:
    """Whether `fx` views an image with its groups as a dimension, and all consumers continue the channel shuffle."""
    before, after = _shape(fx.args[0]), _shape(fx)
    if str(fx.target) not in _VIEWS or len(before) != 4 or len(after) != 5:
        return False
    grouped = after[1] * after[2] == before[1] and (after[0], *after[3:]) == (before[0], *before[2:])
    return grouped and bool(fx.users) and all(map(_swaps_groups, fx.users))


def ends_shuffle(fx: torch.fx.Node) -> torch.fx.Node | None:
    """The view that begins the channel shuffle that `fx` ends; None if `fx` does not end one."""
    if str(fx.target) not in (*_VIEWS, "aten.flatten.using_ints"):
        return None
    source = fx.args[0]
    while str(source.target) in _COPIES:  # type: ignore[union-attr]
        source = source.args[0]  # type: ignore[union-attr]
    if not _swaps_groups(source):  # type: ignore[arg-type]
        return None
    view = source.args[0]  # type: ignore[union-attr]
    return view if starts_shuffle(view) else None  # type: ignore[arg-type, return-value]


def _swaps_groups(fx: torch.fx.Node) -> bool:
    """Whether `fx` swaps the groups with the channels in each, and all consumers view the result as an image."""
    dims = (
        fx.args[1:] if str(fx.target) == "aten.transpose.int" else fx.args[1] if str(fx.target) in _PERMUTATIONS else ()
    )
    swaps = tuple(dims) in ((1, 2), (2, 1), (0, 2, 1, 3, 4))  # type: ignore[arg-type]
    return swaps and bool(fx.users) and all(_joins_groups(user) for user in fx.users)


def _joins_groups(fx: torch.fx.Node) -> bool:
    if str(fx.target) in _COPIES:
        return bool(fx.users) and all(map(_joins_groups, fx.users))
    before, after = _shape(fx.args[0]), _shape(fx)
    joined = (before[0], before[1] * before[2], *before[3:]) if len(before) == 5 else None
    return str(fx.target) in (*_VIEWS, "aten.flatten.using_ints") and after == joined


def _shape(fx: object) -> tuple[int, ...]:
    return tuple(fx.meta["val"].shape)  # type: ignore[attr-defined]


# ---- an image as the rows of a matrix, as in detectors ---------------------------------------------------------------
#
# Given:  y = x.permute(0, 2, 3, 1).reshape(N, R, K), or
#         y = x.view(N, C / K, K, H, W).permute(0, 3, 4, 1, 2).reshape(N, R, K)
# Result: y = reshape(x), whose channels are the last dimension already


def starts_rows(fx: torch.fx.Node) -> bool:
    """Whether `fx` views an image with its channels in two dimensions, and all consumers make rows of it."""
    before, after = _shape(fx.args[0]), _shape(fx)
    if str(fx.target) not in _VIEWS or len(before) != 4 or len(after) != 5:
        return False
    split = after[1] * after[2] == before[1] and (after[0], *after[3:]) == (before[0], *before[2:])
    return split and bool(fx.users) and all(map(_puts_channels_last, fx.users))


def ends_rows(fx: torch.fx.Node) -> bool:
    """Whether `fx` reshapes an image with its channels last to rows [N, R, K]."""
    source = fx.args[0]
    while str(source.target) in _COPIES:  # type: ignore[union-attr]
        source = source.args[0]  # type: ignore[union-attr]
    return _is_rows(fx) and _puts_channels_last(source)


def _puts_channels_last(fx: Any) -> bool:
    """Whether `fx` permutes to channels last, and all consumers reshape the result to rows."""
    if str(fx.target) != "aten.permute.default":
        return False
    rank = len(_shape(fx))
    last = {4: (0, 2, 3, 1), 5: (0, 3, 4, 1, 2)}.get(rank)
    return tuple(dim % rank for dim in fx.args[1]) == last and bool(fx.users) and all(map(_is_rows, fx.users))


def _is_rows(fx: torch.fx.Node) -> bool:
    if str(fx.target) in _COPIES:
        return bool(fx.users) and all(map(_is_rows, fx.users))
    return str(fx.target) in (*_VIEWS, "aten.flatten.using_ints") and len(_shape(fx)) == 3


def _permuted(walk: Lowering, fx: torch.fx.Node) -> str | np.ndarray:
    """In a channel shuffle written as view, transpose, view, and before a reshape of an image to rows."""
    source: Any = fx.args[0]
    in_shuffle = _swaps_groups(fx) and starts_shuffle(source)
    in_rows = _puts_channels_last(fx) and (len(_shape(fx)) == 4 or starts_rows(source))
    if not (in_shuffle or in_rows):
        walk.refuse(
            fx,
            "a permutation of dimensions differs between NHWC and NCHW. Supported: the channel shuffle "
            "view(N, groups, C / groups, H, W).transpose(1, 2).reshape(N, C, H, W), and the rows "
            "permute(0, 2, 3, 1).reshape(N, rows, columns)",
        )
    return walk.operand(fx, source, "input") if in_rows else walk.values[source]


_SPLITS = ("aten.chunk.default", "aten.split.Tensor", "aten.split.sizes", "aten.split_with_sizes.default")
MOVES: dict[str, Callable[[Lowering, torch.fx.Node], str | np.ndarray]] = {
    "aten.upsample_bilinear2d.vec": _bilinear,
    "aten.upsample_bilinear2d.default": _bilinear,
    "aten.upsample_nearest2d.vec": _nearest("asymmetric"),
    "aten.upsample_nearest2d.default": _nearest("asymmetric"),
    "aten._upsample_nearest_exact2d.vec": _nearest("half_pixel"),
    "aten._upsample_nearest_exact2d.default": _nearest("half_pixel"),
    **dict.fromkeys(_SPLITS, _split),
    GETITEM: _split_part,
    "aten.channel_shuffle.default": _channel_shuffle,
    **dict.fromkeys(_PERMUTATIONS, _permuted),
}
