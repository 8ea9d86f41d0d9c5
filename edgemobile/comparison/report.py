"""The results of a parity run as records: immutable, versioned, to JSON and back without loss of inf and nan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemobile.comparison.causes import Cause
from edgemobile.comparison.layers import LayerParity, first_diverging
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import Real, decode, encode, versioned

__all__ = ["FAIL", "NOT_COMPARED", "PASS", "REFUSED", "REPORT_VERSION", "FileParity", "ParityReport"]

REPORT_VERSION = 4

# The verdicts of a file.
PASS, NOT_COMPARED, FAIL, REFUSED = "pass", "not compared", "FAIL", "refused"


@dataclass(frozen=True)
class FileParity:
    """One file on one execution target, `place`, compared with the reference.

    `metrics` are of its output, or the worst of several outputs, for which `outputs` has the metrics by name. `bounds`
    are the bounds of the metrics. `missed` describes every check that failed, and `missed_layers` those of them about
    layers. `layers` are in the reference's order, () if they were not requested. `unmatched` is (tensor of the
    reference, why it could not be compared). `not_compared` is why no layer could be compared, "" if one was or none
    was requested. `first_diverging` is the first layer that diverges, `cause` the likely reason. `sha256` is of the
    file's bytes.

    `refused` is why nothing was measured: the file is damaged, does not take an image, or its runtime cannot run it. It
    then neither passed nor failed. `unreachable`: the reason is that the device did not answer.

    `lsb` is the largest difference of int8 outputs in steps: from the outputs of a reference with the same integers,
    or, on a device (described by `machine`), from those of the same runtime on this machine. None if neither was
    compared.
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
    outputs: Mapping[str, Mapping[str, Real]] = field(default_factory=dict)
    unreachable: bool = False

    def lacks(self, metric: str) -> bool:
        """Whether the metric does not exist: nothing was measured, or none of several outputs has it."""
        return bool(self.refused) or (bool(self.outputs) and all(metric not in own for own in self.outputs.values()))

    @property
    def passed(self) -> bool:
        """Whether the file was run and met every bound that was checked."""
        return not self.missed and not self.refused

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why its verdict is not PASS."""
        return tuple(filter(None, (self.refused, *self.missed, self.not_compared)))

    @property
    def verdict(self) -> str:
        """PASS, FAIL or REFUSED; NOT_COMPARED if the outputs pass but no requested layer could be compared."""
        if self.refused:
            return REFUSED
        return FAIL if self.missed else NOT_COMPARED if self.not_compared else PASS

    @property
    def gaps(self) -> tuple[str, ...]:
        """Everything that was requested but not compared, in words."""
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
        """The number of compared layers that do not diverge."""
        return sum(not layer.diverges_in for layer in self.layers)


@dataclass(frozen=True)
class ParityReport:
    """A reference and the files compared with it. `images` describes the images in words."""

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
        """Whether every file passed."""
        return all(file.passed for file in self.files)

    @property
    def exit_code(self) -> int:
        """2 if a file was refused, else 1 if one failed, else 4 if a device did not answer, else 0."""
        if any(file.refused and not file.unreachable for file in self.files):
            return EdgemobileError.exit_code
        if any(file.missed for file in self.files):
            return 1
        return 0 if self.passed else DeviceUnreachable.exit_code

    @property
    def complete(self) -> bool:
        """Whether everything that was requested was compared."""
        return not any(file.gaps for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """JSON's own types; inf and nan are the texts "inf", "-inf" and "nan"."""
        return {"version": self.version, "passed": self.passed, **encode(self)}

    @classmethod
    def from_json(cls, given: str | Mapping[str, Any]) -> ParityReport:
        """Read the JSON of `to_json`, strictly. Raises EdgemobileError for another version, and for the first field
        that is missing, unknown or of another type."""
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
