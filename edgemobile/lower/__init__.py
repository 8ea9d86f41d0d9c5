"""torch.export program -> Graph: `lower(export_program(net, (1, 3, 224, 224)))`.

ops        one aten op a function, a table of them
walk       the program from its inputs to its outputs, op by op; every tensor named by its module path
dead_code  away with what no output depends on
by_hand    hard-sigmoid and hard-swish that a net spells out, as the ops they are
fusion     ReLU and ReLU6 into the op before them

Add an op: a row in graph.OPS and one in ops.LOWERINGS; CONTRIBUTING.md lists the places behind them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgemobile.errors import Unsupported, first_line
from edgemobile.graph import Graph
from edgemobile.lower.by_hand import recognise_gates
from edgemobile.lower.dead_code import without_dead_code
from edgemobile.lower.fusion import fuse_activations
from edgemobile.lower.walk import Lowering

if TYPE_CHECKING:
    import torch

__all__ = ["export_program", "fuse_activations", "lower"]


def export_program(net: torch.nn.Module, input_shape: Sequence[int]) -> torch.export.ExportedProgram:
    """Trace `net` in eval mode for one f32 input of `input_shape` (N, C, H, W).

    Raises Unsupported with torch's own reason where the model cannot be traced.
    """
    import torch

    net = net.eval()
    example = torch.zeros(tuple(input_shape))
    try:
        with _without_logs():
            return torch.export.export(net, (example,))
    except Exception as error:
        raise Unsupported(
            f"torch.export cannot trace {type(net).__name__} on input {list(input_shape)}: {first_line(error)}"
        ) from error


@contextmanager
def _without_logs() -> Iterator[None]:
    """torch logs pages about what it cannot trace; the error says it in a line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def lower(program: torch.export.ExportedProgram, name: str = "model") -> Graph:
    """The Graph of `program`: batch norm folded in float64, activations fused, NHWC, tensors named by module path.

    Hard-swish that a net spells out is one op. What depends on constants alone is computed; what no output depends on,
    and outputs that are None, are left out. Raises Unsupported for an aten op without a lowering, naming the op, its
    module path and what is supported.
    """
    graph = recognise_gates(Lowering(program, name).graph())
    graph = fuse_activations(without_dead_code(graph))
    graph.check_shapes()
    return graph
