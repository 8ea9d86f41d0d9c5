"""What a model file is: ports, ops and their precision, hard-swish, float islands, weights and the guards of int8.

facts                                all of it, as an Inspection (records)
precision, islands, hswish, weights  one question each; tracing follows values through conversions for them
expectations                         what a file must hold, as text
tensor_diff                          two files tensor by tensor, as integers
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
