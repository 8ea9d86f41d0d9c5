"""Float islands: float ops between integer kernels."""

from __future__ import annotations

from edgemobile.inspection.precision import CONSTANT, precision_of
from edgemobile.inspection.tracing import CONVERSIONS, DEQUANTIZES, QUANTIZES
from edgemobile.model_file.contents import Contents, Op

__all__ = ["islands"]


def islands(contents: Contents) -> tuple[tuple[str, ...], ...]:
    """Groups of float ops that read integers and are quantized again: each one leaves the integer kernels."""
    return tuple(island for graph in contents.graphs for island in _islands_of(graph))


def _islands_of(contents: Contents) -> tuple[tuple[str, ...], ...]:
    floats = [
        op
        for op in contents.ops
        if op.kind not in CONVERSIONS and not precision_of(contents, op).startswith(("int", CONSTANT))
    ]
    after = _reachable(contents.ops, DEQUANTIZES)
    before = _reachable(tuple(_turned(op) for op in reversed(contents.ops)), QUANTIZES)
    group: dict[str, list[Op]] = {}
    for op in floats:
        if not (set(op.inputs) & after and set(op.outputs) & before):
            continue
        near = list({id(group[name]): group[name] for name in op.inputs if name in group}.values())
        merged = [member for part in near for member in part] + [op]
        for member in merged:
            group.update(dict.fromkeys(member.outputs, merged))
    return tuple(tuple(op.kind for op in part) for part in {id(part): part for part in group.values()}.values())


def _turned(op: Op) -> Op:
    return Op(op.kind, op.outputs, op.inputs)


def _reachable(ops: tuple[Op, ...], start: frozenset[str]) -> set[str]:
    """Values produced by a `start` op, or computed from such values."""
    found: set[str] = set()
    for op in ops:
        if op.kind in start or found.intersection(name for name in op.inputs if name):
            found.update(name for name in op.outputs if name)
    return found
