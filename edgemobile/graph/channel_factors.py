"""What equalization multiplied the channels of an int8 file by, inside the file: a comparison divides it out again.

The entry is JSON, {tensor name: [a number a channel]}, with as many digits as int8 can tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.model_file.metadata import CHANNEL_FACTORS

__all__ = ["factors_metadata", "read_factors"]


def factors_metadata(factors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The entry for the metadata of a file; none where no channel was multiplied."""
    if not factors:
        return {}
    rounded = {name: [float(f"{factor:.4g}") for factor in values] for name, values in factors.items()}
    return {CHANNEL_FACTORS: json.dumps(rounded, separators=(",", ":"))}


def read_factors(metadata: Mapping[str, str], file: str) -> dict[str, np.ndarray]:
    """Tensor name -> f64[C]. Raises EdgemobileError where the entry of `file` is not what factors_metadata writes."""
    try:
        factors = {str(name): np.array(values, np.float64) for name, values in _entry(metadata).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise EdgemobileError(f"{CHANNEL_FACTORS} in the metadata of {file} cannot be read: {error}") from error
    if not all(v.ndim == 1 and v.size and (v > 0).all() and np.isfinite(v).all() for v in factors.values()):
        raise EdgemobileError(f"{CHANNEL_FACTORS} in the metadata of {file} must be positive numbers, one a channel")
    return factors


def _entry(metadata: Mapping[str, str]) -> dict[str, list[float]]:
    return json.loads(metadata.get(CHANNEL_FACTORS, "{}"))
