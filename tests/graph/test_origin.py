"""What a tensor holds of which value comes back from a file's metadata, or is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph, GraphError, Node, Origin, Tensor
from edgemobile.graph.ir import unique_name, with_origins
from edgemobile.graph.origin import path_of
from edgemobile.graph.origins_entry import origins_metadata, read_origins
from edgemobile.model_file.metadata import ORIGINS

ORIGINS_SAID = {
    "stem.eq": Origin("stem", channel_factors=(1.0, 0.012345678, 4321.8765)),
    "head.x6.eq": Origin("head", 6, channel_factors=(2.0,)),
    "head.gate": Origin("head", gate=True),
    "fc.weight.d6": Origin("fc.weight", 1 / 6),
    "se.bias.plus3": Origin("se.bias", added=3),
    "x1": Origin("block.x1"),
}


def test_origins_come_back_with_as_many_digits_as_int8_can_tell() -> None:
    found = read_origins(origins_metadata(ORIGINS_SAID), "a.onnx")
    rescaled = found.pop("stem.eq")
    assert rescaled.of == "stem"
    np.testing.assert_allclose(rescaled.channel_factors, ORIGINS_SAID["stem.eq"].channel_factors, rtol=1 / 1000)
    assert found == {name: origin for name, origin in ORIGINS_SAID.items() if name != "stem.eq"}
    assert read_origins(origins_metadata({}), "a.onnx") == read_origins({}, "a.onnx") == {}


def test_only_what_was_done_is_written() -> None:
    origins = {"x1": Origin("a"), "a.gate": Origin("a", gate=True)}
    origins |= {name: Origin(name, channel_factors=(1.0, 2.0)) for name in ("b", "c")}
    said = {"x1": {"of": "a"}, "a.gate": {"of": "a", "gate": True}}
    said |= {name: {"of": name, "channel_factors": 0} for name in ("b", "c")}
    written = json.loads(origins_metadata(origins)[ORIGINS])
    assert written == {"version": 1, "channel_factors": [[1.0, 2.0]], "tensors": said}


@pytest.mark.parametrize(
    "said",
    [
        "1",
        "[]",
        "{}",
        '{"of": ""}',
        '{"of": 1}',
        '{"of": "a\\u001b[2J"}',
        '{"of": "a", "times": 2}',
        '{"of": "a", "gate": 1}',
        '{"of": "a", "added": 1e999}',
        '{"of": "a", "of": "b"}',
        *(f'{{"of": "a", "factor": {value}}}' for value in ("0", "-1", "NaN", "Infinity", "1e999", '"6"', "null")),
        *(f'{{"of": "a", "factor": {value}}}' for value in ("true", "1" + "0" * 400, "9" * 5000)),
        *(f'{{"of": "a", "channel_factors": {value}}}' for value in ("1", "-1", "0.0", "true", "[1, 2]", '"0"')),
    ],
)
def test_what_no_tensor_can_be_is_refused(said: str) -> None:
    entry = f'{{"version": 1, "channel_factors": [[1, 2]], "tensors": {{"stem": {said}}}}}'
    with pytest.raises(
        EdgemobileError, match=rf"{ORIGINS} in the metadata of a.onnx cannot be read: .*Export the file"
    ):
        read_origins({ORIGINS: entry}, "a.onnx")


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "[1]",
        "{}",
        '{"version": 2, "channel_factors": [], "tensors": {}}',
        '{"version": 1, "tensors": {}}',
        '{"version": 1, "channel_factors": [], "tensors": []}',
        '{"version": 1, "channel_factors": [], "tensors": {}, "more": 1}',
        "[" * 100_000,
    ],
)
def test_an_entry_that_is_something_else_is_refused(entry: str) -> None:
    with pytest.raises(EdgemobileError, match=r"metadata of a.onnx cannot be read"):
        read_origins({ORIGINS: entry}, "a.onnx")


@pytest.mark.parametrize("values", ["[1, -2]", "[0]", "[]", "[[1], [2]]", "1", "[NaN]", "[1e999]", '["x"]', "[true]"])
def test_factors_that_no_channel_can_have_are_refused(values: str) -> None:
    said = '{"stem.eq": {"of": "stem", "channel_factors": 0}}'
    entry = f'{{"version": 1, "channel_factors": [{values}], "tensors": {said}}}'
    with pytest.raises(EdgemobileError, match=r"metadata of a.onnx cannot be read"):
        read_origins({ORIGINS: entry}, "a.onnx")


@pytest.mark.parametrize(
    "wrong", [{"of": ""}, {"factor": 0}, {"factor": 1e-13}, {"factor": math.inf}, {"added": math.nan}]
)
def test_an_origin_checks_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        Origin(**{"of": "a", **wrong})  # type: ignore[arg-type]


def test_a_gate_is_not_the_value_itself() -> None:
    assert path_of("a.x6", Origin("a", 6)) == "a"
    assert path_of("a.gate", Origin("a", gate=True)) == "a.gate"
    assert path_of("a.x6", None) == "a.x6"


def test_factors_fit_the_channels() -> None:
    origin = Origin("a", channel_factors=(1.0, 2.0))
    assert Tensor("a.eq", (1, 4, 4, 2), origin=origin).origin is origin
    for shape in ((1, 4, 4, 3), ()):
        with pytest.raises(GraphError, match=r"a.eq: 2 channel factors"):
            with_origins({"a.eq": Tensor("a.eq", shape)}, {"a.eq": origin})


def test_a_replaced_tensor_keeps_its_origin() -> None:
    zeros = Tensor.constant("w.d6", np.zeros((2, 2), np.float32))
    tensors = {
        "x": Tensor("x", (1, 2)),
        "w.d6": replace(zeros, data=np.ones((2, 2), np.float32), origin=Origin("w", 1 / 6)),
        "b": Tensor.constant("b", np.zeros(2, np.float32)),
        "y.x6": Tensor("y.x6", (1, 2), origin=Origin("y", 6)),
    }
    node = Node("linear", ("x", "w.d6", "b"), "y.x6", {"activation": ""})
    graph = Graph("g", ("x",), ("y.x6",), (node,), tensors)
    assert graph.origins == {"w.d6": Origin("w", 1 / 6), "y.x6": Origin("y", 6)}
    assert graph.replaced(tensors=[zeros])["w.d6"].origin == Origin("w", 1 / 6)
    assert graph.replaced(tensors=[replace(zeros, origin=Origin("v"))])["w.d6"].origin == Origin("v")


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert unique_name("a.x6", {"a"}) == "a.x6"
    assert unique_name("a.x6", {"a.x6", "a.x6_1"}) == "a.x6_2"
