"""Checksums of the numbers of an int8 file in its own metadata, to detect numbers that changed after it was written.

The entry is JSON: {activation: [scale, zero point], constant: [CRC-32 of its integers, of its scales]}.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Tensor
from edgemobile.model_file.metadata import CHECKSUMS

__all__ = ["Checksums", "checksums_metadata", "read_checksums"]


@dataclass(frozen=True)
class Checksums:
    """`ranges`: activation -> (scale, zero point). `constants`: constant -> CRC-32 of (its integers, its scales)."""

    ranges: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    constants: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def confirms(self, tensor: Tensor | None) -> bool:
        """Whether a constant has a checksum and is unchanged."""
        if tensor is None or tensor.name not in self.constants:
            return False
        return not (self.changed_numbers(tensor) or self.changed_scales(tensor))

    def changed_numbers(self, tensor: Tensor) -> bool:
        return tensor.name in self.constants and self.constants[tensor.name][0] != _crc(tensor.data)

    def changed_scales(self, tensor: Tensor) -> bool:
        if tensor.qparams is None:
            return False
        if tensor.name in self.ranges:
            return bool(np.float32(self.ranges[tensor.name][0]) != tensor.qparams.scale[0])
        return tensor.name in self.constants and self.constants[tensor.name][1] != _crc(tensor.qparams.scale)


def checksums_metadata(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata entry of a file with these tensors; {} if none of them is quantized."""
    entry: dict[str, list[float | int]] = {}
    for name, tensor in tensors.items():
        if tensor.qparams is not None and tensor.is_constant:
            entry[name] = [_crc(tensor.data), _crc(tensor.qparams.scale)]
        elif tensor.qparams is not None:
            entry[name] = [float(tensor.qparams.scale[0]), int(tensor.qparams.zero_point[0])]
    return {CHECKSUMS: json.dumps(entry, separators=(",", ":"))} if entry else {}


def read_checksums(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Checksums:
    """The checksums of `tensors`. Raises EdgemobileError for an entry that checksums_metadata does not write."""
    try:
        entry = json.loads(metadata.get(CHECKSUMS, "{}"))
        pairs = {name: (values[0], values[1]) for name, values in entry.items() if name in tensors}
        constants = {name: (int(a), int(b)) for name, (a, b) in pairs.items() if tensors[name].is_constant}
        ranges = {name: (float(a), int(b)) for name, (a, b) in pairs.items() if not tensors[name].is_constant}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise EdgemobileError(f"{CHECKSUMS} in the metadata was not written by edgemobile: {error!r}") from error
    return Checksums(ranges, constants)


def _crc(array: np.ndarray | None) -> int:
    """CRC-32 of the numbers in the Graph's layout, which does not depend on the format."""
    return 0 if array is None else zlib.crc32(np.ascontiguousarray(array).tobytes())
