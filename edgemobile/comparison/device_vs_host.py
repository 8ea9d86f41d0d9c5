"""Compares the integers of one int8 file on a device and on this machine, in the same runtime, and names the first op
that differs.

An integer op has one correct result except for rounding ties, so an op may differ by one step. Later layers may amplify
a tie to more steps; this is not a fault of those layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgemobile.comparison.observing import ExecutionTarget, output_steps
from edgemobile.comparison.report import FileParity
from edgemobile.errors import MissingExtra, Unsupported
from edgemobile.exporters.intermediate_outputs import intermediate_names, with_intermediate_outputs
from edgemobile.model_file.model_file import ModelFile

__all__ = ["device_vs_host"]


def device_vs_host(
    file: ModelFile,
    there: ExecutionTarget,
    here: ExecutionTarget,
    images: np.ndarray,
    found: np.ndarray,
    lsb: int,
    result: FileParity,
    notes: list[str],
) -> FileParity:
    """`result` with the largest difference in steps between `found`, the device's outputs for `images`, and the outputs
    of this machine.

    If an output differs by more than `lsb` steps, the first op that differs is searched for. The comparison fails if
    that op by itself differs by more than `lsb` steps, or if no such op is found.
    """
    steps = output_steps(file)
    if steps is None:
        return result
    try:
        expected = here.infer(file, images)
    except MissingExtra as error:
        notes.append(f"its integers are not compared with those on this machine: {error}")
        return result
    differences = np.rint(np.abs(found - expected) / steps)
    result = replace(result, lsb=int(differences.max(initial=0)))
    if not result.lsb:
        words = f"all {found.size} output values are the same integers as from {here.name} on this machine ({here.isa})"
        notes.append(words)
        return result
    words = f"its outputs differ by up to {_steps(result.lsb)} from those of {here.name} on this machine ({here.isa})"
    if result.lsb <= lsb:
        notes.append(words)
        return result
    worst = int(np.argmax(differences.max(axis=1)))
    first = _first_difference(file, there, here, images[worst : worst + 1])
    if first is None:
        return replace(result, missed=(*result.missed, f"{words}; no op that differs was found"))
    words += f"; the first op that differs: {first[0]}, by {_steps(first[1])}"
    if first[1] > lsb:
        return replace(result, missed=(*result.missed, words))
    notes.append(f"{words}, a rounding tie that later layers amplify")
    return result


def _steps(count: int) -> str:
    return f"{count} step{'s' if count > 1 else ''}"


def _first_difference(
    file: ModelFile, there: ExecutionTarget, here: ExecutionTarget, images: np.ndarray
) -> tuple[str, int] | None:
    """(tensor, steps) of the first tensor that differs. Its op has equal inputs, so the difference is from that op.

    First, all tensors are outputs of one run. If this changes what a runtime computes so that nothing differs, a binary
    search compares one tensor at a time.
    """
    position = {name: index for index, op in enumerate(file.contents.ops) for name in op.outputs}
    names = [name for name in intermediate_names(file.contents) if _is_integer(file, name)]
    names.sort(key=position.__getitem__)
    try:
        differences = _largest_differences(file, there, here, images, names)
        for name, steps in zip(names, differences, strict=True):
            if steps:
                return name, steps
        return _by_bisection(file, there, here, images, names)
    except Unsupported:
        return None


def _by_bisection(
    file: ModelFile, there: ExecutionTarget, here: ExecutionTarget, images: np.ndarray, names: Sequence[str]
) -> tuple[str, int] | None:
    first, end, found = 0, len(names), None
    while first < end:
        middle = (first + end) // 2
        (steps,) = _largest_differences(file, there, here, images, names[middle : middle + 1])
        if steps:
            end, found = middle, (names[middle], steps)
        else:
            first = middle + 1
    return found


def _largest_differences(
    file: ModelFile, there: ExecutionTarget, here: ExecutionTarget, images: np.ndarray, names: Sequence[str]
) -> list[int]:
    """The largest difference in steps of each tensor between the two targets."""
    if there.layers is None or here.layers is None:
        raise Unsupported(f"{there.name} cannot return inner tensors")
    # Keep the outputs, because a runtime would remove the ops that only they need.
    outputs = tuple(dict.fromkeys((*file.contents.outputs, *names)))
    data = with_intermediate_outputs(file.data, file.contents, outputs)
    arrays = [target.layers(data, images) for target in (here, there) if target.layers is not None]
    pairs = dict(zip(outputs, zip(*arrays, strict=True), strict=True))
    return [int(np.abs(pairs[name][0].astype(np.int64) - pairs[name][1]).max(initial=0)) for name in names]


def _is_integer(file: ModelFile, name: str) -> bool:
    return name in file.contents.values and file.contents.values[name].dtype in ("int8", "uint8")
