"""What the outputs of a Graph are called."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph
from edgemobile.graph.origin import path_of
from edgemobile.lower import export_program, lower

_Pair = namedtuple("_Pair", ["near", "far"])


class _Two(nn.Module):
    """Returns what `wrap` makes of a layer's output and of the next one's."""

    def __init__(self, wrap: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> Any:
        y = self.stem(x)
        return self.wrap(y, self.head(y))


def _lowered(wrap: Callable[[torch.Tensor, torch.Tensor], Any]) -> Graph:
    torch.manual_seed(0)
    return lower(export_program(_Two(wrap), (1, 3, 9, 9)))


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda a, b: (a, b), ("output_0", "output_1")),
        (lambda a, b: [None, a, b], ("output_1", "output_2")),
        (lambda a, b: OrderedDict(out=b, aux=a), ("out", "aux")),
        (lambda a, b: {"out": b}, ("out",)),
        (lambda a, b: {"features": [a, b]}, ("features.0", "features.1")),
        (lambda a, b: _Pair(a, b), ("near", "far")),
        # Named as a tensor of the net, and as the other one.
        (lambda a, b: {"stem": b}, ("stem",)),
        (lambda a, b: {"stem": b, "head": a}, ("stem", "head")),
        (lambda a, b: {"input": b}, ("input_1",)),
    ],
)
def test_outputs_have_the_names_of_what_forward_returns(
    wrap: Callable[[torch.Tensor, torch.Tensor], Any], names: tuple[str, ...]
) -> None:
    assert _lowered(wrap).outputs == names


def test_an_origin_says_which_module_made_an_output() -> None:
    graph = _lowered(lambda a, b: {"stem": b, "head": a})
    assert {name: path_of(name, graph[name].origin) for name in graph.outputs} == {"stem": "head", "head": "stem"}
    assert [graph[name].shape[-1] for name in graph.outputs] == [5, 4]


def test_a_tensor_makes_room_for_an_output_of_its_name() -> None:
    graph = _lowered(lambda a, b: {"stem": b})
    (inner,) = (name for name in graph.tensors if path_of(name, graph[name].origin) == "stem")
    assert inner == "stem_1"


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (lambda a, b: (b, b), "the output output_1 of the model is the same tensor as output_0: return it once"),
        (lambda a, b: {"out": b, "zeros": torch.zeros(1, 2)}, "the output zeros of the model is a constant"),
    ],
)
def test_outputs_that_a_file_cannot_have(wrap: Callable[[torch.Tensor, torch.Tensor], Any], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        _lowered(wrap)


def test_the_input_is_no_output() -> None:
    class Passing(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x.relu()

    with pytest.raises(Unsupported, match="output_0 of the model is its unchanged input: leave it out"):
        lower(export_program(Passing(), (1, 3, 9, 9)))
