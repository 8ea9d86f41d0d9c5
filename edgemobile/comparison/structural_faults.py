"""Mistakes in the structure of a layer, one per function that yields the reference layer's output with the mistake."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgemobile.comparison.diverging_layer import DivergingLayer, Output
from edgemobile.graph.padding import Pads, same_pads, unpadded

__all__ = ["activation", "channel_order", "hswish_form", "layout", "normalised", "padding", "rewired"]


def padding(case: DivergingLayer) -> Iterator[Output]:
    if "padding" not in case.node.attrs:
        return
    (top, bottom), (left, right) = case.node.attrs["padding"]
    height, width = top + bottom, left + right
    others = {
        "SAME padding, the odd pixel at the end": _same_pads(case),
        "padding at the start and the end exchanged": ((bottom, top), (right, left)),
        "all padding at the end": ((0, height), (0, width)),
        "all padding at the start": ((height, 0), (width, 0)),
        "no padding": unpadded,
    }
    for words, pads in others.items():
        if pads != case.node.attrs["padding"]:
            usual = f"({top}, {bottom}) rows and ({left}, {right}) columns"
            yield from case.outputs(f"{words}: {pads} instead of {usual}", node=case.changed(padding=pads))


def _same_pads(case: DivergingLayer) -> Pads:
    size = case.inputs[case.node.inputs[0]].shape[1:3]
    weighted = case.node.op == "conv2d"
    kernel = case.graph[case.node.inputs[1]].shape[1:3] if weighted else case.node.attrs["kernel"]
    dilation = case.node.attrs["dilation"] if weighted else (1, 1)
    return same_pads(size, kernel, case.node.attrs["stride"], dilation)


def layout(case: DivergingLayer) -> Iterator[Output]:
    name = case.node.inputs[0]
    x = case.inputs.get(name)
    if x is not None and x.ndim == 4 and math.prod(x.shape[1:3]) > 1:
        n, height, width, channels = x.shape
        nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape)
        nhwc = x.reshape(n, channels, height, width).transpose(0, 2, 3, 1)
        yield from case.outputs(
            "its input is NCHW in memory and read as NHWC: a transpose is missing", inputs={name: nchw}
        )
        yield from case.outputs(
            "its input is NHWC in memory and read as NCHW: a transpose is missing", inputs={name: nhwc}
        )
        if height == width:
            swapped = {name: x.transpose(0, 2, 1, 3)}
            yield from case.outputs("height and width of its input are exchanged", inputs=swapped)
    if case.is_layer:
        yield from _weight_layouts(case)


def _weight_layouts(case: DivergingLayer) -> Iterator[Output]:
    name = case.node.inputs[1]
    weight = case.data(name)
    others: dict[str, np.ndarray] = {}
    if weight.ndim == 4 and weight.shape[1] == weight.shape[2] > 1:
        others["the kernel's height and width are exchanged"] = weight.transpose(0, 2, 1, 3)
    if weight.shape[0] == weight.shape[-1] > 1:
        others["the weight's input and output channels are exchanged"] = np.swapaxes(weight, 0, -1)
    flattened = _flattened_image(case)
    if flattened is not None:
        height, width, channels = flattened
        first = weight.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(weight.shape)
        last = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(weight.shape)
        others["its columns are in the order of a flattened NCHW image: a transpose is missing"] = first
        others["its columns were put into the order of NHWC twice"] = last
    for words, values in others.items():
        yield from case.outputs(words, constants={name: np.ascontiguousarray(values)})


def _flattened_image(case: DivergingLayer) -> tuple[int, int, int] | None:
    """(height, width, channels) of the image that was flattened into the layer's input."""
    producer = case.graph.producer(case.node.inputs[0])
    if case.node.op != "linear" or producer is None or producer.op != "reshape":
        return None
    shape = case.graph[producer.inputs[0]].shape
    return (shape[1], shape[2], shape[3]) if len(shape) == 4 and shape[1] * shape[2] > 1 else None


def channel_order(case: DivergingLayer) -> Iterator[Output]:
    if case.image is not None:
        swapped = {case.node.inputs[0]: np.ascontiguousarray(case.image[..., ::-1])}
        yield from case.outputs("the image's channels are read as B, G, R", inputs=swapped)


def normalised(case: DivergingLayer) -> Iterator[Output]:
    """Other normalisations of the image. If one is folded into the weights, it also affects the padded border."""
    image = case.image
    if image is None or case.normalisation is None:
        return
    mean, std = (np.array(values, np.float32) for values in (case.normalisation.mean, case.normalisation.std))
    forms: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mean and standard deviation are applied a second time": lambda x: (x - mean) / std,
        "mean and standard deviation are not applied: pixels from 0 to 1": lambda x: x * std + mean,
        "the image is read as pixels from -1 to 1": lambda x: 2 * (x * std + mean) - 1,
        "the image is read as pixels from 0 to 255": lambda x: 255 * (x * std + mean),
        "the standard deviation is applied a second time": lambda x: x / std,
        "the mean is subtracted a second time": lambda x: x - mean / std,
    }
    name = case.node.inputs[0]
    for words, form in forms.items():
        for channels, order in (("", slice(None)), (", and the channels are read as B, G, R", slice(None, None, -1))):
            seen = form(image)[..., order].astype(np.float32)
            yield from case.outputs(words + channels, inputs={name: seen})
            if "padding" in case.node.attrs:
                padded = np.pad(image, ((0, 0), *case.node.attrs["padding"], (0, 0)))
                node = case.changed(padding=unpadded)
                yield from case.outputs(words + channels, node=node, inputs={name: form(padded)[..., order]})


_ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "hard-swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard-sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard-swish without the 1/6": lambda x: x * np.clip(x + 3, 0, 6),
    "hard-sigmoid without the 1/6": lambda x: np.clip(x + 3, 0, 6),
    "hard-sigmoid as 0.2 x + 0.5": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard-swish on 0.2 x + 0.5": lambda x: x * np.clip(0.2 * x + 0.5, 0, 1),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "relu": lambda x: np.maximum(x, 0),
    "no activation": lambda x: x,
}
_USUAL = {"hardswish": "hard-swish", "hardsigmoid": "hard-sigmoid", "": "no activation"}


def hswish_form(case: DivergingLayer) -> Iterator[Output]:
    if case.node.op in ("hardswish", "hardsigmoid"):
        yield from _activated(case, case.inputs[case.node.inputs[0]], case.node.op)


def activation(case: DivergingLayer) -> Iterator[Output]:
    if case.node.op in ("relu", "relu6"):
        yield from _activated(case, case.inputs[case.node.inputs[0]], case.node.op)
    elif "activation" in case.node.attrs:
        for _, linear in case.outputs("", node=case.changed(activation="")):
            yield from _activated(case, linear, case.node.attrs["activation"])


def _activated(case: DivergingLayer, x: np.ndarray, usual: str) -> Iterator[Output]:
    right = _USUAL.get(usual, usual)
    for words, function in _ACTIVATIONS.items():
        if words != right:
            yield f"{words} instead of {right}", function(x).astype(np.float32)


def rewired(case: DivergingLayer) -> Iterator[Output]:
    """An addition, a product or a concatenation that reads another tensor of the same shape."""
    if case.node.op not in ("add", "mul", "concat"):
        return
    shapes = {name: x.shape for name, x in case.inputs.items()}
    names = [node.output for node in case.graph.nodes if node.output != case.node.output and node.output not in shapes]
    for other in names:
        if case.observed.problem(other):
            continue
        x = case.observed.real(other)
        for name in (name for name, shape in shapes.items() if shape == x.shape):
            yield from case.outputs(f"it reads {other} instead of {name}", inputs={name: x})
