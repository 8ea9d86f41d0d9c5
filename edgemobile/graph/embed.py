"""Makes normalisation part of the graph, which then takes raw uint8 pixels [N,H,W,3]; resize and crop do not.

    (px / 255 - mean) / std = px * k + b,   k = 1 / (255 * std),   b = -mean / std

is a depthwise 1x1 convolution before the first layer, with weight k and bias b. The stem's padding comes after it and
so stays zero in normalised values, as in PyTorch. If k and b were folded into the stem instead, the padding would be
pixels of value 0.

In int8 the weight is the integer w with the scale k / w, with the w for which the bias is nearest to an integer. The
output has the scale of the original input, so all later integers are the same as in the file without it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.affine import quantize
from edgemobile.preprocess import Preprocess

__all__ = ["EMBEDDED", "embed", "normalised", "outside", "to_pixels"]

EMBEDDED = "preprocess"  # the tensor that was the input of the graph
_STEPS = np.arange(64, 128)


def embed(graph: Graph, preprocess: Preprocess) -> Graph:
    """`graph`, float or int8, after the normalisation of `preprocess`. Its input keeps its name and becomes uint8.

    Raises Unsupported for a graph that does not take one RGB image in float32 or int8.
    """
    source = _image(graph)
    pixels = Tensor(source.name, source.shape, "uint8", qparams=_whole(0))
    typed = f"{source.name}.{'float' if source.qparams is None else 'int8'}"
    weight, bias = _constants(preprocess, source.qparams)
    integer = None if source.qparams is None else _whole(-128)
    tensors = (
        pixels,
        Tensor(typed, source.shape, source.dtype, qparams=integer),
        weight,
        bias,
        replace(source, name=EMBEDDED),
    )
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 3, "activation": ""}
    added = (
        Node("dequantize" if source.qparams is None else "quantize", (source.name,), typed),
        Node("conv2d", (typed, weight.name, bias.name), EMBEDDED, attrs),
    )
    original = tuple(
        Node(node.op, tuple(EMBEDDED if name == source.name else name for name in node.inputs), node.output, node.attrs)
        for node in graph.nodes
    )
    return graph.replaced((*added, *original), tensors)


def outside(preprocess: Preprocess) -> Preprocess:
    """The preprocessing that remains for a file with `preprocess` embedded: resize and crop; pixels from 0 to 255."""
    return replace(preprocess, mean=(0.0,) * 3, std=(1 / 255,) * 3)


def to_pixels(images: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Preprocessed images f32[N,H,W,3] -> the nearest pixels, whole numbers from 0 to 255 in f32."""
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    return np.clip(np.rint((images * std + mean) * np.float32(255)), 0, 255)


def normalised(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Pixels from 0 to 255, [N,H,W,3] of any dtype -> preprocessed images f32, as Preprocess makes them."""
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def _image(graph: Graph) -> Tensor:
    source = graph[graph.inputs[0]]
    if len(graph.inputs) != 1 or len(source.shape) != 4 or source.shape[3] != 3 or EMBEDDED in graph.tensors:
        raise Unsupported(
            f"preprocessing can be embedded once, for an input of one RGB image [N, H, W, 3]; {graph.name} takes "
            f"{', '.join(f'{name} {list(graph[name].shape)}' for name in graph.inputs)}"
        )
    if source.dtype != ("float32" if source.qparams is None else "int8"):
        raise Unsupported(f"preprocessing can be embedded in float32 and int8 graphs, found {source.dtype}")
    return source


def _whole(zero_point: int) -> QParams:
    """QParams with scale 1."""
    return QParams(np.ones(1, np.float32), np.array([zero_point]))


def _constants(preprocess: Preprocess, result: QParams | None) -> tuple[Tensor, Tensor]:
    """(weight [3,1,1,1], bias [3]): float32, or int8 and int32 if `result` is given."""
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    k, b = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    names = f"{EMBEDDED}.weight", f"{EMBEDDED}.bias"
    if result is None:
        return Tensor.constant(names[0], k.reshape(3, 1, 1, 1)), Tensor.constant(names[1], b)
    # The bias is -mean * 255 * w steps. For ImageNet's 123.675, 116.28 and 103.53 there is a w that makes it an
    # integer.
    offsets = 255 * mean[:, None] * _STEPS
    steps = _STEPS[np.abs(offsets - np.rint(offsets)).argmin(axis=1)]
    qparams = QParams((k / steps).astype(np.float32), np.zeros(3, np.int32), axis=0)
    return (
        Tensor.constant(names[0], steps.astype(np.int8).reshape(3, 1, 1, 1), qparams),
        Tensor.constant(names[1], quantize(b, qparams, "int32"), qparams),
    )
