"""A TFLite file of a reference model as a checkpoint: its dequantized weights, under the keys of our net.

Batch norm is already folded in such a file, so the batch norm of our net only adds the bias:

    y = w x + b,   gamma = 1, beta = b, running_mean = 0, running_var = 1 - eps
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import tflite_contents
from edgemobile.model_file.contents import Contents, Op
from edgemobile.model_file.metadata import REMOVED_CHANNELS, preprocess_in
from edgemobile.models.arch import Arch, scaled
from edgemobile.models.layers import Layer, layers
from edgemobile.preprocess import IMAGENET, Preprocess, at_resolution
from edgemobile.util.hashing import sha256_hex

if TYPE_CHECKING:
    import torch

__all__ = ["TfliteWeights", "read_tflite_weights"]

# The axis of a weight's output channels, to convert it to PyTorch's [O,I,KH,KW] or [O,I].
_TO_TORCH = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2), "FULLY_CONNECTED": (0, 1)}


@dataclass(frozen=True)
class TfliteWeights:
    """The contents of the file. `padding` is how its convolutions pad."""

    state: dict[str, torch.Tensor]
    sha256: str
    padding: Literal["both", "same"]
    preprocess: Preprocess


def read_tflite_weights(path: Path, arch: Arch) -> TfliteWeights:
    """The weights of the file's convolutions, in order, as those of `arch`; the width may differ.

    Raises Unsupported if the file does not have the layers of `arch`: another model, or one whose layers were
    split or rewritten, as in edgemobile's int8 files of hard-swish models.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EdgemobileError(f"cannot read weights {path}: {error.strerror or error}") from error
    contents = tflite_contents.read_contents(data)
    if removed := contents.metadata.get(REMOVED_CHANNELS):
        raise Unsupported(
            f"{path.name} is an export without the {removed} dead channels of {arch.name}, so its weights do not fit. "
            "Give the PyTorch checkpoint, or export it again with --keep-dead"
        )
    held = [op for op in contents.ops if op.kind in _TO_TORCH]
    wanted = [layer for layer in layers(scaled(arch)) if layer.op != "mean"]
    if [_role(op) for op in held] != [_role(layer) for layer in wanted]:
        raise Unsupported(
            f"{path.name} does not contain {arch.name} layer by layer: it has {len(held)} layers with weights, "
            f"{arch.name} has {len(wanted)}. Give the model it was made from, or its PyTorch checkpoint"
        )
    state: dict[str, torch.Tensor] = {}
    for op, layer in zip(held, wanted, strict=True):
        state |= _tensors(contents, op, layer, arch.bn_eps)
    return TfliteWeights(
        state,
        sha256_hex(data),
        "both" if any(op.kind in ("PAD", "PADV2") for op in contents.ops) else "same",
        _preprocess(contents),
    )


def _role(layer: Op | Layer) -> bool:
    """Whether a layer is depthwise; a classifier may be a convolution or a matrix product."""
    return layer.kind == "DEPTHWISE_CONV_2D" if isinstance(layer, Op) else layer.op == "depthwise"


def _tensors(contents: Contents, op: Op, layer: Layer, eps: float) -> dict[str, torch.Tensor]:
    import torch

    weight = _reals(contents, op.inputs[1], op.weight_axis).transpose(_TO_TORCH[op.kind])
    if layer.op == "linear":
        weight = weight.reshape(len(weight), -1)
    bias = _reals(contents, op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] else np.zeros(len(weight), np.float32)
    tensors = {f"{layer.name}.weight": weight}
    if layer.norm:
        one = np.ones_like(bias)
        tensors |= {f"{layer.norm}.weight": one, f"{layer.norm}.bias": bias}
        tensors |= {f"{layer.norm}.running_mean": 0 * one, f"{layer.norm}.running_var": one * (1 - eps)}
    else:
        tensors[f"{layer.name}.bias"] = bias
    return {key: torch.from_numpy(np.array(value, np.float32)) for key, value in tensors.items()}


def _reals(contents: Contents, name: str, axis: int = 0) -> np.ndarray:
    """A constant as f32, dequantized along `axis` if it is integers; float16 weights are the input of a DEQUANTIZE."""
    behind = contents.producers.get(name)
    value = contents.values[behind.inputs[0] if behind and behind.kind == "DEQUANTIZE" else name]
    if value.data is None:
        raise Unsupported(f"the weight {name} is not a readable constant ({value.dtype})")
    if value.scale is None:
        return value.data.astype(np.float32)
    shape = [1] * value.data.ndim
    shape[axis] = -1
    zero = np.zeros(1) if value.zero_point is None else value.zero_point
    centred = value.data.astype(np.float64) - zero.reshape(shape)
    return (centred * value.scale.astype(np.float64).reshape(shape)).astype(np.float32)


def _preprocess(contents: Contents) -> Preprocess:
    """The preprocessing from the file's metadata, or from its input: real = scale * (px - zero_point).

    A float input does not state it; TensorFlow's models take pixels from -1 to 1.
    """
    if stated := preprocess_in(contents.metadata):
        return stated
    port = contents.values[contents.inputs[0]]
    mean, std = 0.5, 0.5
    if port.scale is not None and port.zero_point is not None:
        offset = 128 if port.dtype == "int8" else 0
        mean, std = (float(port.zero_point[0]) + offset) / 255, 1 / (255 * float(port.scale[0]))
    return at_resolution(replace(IMAGENET, mean=(mean,) * 3, std=(std,) * 3), int(port.shape[1]))
