"""Converts sparse TFLite constants to dense ones: pruned weights are stored as their non-zero blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["dense"]

# A TFLite file is smaller than this, and so is any tensor that a runtime can use.
_MAX_BYTES = 2**31


def dense(stored: np.ndarray, shape: tuple[int, ...], sparsity: Any) -> np.ndarray:
    """The whole tensor, zeros included.

    Given:  `stored` [n], the values kept, and a SparsityParametersT of the schema, which follows TACO: the levels of a
            tree, DENSE (every index) or SPARSE_CSR (the indices listed), first the dimensions of `shape`, then the
            dimensions within a block, in the traversal order
    Result: [*shape]
    Raises ValueError or IndexError if the indices do not fit the shape.
    """
    order, rank = [int(axis) for axis in sparsity.traversalOrder], len(shape)
    blocked = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    levels = sparsity.dimMetadata
    if sorted(order) != list(range(rank + len(blocked))) or len(levels) != len(order):
        raise ValueError(f"the sparse tensor of shape {list(shape)} has the traversal order {order}")
    if math.prod(shape) * stored.dtype.itemsize > _MAX_BYTES:
        raise ValueError(f"the sparse tensor of shape {list(shape)} is larger than {_MAX_BYTES} bytes")
    # For every value: its position in its level, and its index in each dimension so far.
    position, indices = np.zeros(1, np.int64), np.zeros((0, 1), np.int64)
    for level in levels:
        parents, position, index = _next_level(position, level, math.prod(shape))
        indices = np.concatenate([indices[:, parents], index[None]])
    by_dimension = indices[np.argsort(order)]
    index_of = list(by_dimension[:rank])
    for block, axis in enumerate(blocked):
        size = int(levels[order.index(rank + block)].denseSize)
        index_of[axis] = index_of[axis] * size + by_dimension[rank + block]
    whole = np.zeros(shape, stored.dtype)
    # Indices that are too large raise; negative ones would count from the end.
    if min((int(index.min()) for index in index_of if index.size), default=0) < 0:
        raise ValueError(f"the sparse tensor of shape {list(shape)} has a negative index")
    whole[tuple(index_of)] = stored[position]
    return whole


def _next_level(position: np.ndarray, level: Any, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position in the level before, position in this level, index in its dimension) of each value below it."""
    if level.arraySegments is None:
        size = int(level.denseSize)
        counts, starts = np.full(len(position), size), position * size
    else:
        segments = np.asarray(level.arraySegments.values, np.int64)
        starts, counts = segments[position], segments[position + 1] - segments[position]
    if min(counts.min(initial=0), starts.min(initial=0)) < 0 or counts.sum() > most:
        raise ValueError(f"an index of a sparse tensor of {most} values is outside of it")
    parents = np.repeat(np.arange(len(position)), counts)
    within = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.repeat(starts, counts) + within
    if level.arraySegments is None:
        return parents, found, within
    return parents, found, np.asarray(level.arrayIndices.values, np.int64)[found]
