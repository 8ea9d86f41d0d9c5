"""A narrow MobileNet V3 in every form, and every mistake known to break a file, made in its graph on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.origin import path_of
from edgemobile.images.samples import from_noise
from edgemobile.lower import export_program, lower
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import IMAGENET
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe

__all__ = [
    "DEPTHWISE",
    "FLOAT_DRIFTS",
    "GATE",
    "HSWISH",
    "INT8_DRIFTS",
    "PREPROCESS",
    "PX",
    "QUICK",
    "STEM",
    "Net",
    "assert_named",
    "bgr",
    "compared",
    "data_of",
    "drifted_int8",
    "flip_bit",
    "hard_sigmoid",
    "make_net",
    "node_at",
    "normalised_twice",
    "normalised_twice_by_nodes",
    "same_padding",
    "transposed_kernel",
    "with_data",
    "with_node",
]

PX = 32
STEM, DEPTHWISE = "features.0.1", "features.2.block.1.2"
HSWISH = "features.4.block.0.2"
# In int8 one op with the linear layer before it.
GATE = "features.1.block.1.scale_activation"
PREPROCESS = replace(IMAGENET, input_px=PX, resize="exact", shorter_px=None)


QUICK = Recipe(refit=0, bias_correction=False, equalize=0, split_gates="none")


@dataclass(frozen=True)
class Net:
    """A narrow MobileNet V3 whose batch norms know its images, as a graph, in int8, and as files."""

    graph: Graph
    int8: Graph
    folder: Path

    def write(self, name: str, graph: Graph) -> Path:
        """A file of `graph`."""
        path = self.folder / name
        metadata = {"edgemobile.preprocess": json.dumps(PREPROCESS.to_json())}
        path.write_bytes(FORMATS[path.suffix[1:]].load().to_bytes(graph, metadata=metadata))
        return path


def make_net(folder: Path) -> Net:
    """The net, with its files of float32 and int8 in `folder`."""
    torch.manual_seed(0)
    module = build_net(scaled(get_arch("v3-small"), width=0.35, classes=10))
    images = from_noise(PREPROCESS, calibration=24, check=1, seed=1).calibration
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
            torch.nn.init.uniform_(norm.weight, 0.6, 1.6)
            torch.nn.init.uniform_(norm.bias, -0.4, 0.6)
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    graph = lower(export_program(module, (1, 3, PX, PX)), "narrow")
    quantized = ptq(graph, [images])
    made = Net(graph, quantized.graph, folder)
    for name in ("onnx", "tflite"):
        made.write(f"float32.{name}", graph)
        made.write(f"int8.{name}", quantized.graph)
    return made


def compared(net: Net, *others: Path, ref: str = "float32.onnx", **options: object) -> ParityReport:
    request = ParityRequest(
        str(net.folder / ref) if "." in ref else ref, tuple(map(str, others)), images=2, layers=True, **options
    )  # type: ignore[arg-type]
    return parity(request)


def node_at(graph: Graph, path: str) -> Node:
    return next(node for node in graph.nodes if path_of(node.output, graph[node.output].origin) == path)


def with_node(graph: Graph, old: Node, new: Node) -> Graph:
    return graph.replaced([new if node is old else node for node in graph.nodes])


def with_data(graph: Graph, name: str, data: np.ndarray) -> Graph:
    tensor = graph[name]
    return graph.replaced(tensors=[replace(tensor, data=np.ascontiguousarray(data, tensor.dtype))])


def data_of(graph: Graph, name: str) -> np.ndarray:
    data = graph[name].data
    assert data is not None
    return data


def same_padding(graph: Graph) -> Graph:
    """SAME at stride 2 puts the odd pixel at the end."""
    node = node_at(graph, DEPTHWISE)
    assert node.attrs["stride"] == (2, 2)
    assert node.attrs["padding"] == ((1, 1), (1, 1))
    attrs = {**node.attrs, "padding": ((0, 1), (0, 1))}
    return with_node(graph, node, Node(node.op, node.inputs, node.output, attrs))


def transposed_kernel(graph: Graph) -> Graph:
    """[O,KW,KH,I] in place of [O,KH,KW,I]."""
    weight = node_at(graph, DEPTHWISE).inputs[1]
    return with_data(graph, weight, data_of(graph, weight).transpose(0, 2, 1, 3))


def bgr(graph: Graph) -> Graph:
    weight = node_at(graph, STEM).inputs[1]
    return with_data(graph, weight, data_of(graph, weight)[..., ::-1])


def normalised_twice(graph: Graph) -> Graph:
    """((x - mean) / std) folded into the stem of a net whose images are normalised already."""
    mean, std = np.array(IMAGENET.mean, np.float32), np.array(IMAGENET.std, np.float32)
    _, weight, bias = node_at(graph, STEM).inputs
    scaled_weight = data_of(graph, weight) / std
    shift = (scaled_weight * mean).sum(axis=(1, 2, 3))
    return with_data(with_data(graph, weight, scaled_weight), bias, data_of(graph, bias) - shift)


def normalised_twice_by_nodes(graph: Graph) -> Graph:
    """The same as two ops in front of the stem."""
    stem = node_at(graph, STEM)
    image = stem.inputs[0]
    shape = graph[image].shape
    constants = [
        Tensor.constant("again.std", (1 / np.array(IMAGENET.std, np.float32)).reshape(1, 1, 1, 3)),
        Tensor.constant("again.mean", (-np.array(IMAGENET.mean) / IMAGENET.std).astype(np.float32).reshape(1, 1, 1, 3)),
    ]
    nodes = [
        Node("mul", (image, "again.std"), "again.mul", {"activation": ""}),
        Node("add", ("again.mul", "again.mean"), "again.add", {"activation": ""}),
        Node(stem.op, ("again.add", *stem.inputs[1:]), stem.output, stem.attrs),
    ]
    others = [node for node in graph.nodes if node is not stem]
    tensors = [*constants, Tensor("again.mul", shape), Tensor("again.add", shape)]
    return graph.replaced([*nodes, *others], tensors)


def hard_sigmoid(graph: Graph) -> Graph:
    node = node_at(graph, HSWISH)
    assert node.op == "hardswish"
    return with_node(graph, node, Node("hardsigmoid", node.inputs, node.output))


def flip_bit(graph: Graph, path: str, bit: int) -> Graph:
    """One bit of one weight, the first from the middle on that is not zero: a dead channel's would change nothing."""
    weight = node_at(graph, path).inputs[1]
    data = data_of(graph, weight).copy()
    octets = data.reshape(-1).view(f"u{data.dtype.itemsize}")
    place = octets.size // 2 + int(np.flatnonzero(octets[octets.size // 2 :])[0])
    octets[place] ^= octets.dtype.type(1 << bit)
    return with_data(graph, weight, data)


FLOAT_DRIFTS: dict[str, tuple[Callable[[Graph], Graph], str, str]] = {
    "same padding": (same_padding, DEPTHWISE, "padding"),
    "missing transpose": (transposed_kernel, DEPTHWISE, "layout"),
    "bgr": (bgr, STEM, "channel order"),
    "normalised twice": (normalised_twice, STEM, "normalisation"),
    "normalised twice by nodes": (normalised_twice_by_nodes, STEM, "normalisation"),
    "hard-sigmoid": (hard_sigmoid, HSWISH, "hard-swish form"),
    "flipped bit": (lambda graph: flip_bit(graph, DEPTHWISE, 29), DEPTHWISE, "flipped bit"),
    "flipped low bit": (lambda graph: flip_bit(graph, DEPTHWISE, 3), DEPTHWISE, "flipped bit"),
    "flipped sign": (lambda graph: flip_bit(graph, "features.5.block.0.1", 31), "features.5.block.0.1", "flipped bit"),
}


# The same on int8: the drifted net is quantized, or the int8 net drifts.
INT8_DRIFTS: dict[str, tuple[Callable[[Graph], Graph], bool, str, str]] = {
    "same padding": (same_padding, False, DEPTHWISE, "padding"),
    "missing transpose": (transposed_kernel, False, DEPTHWISE, "layout"),
    "bgr": (bgr, True, STEM, "channel order"),
    "normalised twice": (normalised_twice, True, STEM, "normalisation"),
    "hard-sigmoid": (hard_sigmoid, True, HSWISH, "hard-swish form"),
    "flipped bit": (lambda graph: flip_bit(graph, DEPTHWISE, 6), False, DEPTHWISE, "flipped bit"),
    "flipped bit in a gate": (lambda graph: flip_bit(graph, GATE, 6), False, GATE, "flipped bit"),
}


def drifted_int8(net: Net, drift: str) -> Path:
    make, before, _, _ = INT8_DRIFTS[drift]
    if not before:
        return net.write(f"{drift} int8.onnx", make(net.int8))
    images = from_noise(PREPROCESS, calibration=4, check=1, seed=1).calibration
    quantized = ptq(make(net.graph), [images], QUICK)
    return net.write(f"{drift} int8.tflite", quantized.graph)


def assert_named(file: FileParity, layer: str, kind: str) -> None:
    assert not file.passed
    assert file.first_diverging is not None, "the gate saw no layer diverge"
    assert file.first_diverging.name == layer
    assert file.cause is not None, file.missed
    assert file.cause.kind == kind, file.cause
    # A bit that changes next to nothing of the output is found in the weights.
    silent = "low bit" in file.file or "in a gate" in file.file
    assert file.cause.explained_db >= file.cause.right_db + (0 if silent else 10)
    assert layer in file.missed[-1]
    assert kind in file.missed[-1]
