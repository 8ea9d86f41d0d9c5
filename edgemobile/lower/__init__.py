"""torch.export program -> Graph: `lower(export_program(net, (1, 3, 224, 224)))`.

module_trace  the program of a net of well-known modules, which takes a tenth of the time of torch.export
ops        one aten op a function, a table of them
moves      its ops that move values of an image: resize, split, shuffle
lowering   what a walk has made so far
coverage   what becomes of every aten op, for the documentation
walk       the program from its inputs to its outputs, op by op; every tensor named by its module path
dead_code  away with what no output depends on
decomposed_activations  hard-sigmoid and hard-swish that a net spells out, as the ops they are
fusion     ReLU and ReLU6 into the op before them
dead_channels  behind `lower`: away with channels that no output depends on, by the bounds of channel_bounds
output_names  the outputs by the keys of what forward() returns
file_graph  the Graph that a reader made of a file, in the form of a lowered program
reals, transposes, affine_folding  its steps: integers, NCHW and unfolded batch norm away

Add an op: a row in graph.OPS and one in ops.LOWERINGS; CONTRIBUTING.md lists the places behind them.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING

from edgemobile.errors import Unsupported, first_line
from edgemobile.graph import Graph
from edgemobile.lower.dead_code import without_dead_code
from edgemobile.lower.decomposed_activations import recognise_activations
from edgemobile.lower.fusion import fuse_activations
from edgemobile.lower.hints import GREY
from edgemobile.lower.output_names import named_outputs, with_output_names
from edgemobile.lower.walk import Walk

if TYPE_CHECKING:
    import torch

    from edgemobile.lower.module_trace import Program

__all__ = ["export_program", "fuse_activations", "lower"]


def export_program(net: torch.nn.Module, input_shape: Sequence[int]) -> torch.export.ExportedProgram:
    """Trace `net` in eval mode for one f32 input of `input_shape` (N, C, H, W).

    Raises Unsupported with torch's own reason where the model cannot be traced.
    """
    import torch

    net = net.eval()
    example = torch.zeros(tuple(input_shape))
    printed = io.StringIO()
    try:
        with _without_logs(), redirect_stderr(printed):
            return torch.export.export(net, (example,))
    except Exception as error:
        hints = (hint for found, hint in _HINTS if re.search(found, str(error)))
        words = ". ".join((first_line(error).rstrip("."), *list(hints)[:1]))
        refusal = Unsupported(f"torch.export cannot trace {type(net).__name__} on input {list(input_shape)}: {words}")
        refusal.details = _rest(str(error), printed.getvalue())
        raise refusal from error


# What torch says -> what to do about it, where that is known.
_HINTS = (
    (r"to have 1 channels, but got 3 channels", GREY),
    (
        r"data-dependent",
        "forward() decides by the values in a tensor, and a file has one way through it: use torch.where, or keep the "
        "branch that is meant for inference",
    ),
)


def _rest(message: str, printed: str) -> str:
    """All that torch said and printed, where that is more than a line."""
    whole = f"{message.strip()}\n\n{printed.strip()}".strip()
    return whole if "\n" in whole else ""


@contextmanager
def _without_logs() -> Iterator[None]:
    """torch logs pages about what it cannot trace; the error says it in a line, and has the rest."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def lower(program: Program, name: str = "model") -> Graph:
    """The Graph of `program`: batch norm folded in float64, activations fused, NHWC, tensors named by module path.

    Hard-swish that a net spells out is one op. What depends on constants alone is computed; what no output depends on,
    and outputs that are None, are left out. An output from a dict has its key as the name, one of several in a tuple or
    a list is output_0 and so on; a single one keeps its module's path. Raises Unsupported for an aten op without a
    lowering, naming the op, its module path and what is supported.
    """
    graph = recognise_activations(Walk(program, name).graph())
    graph = fuse_activations(without_dead_code(graph))
    graph = with_output_names(graph, [label for label, _ in named_outputs(program)])
    graph.check_shapes()
    return graph
