"""What a parity run found, as records: immutable, versioned, to JSON and back without losing inf or nan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemobile.comparison.causes import Cause
from edgemobile.comparison.layers import LayerParity, first_diverging
from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import Real, decode, encode, versioned

__all__ = ["FAIL", "NOT_COMPARED", "PASS", "REFUSED", "REPORT_VERSION", "FileParity", "ParityReport"]

REPORT_VERSION = 4

# What a file's verdict may be.
PASS, NOT_COMPARED, FAIL, REFUSED = "pass", "not compared", "FAIL", "refused"


@dataclass(frozen=True)
class FileParity:
    """One file in one place against the reference.

    `metrics` are of its output, `bounds` what they are held to, `missed` what fell short, in words, and `missed_layers`
    what of it is about layers. `layers` are in the reference's order, () where they were not asked for; `unmatched` is
    (tensor of the reference, why it could not be compared), and `not_compared` why no layer could be, "" where one was
    or none was asked for. `first_diverging` is the first layer that does, `cause` the likely reason. `sha256` is of the
    file's bytes.

    `refused` says why nothing was measured: the file is damaged, no image classifier, or its runtime does not run it.
    It then neither passed nor fell short.

    `lsb` is how many steps int8 outputs are at most from those of the reference's same integers, and on a device, of
    which `machine` says what it is, from the same runtime's on this machine; None where nothing was compared.
    """

    file: str
    format: str
    precision: str
    place: str
    isa: str
    metrics: Mapping[str, Real]
    bounds: Mapping[str, Real]
    missed: tuple[str, ...] = ()
    missed_layers: tuple[str, ...] = ()
    layers: tuple[LayerParity, ...] = ()
    unmatched: tuple[tuple[str, str], ...] = ()
    cause: Cause | None = None
    notes: tuple[str, ...] = ()
    sha256: str = ""
    machine: str = ""
    lsb: int | None = None
    refused: str = ""
    not_compared: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was run, and nothing that was compared fell short."""
        return not self.missed and not self.refused

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why its verdict is not PASS."""
        return tuple(filter(None, (self.refused, *self.missed, self.not_compared)))

    @property
    def verdict(self) -> str:
        """PASS, FAIL or REFUSED; NOT_COMPARED where the outputs hold and no layer asked for could be compared."""
        if self.refused:
            return REFUSED
        return FAIL if self.missed else NOT_COMPARED if self.not_compared else PASS

    @property
    def gaps(self) -> tuple[str, ...]:
        """All that was asked for and not compared, in words."""
        whole = (self.not_compared,) if self.not_compared else ()
        return whole or tuple(f"{tensor}: {reason}" for tensor, reason in self.unmatched)

    @property
    def missed_outputs(self) -> tuple[str, ...]:
        return tuple(words for words in self.missed if words not in self.missed_layers)

    @property
    def first_diverging(self) -> LayerParity | None:
        return first_diverging(self.layers)

    @property
    def agreeing(self) -> int:
        """How many of the compared layers hold."""
        return sum(not layer.diverges_in for layer in self.layers)


@dataclass(frozen=True)
class ParityReport:
    """A reference and the files held to it, on `images`, which says in words what they were."""

    reference: str
    images: str
    files: tuple[FileParity, ...]
    notes: tuple[str, ...] = field(default=())
    version: int = REPORT_VERSION

    def __post_init__(self) -> None:
        if self.version != REPORT_VERSION:
            raise EdgemobileError(
                f"parity report version {self.version!r} is not known to this edgemobile; it reads {REPORT_VERSION}"
            )

    @property
    def passed(self) -> bool:
        """Whether no file fell short."""
        return all(file.passed for file in self.files)

    @property
    def exit_code(self) -> int:
        """2 where a file was refused, else 1 where one fell short, else 0: the order of the gate."""
        if any(file.refused for file in self.files):
            return EdgemobileError.exit_code
        return 0 if self.passed else 1

    @property
    def complete(self) -> bool:
        """Whether all that was asked for was compared."""
        return not any(file.gaps for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """JSON's own types; inf and nan are the texts "inf", "-inf" and "nan"."""
        return {"version": self.version, "passed": self.passed, **encode(self)}

    @classmethod
    def from_json(cls, given: str | Mapping[str, Any]) -> ParityReport:
        """Read back what `to_json` wrote, strictly. Raises EdgemobileError for another version, or the first field that
        is missing, unknown or of another type."""
        fields = versioned(given, REPORT_VERSION, "parity report")
        fields.pop("passed", None)
        return decode(cls, {**fields, "version": REPORT_VERSION}, "parity report")

    def __str__(self) -> str:
        lines = [f"{self.reference}: {'pass' if self.passed else 'FAIL'} on {self.images}"]
        for file in self.files:
            found = ", ".join(f"{name} {value:.4g}" for name, value in file.metrics.items())
            lines.append(f"  {file.verdict} {file.file} ({file.place}): {file.refused or found}")
            lines += [f"       {words}" for words in (*file.missed, *filter(None, [file.not_compared]))]
        return "\n".join(lines)
