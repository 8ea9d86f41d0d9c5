"""What the numbers stored in an int8 file say by themselves: held to its reference's, nothing is run.

Against an int8 file of the same quantization they are compared exactly (twins), against a float reference as far as
that explains them (own_numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgemobile.comparison.findings import Finding
from edgemobile.comparison.observing import graph_name, graph_of, stored, tensors_of
from edgemobile.comparison.own_numbers import Weights, check_checksums, check_layers, check_units, unused_input
from edgemobile.comparison.twins import Pair, different_numbers, different_wiring, pair_of
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
    """What is wrong, whether the file has the reference's integers (`same_integers`), and what could not be told."""

    findings: tuple[Finding, ...] = ()
    same_integers: bool = False
    notes: tuple[str, ...] = ()


def against_file(file: ModelFile, reference: ModelFile) -> StoredNumbers:
    """An int8 file against another one."""
    try:
        pair = _pair(file, reference)
    except (Unsupported, GraphError) as error:
        return StoredNumbers(notes=(f"its numbers are not compared with the reference's: {error}",))
    if not isinstance(pair, Pair):
        words = f"its integers are of another quantization than the reference's ({pair}): outputs are compared in dB"
        return StoredNumbers(notes=(words,))
    findings, notes = different_numbers(pair), []
    try:
        findings += different_wiring(graph_of(file), graph_of(reference))
    except Unsupported as error:
        notes.append(f"which op reads what is not compared: {error}")
    return StoredNumbers(tuple(findings), True, tuple(notes))


def _pair(file: ModelFile, reference: ModelFile) -> Pair | str:
    inputs, outputs = (
        tuple(graph_name(reference, name) for name in names)
        for names in (reference.contents.inputs, reference.contents.outputs)
    )
    return pair_of(tensors_of(file), tensors_of(reference), inputs, outputs)


def against_float(file: ModelFile, graph: Callable[[], Graph], preprocess: Preprocess) -> StoredNumbers:
    """An int8 file against itself, its preprocessing and the float `graph` of its reference."""
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
    # Weights that are as they were written are where the recipe moved them.
    findings += (each for each in weights.findings if not checksums.confirms(tensors.get(each.tensor)))
    if not takes_pixels(file.contents):
        source = tensors.get(graph_name(file, file.contents.inputs[0]))
        notes += filter(None, [unused_input(file.contents, source, file.preprocess or preprocess)])
    named = {name: graph_name(file, name) for name in ("", *file.contents.values)}
    findings += check_units(file.contents, tensors, named, weights, checksums)
    told = {finding.tensor for finding in findings}
    # What was done to all layers is told once.
    findings += () if "" in told else check_checksums(file.contents, tensors, named, checksums, told)
    return StoredNumbers(tuple(findings), notes=tuple(notes))
