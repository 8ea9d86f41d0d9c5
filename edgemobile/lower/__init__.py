"""torch.export program -> Graph: `lower(export_program(net, (1, 3, 224, 224)))`.

module_trace  traces a net of torch.nn modules in a tenth of the time that torch.export takes
walk       lowers a program op by op; every tensor is named by its module path
lowering   the state of this walk
ops        the table of aten ops, with one function for each
moves      the ops among them that move values of an image: resize, split, shuffle
pools      pools and means
subpixels  transposed convolutions and pixel shuffles
coverage   how every aten op is handled, for the documentation
output_names  names the outputs by the keys of the value that forward() returns
dead_code  removes nodes that no output depends on
decomposed_activations  recognises hard-sigmoid and hard-swish that a net computes from several ops
shuffled_rows  removes channel shuffles after a layer
fusion     fuses ReLU and ReLU6 into the op before them
dead_channels  after `lower`: removes channels that no output depends on, by the bounds of channel_bounds
file_graph  brings the Graph of a model file into the form of a lowered program
dequantization, transposes, affine_folding  its steps: remove integers, transposes and unfolded batch norm

To add an op: a row in graph.OPS and one in ops.LOWERINGS; CONTRIBUTING.md lists what else to change.
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
from edgemobile.lower.hints import GREY, parts_without_lowering
from edgemobile.lower.output_names import named_outputs, with_output_names
from edgemobile.lower.shuffled_rows import shuffle_rows
from edgemobile.lower.walk import Walk

if TYPE_CHECKING:
    import torch

    from edgemobile.lower.module_trace import Program

__all__ = ["export_program", "fuse_activations", "lower"]


def export_program(net: torch.nn.Module, input_shape: Sequence[int]) -> torch.export.ExportedProgram:
    """Trace `net` in eval mode for one f32 input of `input_shape` (N, C, H, W).

    Raises Unsupported with torch's own reason if the model cannot be traced.
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


# An error message of torch -> what to do about it.
_HINTS = (
    (r"to have 1 channels, but got 3 channels", GREY),
    (
        r"data-dependent",
        "forward() branches on the values of a tensor, but a file always runs the same ops: use torch.where, or keep "
        "only the branch for inference",
    ),
)


def _rest(message: str, printed: str) -> str:
    """Everything that torch printed and raised; "" if that is a single line."""
    whole = f"{message.strip()}\n\n{printed.strip()}".strip()
    return whole if "\n" in whole else ""


@contextmanager
def _without_logs() -> Iterator[None]:
    """Suppresses the logs of torch about code that it cannot trace; the error has the first line and the details."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def lower(program: Program, name: str = "model") -> Graph:
    """The Graph of `program`: batch norm folded in float64, activations fused, NHWC, tensors named by module path.

    Hard-swish that a net computes from several ops becomes one op. Ops on constants are computed. Nodes that no output
    depends on, and outputs that are None, are left out. The name of an output is its key in a dict, or output_0 and so
    on in a tuple or a list; a single output keeps its module's path. Raises Unsupported for an aten op without a
    lowering; the error names the op, its module path and the supported ops.
    """
    try:
        walked = Walk(program, name).graph()
    except Unsupported as error:
        advice = parts_without_lowering(str(fx.target) for fx in program.graph.nodes if fx.op == "call_function")
        raise Unsupported(". ".join(filter(None, (str(error).rstrip("."), advice)))) from error
    graph = recognise_activations(walked)
    graph = shuffle_rows(fuse_activations(without_dead_code(graph)))
    graph = with_output_names(graph, [label for label, _ in named_outputs(program)])
    graph.check_shapes()
    return graph
