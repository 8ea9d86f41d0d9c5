"""One int8 file on a device and on this machine, in the same runtime: the same integers, or the op that differs named.

An integer op has one right answer but for ties, so an op may be a step apart. What the layers behind make of a tie may
be more; it is not their fault.
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
    """`result` with the steps between `found`, what the device made of `images`, and what this machine makes of them.

    Where an output is more than `lsb` steps away, the first op that differs is looked for; `result` misses where that
    op, or one that cannot be found, is.
    """
    steps = output_steps(file)
    if steps is None:
        return result
    try:
        expected = here.infer(file, images)
    except MissingExtra as error:
        notes.append(f"its integers are not compared with those here: {error}")
        return result
    apart = np.rint(np.abs(found - expected) / steps)
    result = replace(result, lsb=int(apart.max(initial=0)))
    if not result.lsb:
        notes.append(f"the same integers as {here.name} on this machine ({here.isa}), all {found.size} of the outputs")
        return result
    words = f"its outputs are up to {_steps(result.lsb)} from those of {here.name} on this machine ({here.isa})"
    if result.lsb <= lsb:
        notes.append(words)
        return result
    worst = int(np.argmax(apart.max(axis=1)))
    first = _first_apart(file, there, here, images[worst : worst + 1])
    if first is None:
        return replace(result, missed=(*result.missed, f"{words}; no op was found that differs"))
    words += f"; the first op that differs: {first[0]}, by {_steps(first[1])}"
    if first[1] > lsb:
        return replace(result, missed=(*result.missed, words))
    notes.append(f"{words}, a tie that later layers carry on")
    return result


def _steps(count: int) -> str:
    return f"{count} step{'s' if count > 1 else ''}"


def _first_apart(
    file: ModelFile, there: ExecutionTarget, here: ExecutionTarget, images: np.ndarray
) -> tuple[str, int] | None:
    """(tensor, steps) of the first integers that differ: what it reads is equal, so the difference is its op's own.

    All at once first. Where a runtime that has to show everything computes otherwise, one tensor at a time, by halves.
    """
    names = [name for name in intermediate_names(file.contents) if _is_integer(file, name)]
    try:
        apart = _apart(file, there, here, images, names)
        for name, steps in zip(names, apart, strict=True):
            if steps:
                return name, steps
        return _by_halves(file, there, here, images, names)
    except Unsupported:
        return None


def _by_halves(
    file: ModelFile, there: ExecutionTarget, here: ExecutionTarget, images: np.ndarray, names: Sequence[str]
) -> tuple[str, int] | None:
    first, end, found = 0, len(names), None
    while first < end:
        middle = (first + end) // 2
        (steps,) = _apart(file, there, here, images, names[middle : middle + 1])
        if steps:
            end, found = middle, (names[middle], steps)
        else:
            first = middle + 1
    return found


def _apart(
    file: ModelFile, there: ExecutionTarget, here: ExecutionTarget, images: np.ndarray, names: Sequence[str]
) -> list[int]:
    """How many steps each of the tensors is from itself on this machine."""
    if there.layers is None or here.layers is None:
        raise Unsupported(f"{there.name} shows no inner tensors")
    # The output stays one, or a runtime would leave out what only it needs.
    outputs = tuple(dict.fromkeys((*file.contents.outputs, *names)))
    data = with_intermediate_outputs(file.data, file.contents, outputs)
    arrays = [place.layers(data, images) for place in (here, there) if place.layers is not None]
    pairs = dict(zip(outputs, zip(*arrays, strict=True), strict=True))
    return [int(np.abs(pairs[name][0].astype(np.int64) - pairs[name][1]).max(initial=0)) for name in names]


def _is_integer(file: ModelFile, name: str) -> bool:
    return name in file.contents.values and file.contents.values[name].dtype in ("int8", "uint8")
