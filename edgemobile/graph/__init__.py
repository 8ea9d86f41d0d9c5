"""The intermediate representation, and what only needs numpy:

ops          the table of ops: attributes, shape rule, and properties for quantization
ir           Graph, Node, Tensor, QParams
origin       which value of the PyTorch program a tensor holds, and how it was changed
origins_entry  the origins in the metadata of a file
checksums    the checksums of int8 tensors in the metadata of a file
renaming     renames tensors
resizing     the coordinates of resize
affine       quantizes and dequantizes
interpreter  computes a Graph in numpy: the reference for every file
embed        adds the normalisation as the first layer
padding      padding in pixels, and the pixels of TensorFlow's SAME
"""

from edgemobile.graph.ir import Graph, GraphError, Node, QParams, Tensor
from edgemobile.graph.ops import OPS, Op
from edgemobile.graph.origin import Origin

__all__ = ["OPS", "Graph", "GraphError", "Node", "Op", "Origin", "QParams", "Tensor"]
