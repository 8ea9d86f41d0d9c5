"""Required counts of a file, as text: "HARD_SWISH=21,TRANSPOSE=0,delegate_partitions=1". For scripts and CI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.inspection import Inspection

__all__ = ["FACTS", "missed_expectations", "parse_expectations"]

# Facts other than ops, by their names in Inspection.
FACTS: Mapping[str, Callable[[Inspection], int | None]] = MappingProxyType(
    {
        "fused": lambda file: file.hswish.get("fused", 0),
        "delegated": lambda file: file.hswish.get("delegated", 0),
        "decomposed": lambda file: file.hswish.get("decomposed", 0),
        "islands": lambda file: None if file.islands is None else len(file.islands),
        "delegate_partitions": lambda file: file.delegate_partitions,
        "dead_channels": lambda file: sum(weight.dead_channels for weight in file.weights),
    }
)


def parse_expectations(text: str) -> dict[str, int]:
    """ "A=1,B=0" -> {"A": 1, "B": 0}; raises EdgemobileError for another form."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, count = (piece.strip() for piece in part.partition("="))
        if not name or not equals or not count.isdecimal():
            raise EdgemobileError(
                f'expectation {part!r} is not NAME=COUNT. Write expectations like "HARD_SWISH=21,TRANSPOSE=0"'
            )
        if found.setdefault(name, int(count)) != int(count):
            raise EdgemobileError(f"expectation {name} is given twice: {found[name]} and {count}")
    if not found:
        raise EdgemobileError('the expectations are empty. Write them like "HARD_SWISH=21,TRANSPOSE=0"')
    return found


def missed_expectations(file: Inspection, expected: Mapping[str, int]) -> list[str]:
    """One line per expectation that is not met.

    Raises Unsupported for a name that is neither a fact nor an op of the file's format: a typing error must not
    pass as a count of 0.
    """
    missed = []
    for name, count in expected.items():
        found = FACTS[name](file) if name in FACTS else _op_count(file, name)
        if found is None:
            raise Unsupported(
                f"{name} of {file.file} is not known here: {'; '.join(file.notes) or 'not for its format'}"
            )
        if found != count:
            missed.append(f"{file.file}: expected {name}={count}, found {found}")
    return missed


def _op_count(file: Inspection, name: str) -> int | None:
    """The count of an op; None if onnxruntime is needed to know it, because it runs other ops than the file stores."""
    runtime = file.runtime_ops or {}
    if name in file.ops or name in runtime:
        return file.ops[name] if name in file.ops else runtime[name]
    if name not in _known_ops(file.format):
        raise Unsupported(
            f"{name} is not an op of {file.format}. This file has {', '.join(file.ops)}; facts are {', '.join(FACTS)}"
        )
    return None if file.format == "onnx" and file.runtime_ops is None else 0


def _known_ops(format_name: str) -> frozenset[str]:
    if format_name == "tflite":
        from edgemobile.exporters.tflite_contents import known_ops as tflite_ops

        return tflite_ops()
    from edgemobile.exporters.onnx_contents import known_ops as onnx_ops

    return onnx_ops()
