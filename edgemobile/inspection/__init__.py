"""Facts of a model file: inputs, outputs, ops and their precision, hard-swish, float islands, weights, int8 saturation.

facts                                all of it, as an Inspection (records)
precision, islands, hswish, weights  one kind of fact each; they use tracing to follow values through conversions
expectations                         required counts of a file, as text
tensor_diff                          compares two files tensor by tensor, as integers
"""

from edgemobile.inspection.facts import facts_of, inspect_file, read_stored_tensors
from edgemobile.inspection.hswish import hswish_forms
from edgemobile.inspection.precision import CONSTANT, CONVERSION
from edgemobile.inspection.records import Inspection, PortFacts, WeightFacts

__all__ = [
    "CONSTANT",
    "CONVERSION",
    "Inspection",
    "PortFacts",
    "WeightFacts",
    "facts_of",
    "hswish_forms",
    "inspect_file",
    "read_stored_tensors",
]
