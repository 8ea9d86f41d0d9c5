"""Finds the boards that agree: boards of one kind, with one runtime, whose outputs for the same images are equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemobile.devices.fleet.board import Opened
from edgemobile.errors import EdgemobileError

__all__ = ["Agreement", "agree", "difference"]


@dataclass(frozen=True)
class Agreement:
    """The kind of the boards, and the runtime and the outputs `canary` of most of them.

    `others` is board -> how it differs, for the boards that do not agree.
    """

    kind: str
    runtime: str
    canary: tuple[np.ndarray, ...]
    others: Mapping[str, str]


def agree(opened: Mapping[str, Opened]) -> Agreement:
    """Group the boards by runtime and outputs.

    Raises EdgemobileError for boards of several kinds, and if two groups are the largest.
    """
    kinds = _groups({board: one.kind for board, one in opened.items()})
    if len(kinds) > 1:
        listed = "; ".join(f"{kind}: {', '.join(boards)}" for kind, boards in kinds.items())
        raise EdgemobileError(
            f"the boards are of {len(kinds)} kinds, whose kernels may give different outputs. One evaluation needs "
            f"boards of one kind. Name only those of one kind: {listed}"
        )
    (kind,) = kinds
    runtime, boards = _most(
        _groups({board: one.runtime for board, one in opened.items()}),
        lambda groups: EdgemobileError(
            f"the boards have different runtimes: {'; '.join(f'{name}: {_list(of)}' for name, of in groups.items())}. "
            "Install the same runtime on all, or name only boards with one runtime"
        ),
    )
    others = {
        board: f"it has {one.runtime}; most have {runtime}" for board, one in opened.items() if board not in boards
    }
    _, boards = _most(
        _groups({board: tuple(part.tobytes() for part in opened[board].canary) for board in boards}),
        lambda groups: EdgemobileError(
            f"{' and '.join(map(_list, groups.values()))} are of one kind ({kind}) and give different outputs for the "
            "same images, so one of them is wrong. Add a board of that kind to find out which, evaluate on each board "
            "alone, or: edgemobile parity FILE FILE --on BOARD"
        ),
    )
    canary = opened[boards[0]].canary
    for board, one in opened.items():
        if board not in boards and board not in others:
            others[board] = difference(one.canary, canary, "those of most boards of its kind")
    return Agreement(kind, runtime, canary, others)


def difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], whose: str) -> str:
    """Describes how outputs, parts of f32[n,outputs], differ from the `expected` ones, compared bit by bit."""
    one, other = np.concatenate(found), np.concatenate(expected)
    if one.shape != other.shape:
        return f"it returned outputs {list(one.shape)} instead of {list(other.shape)}"
    count = int(np.sum(one.view(np.uint32) != other.view(np.uint32)))
    apart = np.abs(one.astype(np.float64) - other).max()
    return f"{count} of {one.size} outputs for the first images differ from {whose}, by up to {apart:.3g}"


def _groups(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Value -> the boards that have it."""
    groups: dict[Any, list[str]] = {}
    for board, value in values.items():
        groups.setdefault(value, []).append(board)
    return groups


def _most(
    groups: Mapping[Any, list[str]], tie: Callable[[Mapping[Any, list[str]]], EdgemobileError]
) -> tuple[Any, list[str]]:
    """The value that most boards have, and those boards. Raises `tie` if two have equally many."""
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    if len(ranked) > 1 and len(ranked[0][1]) == len(ranked[1][1]):
        raise tie(groups)
    return ranked[0]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
