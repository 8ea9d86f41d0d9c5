"""The one intermediate form, and what is done with it on numpy alone:

ops              the table of ops: attributes, shape rule, and what quantization needs to know of each
ir               Graph, Node, Tensor, QParams
affine           between reals and integers
interpreter      what a Graph computes: the oracle of every file
embed            normalisation as its first layer
padding          in pixels, and what TensorFlow's SAME comes to
tensor_names     what int8 does to a tensor, told by the end of its name
channel_factors  what equalization multiplied channels by, as it travels in a file
"""

from edgemobile.graph.ir import Graph, GraphError, Node, QParams, Tensor
from edgemobile.graph.ops import OPS, Op

__all__ = ["OPS", "Graph", "GraphError", "Node", "Op", "QParams", "Tensor"]
