"""The one intermediate form, and what is done with it on numpy alone:

ops          the table of ops: attributes, shape rule, and what quantization needs to know of each
ir           Graph, Node, Tensor, QParams
origin       which value of the PyTorch program a tensor holds, and what was done to it; origins_entry: in a file
affine       between reals and integers
interpreter  what a Graph computes: the oracle of every file
embed        normalisation as its first layer
padding      in pixels, and what TensorFlow's SAME comes to
"""

from edgemobile.graph.ir import Graph, GraphError, Node, QParams, Tensor
from edgemobile.graph.ops import OPS, Op
from edgemobile.graph.origin import Origin

__all__ = ["OPS", "Graph", "GraphError", "Node", "Op", "Origin", "QParams", "Tensor"]
