"""The one intermediate form, and what is done with it on numpy alone:

ir               Graph, Node, Tensor, QParams, and the table of ops
affine           between reals and integers
interpreter      what a Graph computes: the oracle of every file
embed            normalisation as its first layer
padding          in pixels, and what TensorFlow's SAME comes to
tensor_names     what int8 does to a tensor, told by the end of its name
channel_factors  what equalization multiplied channels by, as it travels in a file
"""

from edgemobile.graph.ir import OPS, READ_ONLY, Graph, GraphError, Node, QParams, Tensor

__all__ = ["OPS", "READ_ONLY", "Graph", "GraphError", "Node", "QParams", "Tensor"]
