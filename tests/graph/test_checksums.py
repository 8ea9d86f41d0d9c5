"""What an int8 file's metadata says of its numbers, and which tensors it confirms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.graph import QParams, Tensor
from edgemobile.graph.checksums import checksums_metadata, read_checksums
from edgemobile.model_file.metadata import CHECKSUMS

_WEIGHT = Tensor.constant("w", np.arange(6, dtype=np.int8).reshape(2, 3), QParams([0.1, 0.2], [0, 0], 0))
_ACTIVATION = Tensor("x", (1, 3), "int8", qparams=QParams([0.5], [-4]))
_TENSORS = {"w": _WEIGHT, "x": _ACTIVATION, "float": Tensor("float", (1, 3))}


def test_what_was_written_is_confirmed() -> None:
    checksums = read_checksums(checksums_metadata(_TENSORS), _TENSORS)
    assert checksums.confirms(_WEIGHT)
    # Nothing is known of an activation's numbers, of another tensor, or of none.
    assert not any(map(checksums.confirms, (_ACTIVATION, replace(_WEIGHT, name="v"), None)))


@pytest.mark.parametrize(
    ("changed", "numbers", "scales"),
    [
        (replace(_WEIGHT, data=_WEIGHT.data ^ np.int8(1)), True, False),
        (replace(_WEIGHT, qparams=QParams([0.1, 0.3], [0, 0], 0)), False, True),
        (replace(_ACTIVATION, qparams=QParams([0.6], [-4])), False, True),
    ],
    ids=["a number", "a scale", "an activation's scale"],
)
def test_what_changed_since_is_found(changed: Tensor, numbers: bool, scales: bool) -> None:
    checksums = read_checksums(checksums_metadata(_TENSORS), {**_TENSORS, changed.name: changed})
    assert (checksums.changed_numbers(changed), checksums.changed_scales(changed)) == (numbers, scales)
    assert not checksums.confirms(changed)


def test_float_tensors_have_no_entry() -> None:
    assert checksums_metadata({"float": _TENSORS["float"]}) == {}


@pytest.mark.parametrize("entry", ["[]", '{"w": 3}', '{"w": [1]}', "nonsense"])
def test_an_entry_that_edgemobile_did_not_write_is_refused(entry: str) -> None:
    with pytest.raises(EdgemobileError, match=r"edgemobile\.checksums in the metadata was not written by edgemobile"):
        read_checksums({CHECKSUMS: entry}, _TENSORS)
