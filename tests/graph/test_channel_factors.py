"""What equalization multiplied by comes back from a file's metadata, or is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.graph.channel_factors import factors_metadata, read_factors
from edgemobile.model_file.metadata import CHANNEL_FACTORS


def test_factors_come_back_with_as_many_digits_as_int8_can_tell() -> None:
    factors = {"stem.eq": np.array([1.0, 0.012345678, 4321.8765]), "head.x6.eq": np.array([2.0])}
    found = read_factors(factors_metadata(factors), "a.onnx")
    assert found.keys() == factors.keys()
    for name, values in factors.items():
        np.testing.assert_allclose(found[name], values, rtol=1 / 1000)
    assert factors_metadata({}) == {}
    assert read_factors({}, "a.onnx") == {}


@pytest.mark.parametrize("values", ["[1, -2]", "[0]", "[]", "[[1], [2]]", "1", "[NaN]", "[Infinity]"])
def test_factors_that_no_channel_can_have_are_refused(values: str) -> None:
    with pytest.raises(EdgemobileError, match=r"metadata of a.onnx must be positive numbers, one a channel"):
        read_factors({CHANNEL_FACTORS: f'{{"stem.eq": {values}}}'}, "a.onnx")


@pytest.mark.parametrize("entry", ["", "[1]", '{"stem.eq": ["x"]}', '{"stem.eq": [[1], [1, 2]]}'])
def test_an_entry_that_is_something_else_is_refused(entry: str) -> None:
    with pytest.raises(EdgemobileError, match=r"metadata of a.onnx cannot be read"):
        read_factors({CHANNEL_FACTORS: entry}, "a.onnx")
