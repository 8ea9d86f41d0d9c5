"""The Origins of a file's tensors: one JSON entry of its metadata, read strictly because files are untrusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgemobile.errors import EdgemobileError
from edgemobile.graph.origin import Origin
from edgemobile.model_file.metadata import ORIGINS
from edgemobile.util.strict_json import decode, versioned

__all__ = ["origins_metadata", "read_origins"]

_VERSION = 1


def origins_metadata(origins: Mapping[str, Origin]) -> dict[str, str]:
    """The metadata entry of a file.

    Channel factors are rounded to 4 digits, which is enough for int8. Tensors with the same factors share one list.
    """
    rounded = {name: _rounded(origin.channel_factors) for name, origin in origins.items() if origin.channel_factors}
    factors = list(dict.fromkeys(rounded.values()))
    indices = {name: factors.index(values) for name, values in rounded.items()}
    tensors = {name: _changes(_OriginEntry.of_origin(origin, indices.get(name))) for name, origin in origins.items()}
    record = {"version": _VERSION, "channel_factors": factors, "tensors": tensors}
    return {ORIGINS: json.dumps(record, separators=(",", ":"))}


def read_origins(metadata: Mapping[str, str], file: str) -> dict[str, Origin]:
    """Tensor name -> Origin; {} without the entry.

    Raises EdgemobileError for an entry of `file` that origins_metadata does not write.
    """
    if ORIGINS not in metadata:
        return {}
    try:
        record = decode(_Record, _with_defaults(versioned(metadata[ORIGINS], _VERSION, "record of tensors")), "record")
        return {name: entry.origin(record.channel_factors) for name, entry in record.tensors.items()}
    except (EdgemobileError, ValueError) as error:
        raise EdgemobileError(
            f"{ORIGINS} in the metadata of {file} cannot be read: {error}. Export the file again, or remove the entry"
        ) from error


@dataclass(frozen=True)
class _OriginEntry:
    """An Origin in the entry: `channel_factors` is an index into the list of the record."""

    of: str
    factor: float = 1.0
    added: float = 0.0
    channel_factors: int | None = None
    gate: bool = False

    @classmethod
    def of_origin(cls, origin: Origin, index: int | None) -> _OriginEntry:
        return cls(origin.of, origin.factor, origin.added, index, origin.gate)

    def origin(self, factors: Sequence[tuple[float, ...]]) -> Origin:
        """Raises ValueError for values that an Origin cannot have."""
        index = self.channel_factors
        if index is not None and not 0 <= index < len(factors):
            raise ValueError(f"{self.of}: channel_factors is {index}, but the record has {len(factors)} lists")
        return Origin(self.of, self.factor, self.added, None if index is None else factors[index], self.gate)


@dataclass(frozen=True)
class _Record:
    channel_factors: tuple[tuple[float, ...], ...]
    tensors: Mapping[str, _OriginEntry]


_DEFAULTS = {field.name: field.default for field in fields(_OriginEntry) if field.name != "of"}


def _rounded(factors: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(f"{factor:.4g}") for factor in factors)


def _changes(entry: _OriginEntry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if key == "of" or value != _DEFAULTS[key]}


def _with_defaults(record: dict[str, Any]) -> dict[str, Any]:
    """`record` with the default values that `_changes` leaves out."""
    tensors = record.get("tensors")
    if not isinstance(tensors, dict):
        return record
    completed = {name: {**_DEFAULTS, **entry} if isinstance(entry, dict) else entry for name, entry in tensors.items()}
    return {**record, "tensors": completed}
