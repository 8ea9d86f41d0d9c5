"""Checks the numbers stored in an int8 file against its reference, without a run.

They are compared exactly with an int8 file of the same quantization (same_quantization). With a float reference, they
are compared as far as it determines them (int8_checks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgemobile.comparison.findings import Finding
from edgemobile.comparison.int8_checks import Weights, check_checksums, check_layers, check_units, unused_input
from edgemobile.comparison.observing import graph_name, graph_of, stored, tensors_of
from edgemobile.comparison.same_quantization import Pair, different_numbers, different_wiring, pair_of
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.graph import Graph, GraphError
from edgemobile.graph.checksums import Checksums, read_checksums
from edgemobile.model_file.metadata import CHECKSUMS
from edgemobile.model_file.model_file import ModelFile
from edgemobile.model_file.precision import takes_pixels
from edgemobile.preprocess import Preprocess

__all__ = ["StoredNumbers", "against_file", "against_float"]


@dataclass(frozen=True)
class StoredNumbers:
    """The faults, whether the file has the reference's integers, and notes on what was not checked."""

    findings: tuple[Finding, ...] = ()
    same_integers: bool = False
    notes: tuple[str, ...] = ()


def against_file(file: ModelFile, reference: ModelFile) -> StoredNumbers:
    """Compare an int8 file with an int8 reference."""
    try:
        pair = _pair(file, reference)
    except (Unsupported, GraphError) as error:
        return StoredNumbers(notes=(f"its numbers are not compared with the reference's: {error}",))
    if not isinstance(pair, Pair):
        words = f"it has another quantization than the reference ({pair}): its outputs are compared in dB"
        return StoredNumbers(notes=(words,))
    findings, notes = different_numbers(pair), []
    try:
        findings += different_wiring(graph_of(file), graph_of(reference))
    except Unsupported as error:
        notes.append(f"the connections of its ops are not compared: {error}")
    return StoredNumbers(tuple(findings), True, tuple(notes))


def _pair(file: ModelFile, reference: ModelFile) -> Pair | str:
    inputs, outputs = (
        tuple(graph_name(reference, name) for name in names)
        for names in (reference.contents.inputs, reference.contents.outputs)
    )
    return pair_of(tensors_of(file), tensors_of(reference), inputs, outputs)


def against_float(file: ModelFile, graph: Callable[[], Graph], preprocess: Preprocess) -> StoredNumbers:
    """Check an int8 file for contradictions, and against its preprocessing and the reference's float `graph`."""
    weights, notes = Weights(), []
    try:
        tensors = tensors_of(file)
    except Unsupported as error:
        return StoredNumbers(notes=(f"its numbers are not checked: {error}",))
    try:
        weights = check_layers(graph(), stored(file, graph()))
    except Unsupported as error:
        notes.append(f"its weights are not compared with the reference's: {error}")
    notes += filter(None, [weights.note])
    checksums, findings = Checksums(), []
    try:
        checksums = read_checksums(file.metadata, tensors)
    except EdgemobileError as error:
        findings.append(Finding("checksums", CHECKSUMS, str(error)))
    # If a weight's checksum is correct, its differences are from the recipe.
    findings += (each for each in weights.findings if not checksums.confirms(tensors.get(each.tensor)))
    if not takes_pixels(file.contents):
        source = tensors.get(graph_name(file, file.contents.inputs[0]))
        notes += filter(None, [unused_input(file.contents, source, file.preprocess or preprocess)])
    named = {name: graph_name(file, name) for name in ("", *file.contents.values)}
    findings += check_units(file.contents, tensors, named, weights, checksums)
    reported = {finding.tensor for finding in findings}
    # A fault of all layers (tensor "") is reported once.
    findings += () if "" in reported else check_checksums(file.contents, tensors, named, checksums, reported)
    return StoredNumbers(tuple(findings), notes=tuple(notes))
