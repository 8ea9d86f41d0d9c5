"""The Origins of a file's tensors: one entry of its metadata, in JSON, read strictly since a file may hold anything."""

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
    """The entry for the metadata of a file.

    Channel factors have as many digits as int8 can tell; what a residual ties together shares them.
    """
    rounded = {name: _rounded(origin.channel_factors) for name, origin in origins.items() if origin.channel_factors}
    factors = list(dict.fromkeys(rounded.values()))
    places = {name: factors.index(values) for name, values in rounded.items()}
    tensors = {name: _changes(_Said.of_origin(origin, places.get(name))) for name, origin in origins.items()}
    record = {"version": _VERSION, "channel_factors": factors, "tensors": tensors}
    return {ORIGINS: json.dumps(record, separators=(",", ":"))}


def read_origins(metadata: Mapping[str, str], file: str) -> dict[str, Origin]:
    """Tensor name -> Origin, none without the entry.

    Raises EdgemobileError where the entry of `file` is not what origins_metadata writes.
    """
    if ORIGINS not in metadata:
        return {}
    try:
        record = decode(_Record, _completed(versioned(metadata[ORIGINS], _VERSION, "record of tensors")), "record")
        return {name: said.origin(record.channel_factors) for name, said in record.tensors.items()}
    except (EdgemobileError, ValueError) as error:
        raise EdgemobileError(
            f"{ORIGINS} in the metadata of {file} cannot be read: {error}. Export the file again, or remove the entry"
        ) from error


@dataclass(frozen=True)
class _Said:
    """An Origin as it is written: `channel_factors` is a place in the record's list."""

    of: str
    factor: float = 1.0
    added: float = 0.0
    channel_factors: int | None = None
    gate: bool = False

    @classmethod
    def of_origin(cls, origin: Origin, place: int | None) -> _Said:
        return cls(origin.of, origin.factor, origin.added, place, origin.gate)

    def origin(self, factors: Sequence[tuple[float, ...]]) -> Origin:
        """Raises ValueError where no Origin can be so."""
        place = self.channel_factors
        if place is not None and not 0 <= place < len(factors):
            raise ValueError(f"{self.of}: channel_factors {place} is not one of the record's {len(factors)}")
        return Origin(self.of, self.factor, self.added, None if place is None else factors[place], self.gate)


@dataclass(frozen=True)
class _Record:
    channel_factors: tuple[tuple[float, ...], ...]
    tensors: Mapping[str, _Said]


_USUAL = {field.name: field.default for field in fields(_Said) if field.name != "of"}


def _rounded(factors: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(f"{factor:.4g}") for factor in factors)


def _changes(said: _Said) -> dict[str, Any]:
    return {key: value for key, value in asdict(said).items() if key == "of" or value != _USUAL[key]}


def _completed(record: dict[str, Any]) -> dict[str, Any]:
    """`record` with what `_changes` leaves out."""
    tensors = record.get("tensors")
    if not isinstance(tensors, dict):
        return record
    completed = {name: {**_USUAL, **said} if isinstance(said, dict) else said for name, said in tensors.items()}
    return {**record, "tensors": completed}
