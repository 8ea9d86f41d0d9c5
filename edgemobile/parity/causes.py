"""Why a layer parts from its reference: each known mistake is made on the reference layer, and the one whose output is
the file's is the cause.

The reference layer runs on the inputs the file gave it. A hypothesis is an output that layer would have under one
mistake; it counts when it comes much nearer to what the file computed than the right layer does. Nothing is concluded
from names.

Add a cause here: a function that yields (words, output) and a row in CAUSES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.parity.layers import LayerParity, Observed, channel_db, rerun

__all__ = ["CAUSES", "Cause", "Normalisation", "likely_cause"]

# A hypothesis explains a difference when it takes away nine tenths of the noise and leaves little.
_GAIN_DB = 10.0
_LEAST_DB = 10.0
_UNIT_ROUNDOFF = 2.0**-24
# Putting a flipped bit back leaves this share of the difference at most: rounding, and what quantization moved.
_FLIP_LEAVES = 0.15

_Output = tuple[str, np.ndarray]


@dataclass(frozen=True)
class Cause:
    """`kind` is a name of CAUSES. The file is `explained_db` near to the layer with the mistake, `right_db` to the
    right one: SQNR of the worst channel."""

    kind: str
    words: str
    explained_db: float
    right_db: float


@dataclass(frozen=True)
class Normalisation:
    """The mean and standard deviation of R, G, B, on pixels from 0 to 1, that images are normalised by."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class _Case:
    """The layer that parted, what the file fed it (reference tensor -> f32) and made of it."""

    graph: Graph
    node: Node
    inputs: Mapping[str, np.ndarray]
    found: np.ndarray
    observed: Observed
    constants: tuple[Mapping[str, np.ndarray], ...]
    normalisation: Normalisation | None

    def outputs(
        self,
        words: str,
        *,
        node: Node | None = None,
        inputs: Mapping[str, np.ndarray] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> Iterator[_Output]:
        """What the layer gives with another node, inputs or constants, on the file's and on the reference's weights."""
        for own in self.constants:
            given = {**self.inputs, **(inputs or {})}
            yield words, rerun(self.graph, node or self.node, given, {**own, **(constants or {})})

    def changed(self, **attrs: object) -> Node:
        return Node(self.node.op, self.node.inputs, self.node.output, {**self.node.attrs, **attrs})

    def data(self, name: str) -> np.ndarray:
        """A constant of the reference."""
        data = self.graph[name].data
        assert data is not None
        return data

    @property
    def is_layer(self) -> bool:
        return self.node.op in ("conv2d", "linear") and self.graph[self.node.inputs[1]].is_constant

    @property
    def image(self) -> np.ndarray | None:
        """The model's own input, f32[N,H,W,3], where this layer reads it."""
        x = self.inputs.get(self.node.inputs[0])
        reads = self.node.inputs[0] in self.graph.inputs and x is not None and x.ndim == 4 and x.shape[-1] == 3
        return x if reads else None


def likely_cause(
    graph: Graph, layer: LayerParity, observed: Observed, normalisation: Normalisation | None = None
) -> Cause | None:
    """The known mistake that makes the reference layer give what the file gave; None where none does."""
    node = graph.producer(layer.name)
    if node is None or not layer.parted:
        return None
    sources = [name for name in dict.fromkeys(node.inputs) if not graph[name].is_constant]
    if any(observed.problem(name) for name in (*sources, node.output)):
        return None
    inputs = {name: observed.real(name) for name in sources}
    # Where the weights are what differs, the file's own would explain everything and say nothing.
    constants: tuple[Mapping[str, np.ndarray], ...] = ({},)
    if layer.parted == "arithmetic" and (own := observed.constants(graph, node)):
        constants = (own, {})
    case = _Case(graph, node, inputs, observed.real(layer.name), observed, constants, normalisation)
    right = layer.own_db if layer.parted == "arithmetic" else layer.constants_db
    right_db = -math.inf if right is None or math.isnan(right) else right
    if layer.unusual == math.inf:
        # All weights but one are the reference's: there is nothing else to suspect, however little it changes.
        return next(iter(_scored(case, "flipped bit", _flipped_bit, right_db)), None) or _best(case, right_db)
    return _best(case, right_db)


def _best(case: _Case, right_db: float) -> Cause | None:
    for rows in (CAUSES, _GENERAL):
        found = [cause for kind, make in rows.items() for cause in _scored(case, kind, make, right_db)]
        explaining = [cause for cause in found if cause.explained_db >= max(right_db + _GAIN_DB, _LEAST_DB)]
        if explaining:
            return max(explaining, key=lambda cause: cause.explained_db)
    return _rounding(case, right_db)


def _scored(case: _Case, kind: str, make: Callable[[_Case], Iterator[_Output]], right_db: float) -> Iterator[Cause]:
    with np.errstate(over="ignore", invalid="ignore"):
        for words, output in make(case):
            if output.shape == case.found.shape:
                seen = case.observed.representable(case.node.output, output)
                yield Cause(kind, words, channel_db(seen, case.found), right_db)


def _rounding(case: _Case, right_db: float) -> Cause | None:
    """Float sums in another order: every difference is within the bound K u sum |x w| of its sum of K products."""
    if not case.is_layer or case.observed.steps(case.node.output) is not None:
        return None
    weight, bias = (case.data(name) for name in case.node.inputs[1:])
    size = {case.node.inputs[1]: np.abs(weight), case.node.inputs[2]: np.abs(bias)}
    linear = case.changed(activation="")
    terms = rerun(case.graph, linear, {name: np.abs(x) for name, x in case.inputs.items()}, size)
    products = weight[0].size + 1
    right = rerun(case.graph, case.node, case.inputs, case.constants[0])
    if right.shape != case.found.shape or not (np.abs(right - case.found) <= products * _UNIT_ROUNDOFF * terms).all():
        return None
    return Cause(
        "accumulation order", f"{products} terms summed in another order: within float32's bound", right_db, right_db
    )


# ---- one mistake a function -----------------------------------------------------------------------------------------


def _padding(case: _Case) -> Iterator[_Output]:
    if "padding" not in case.node.attrs:
        return
    (top, bottom), (left, right) = case.node.attrs["padding"]
    height, width = top + bottom, left + right
    others = {
        "SAME padding, the odd pixel at the end": _same(case),
        "the padding's ends exchanged": ((bottom, top), (right, left)),
        "all padding at the end": ((0, height), (0, width)),
        "all padding at the start": ((height, 0), (width, 0)),
        "no padding": ((0, 0), (0, 0)),
    }
    for words, pads in others.items():
        if pads != case.node.attrs["padding"]:
            usual = f"({top}, {bottom}) rows and ({left}, {right}) columns"
            yield from case.outputs(f"{words}: {pads} instead of {usual}", node=case.changed(padding=pads))


def _same(case: _Case) -> tuple[tuple[int, int], tuple[int, int]]:
    size = case.inputs[case.node.inputs[0]].shape[1:3]
    weighted = case.node.op == "conv2d"
    kernel = case.graph[case.node.inputs[1]].shape[1:3] if weighted else case.node.attrs["kernel"]
    dilation = case.node.attrs["dilation"] if weighted else (1, 1)
    ends = []
    for pixels, taps, stride, gap in zip(size, kernel, case.node.attrs["stride"], dilation, strict=True):
        total = max(0, (-(-pixels // stride) - 1) * stride + (taps - 1) * gap + 1 - pixels)
        ends.append((total // 2, total - total // 2))
    return ends[0], ends[1]


def _layout(case: _Case) -> Iterator[_Output]:
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


def _weight_layouts(case: _Case) -> Iterator[_Output]:
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


def _flattened_image(case: _Case) -> tuple[int, int, int] | None:
    """(height, width, channels) of the image that was flattened into the layer's input."""
    producer = case.graph.producer(case.node.inputs[0])
    if case.node.op != "linear" or producer is None or producer.op != "reshape":
        return None
    shape = case.graph[producer.inputs[0]].shape
    return (shape[1], shape[2], shape[3]) if len(shape) == 4 and shape[1] * shape[2] > 1 else None


def _channel_order(case: _Case) -> Iterator[_Output]:
    if case.image is not None:
        swapped = {case.node.inputs[0]: np.ascontiguousarray(case.image[..., ::-1])}
        yield from case.outputs("the image's channels are read as B, G, R", inputs=swapped)


def _normalised(case: _Case) -> Iterator[_Output]:
    """Other normalisations of the image. Folded into the weights they also change the rim of the padding."""
    image = case.image
    if image is None or case.normalisation is None:
        return
    mean, std = (np.array(values, np.float32) for values in (case.normalisation.mean, case.normalisation.std))
    forms: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mean and deviation are applied a second time": lambda x: (x - mean) / std,
        "mean and deviation are taken back: pixels from 0 to 1": lambda x: x * std + mean,
        "the image is read as pixels from -1 to 1": lambda x: 2 * (x * std + mean) - 1,
        "the image is read as pixels from 0 to 255": lambda x: 255 * (x * std + mean),
        "the deviation is applied a second time": lambda x: x / std,
        "the mean is taken off a second time": lambda x: x - mean / std,
    }
    name = case.node.inputs[0]
    for words, form in forms.items():
        for channels, order in (("", slice(None)), (", and the channels are read as B, G, R", slice(None, None, -1))):
            seen = form(image)[..., order].astype(np.float32)
            yield from case.outputs(words + channels, inputs={name: seen})
            if "padding" in case.node.attrs:
                padded = np.pad(image, ((0, 0), *case.node.attrs["padding"], (0, 0)))
                node = case.changed(padding=((0, 0), (0, 0)))
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


def _hswish_form(case: _Case) -> Iterator[_Output]:
    if case.node.op in ("hardswish", "hardsigmoid"):
        yield from _activated(case, case.inputs[case.node.inputs[0]], case.node.op)


def _activation(case: _Case) -> Iterator[_Output]:
    if case.node.op in ("relu", "relu6"):
        yield from _activated(case, case.inputs[case.node.inputs[0]], case.node.op)
    elif "activation" in case.node.attrs:
        for _, linear in case.outputs("", node=case.changed(activation="")):
            yield from _activated(case, linear, case.node.attrs["activation"])


def _activated(case: _Case, x: np.ndarray, usual: str) -> Iterator[_Output]:
    right = _USUAL.get(usual, usual)
    for words, function in _ACTIVATIONS.items():
        if words != right:
            yield f"{words} instead of {right}", function(x).astype(np.float32)


def _bias_overflow(case: _Case) -> Iterator[_Output]:
    """The bias the file should hold, b / (s_in s_w), as int32 wraps or saturates it."""
    stored = case.observed.constant_name(case.node.inputs[2]) if case.is_layer else None
    tensor = None if stored is None else case.observed.tensors[stored]
    if tensor is None or tensor.qparams is None or tensor.dtype != "int32":
        return
    bias = case.data(case.node.inputs[2]).astype(np.float64)
    unit = tensor.qparams.scale.astype(np.float64) / case.observed.multiple(case.node.output)
    wanted = np.rint(bias / unit)
    over = np.flatnonzero((wanted >= 2**31) | (wanted < -(2**31)))
    if not over.size:
        return
    forms = {"wraps": np.mod(wanted + 2**31, 2**32) - 2**31, "saturates": np.clip(wanted, -(2**31), 2**31 - 1)}
    own = case.observed.constants(case.graph, case.node).get(case.node.inputs[1], case.data(case.node.inputs[1]))
    for how, values in forms.items():
        words = f"the bias of channel {over[0]} would be {wanted[over[0]]:.4g} in steps of its scale, and int32 {how}"
        changed = {case.node.inputs[2]: (values * unit).astype(np.float32)}
        yield from case.outputs(words, constants=changed)
        yield from case.outputs(words, constants={**changed, case.node.inputs[1]: own})


def _bias(case: _Case) -> Iterator[_Output]:
    if case.is_layer:
        name = case.node.inputs[2]
        yield from case.outputs("there is no bias", constants={name: np.zeros_like(case.data(name))})
        own = case.observed.constants(case.graph, case.node)
        if name in own:
            yield from case.outputs("the file's bias is another", constants={name: own[name]})


def _flipped_bit(case: _Case) -> Iterator[_Output]:
    """One stored number of a weight or bias that a single bit takes away from where it should be."""
    for name in case.node.inputs[1:] if case.is_layer else ():
        own = case.observed.constants(case.graph, case.node).get(name)
        stored = case.observed.constant_name(name)
        if own is None or stored is None:
            continue
        right = case.data(name)
        index = np.unravel_index(np.argmax(_distance(own, right)), right.shape)
        unit = _unit(case.observed.tensors[stored], own, index)
        bit = unit and _bit(case.observed.tensors[stored], index, float(right[index]) / unit, float(own[index]) / unit)
        if bit is not None:
            place = f"{stored}{list(map(int, index))}"
            words = f"bit {bit} of {place} is flipped: {own[index]:.9g} instead of {right[index]:.9g}"
            one = right.copy()
            one[index] = own[index]
            yield from case.outputs(words, constants={name: one})


def _distance(own: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.abs(own.astype(np.float64) - right), nan=np.inf)


def _unit(stored: Tensor, own: np.ndarray, index: tuple[np.integer, ...]) -> float | None:
    """What 1 of the stored numbers is in the reference's units, for the channels of this one; None where all are 0."""
    assert stored.data is not None
    if stored.qparams is None:
        return 1.0
    alike = (index[0],) if own.ndim == 1 else (index[0], ..., index[-1])
    held, real = np.atleast_1d(stored.data[alike]).ravel(), np.atleast_1d(own[alike]).ravel()
    largest = int(np.argmax(np.abs(held.astype(np.int64))))
    return float(real[largest]) / float(held[largest]) if held[largest] else None


def _bit(stored: Tensor, index: tuple[np.integer, ...], right: float, own: float) -> int | None:
    """The bit whose flip brings a stored number back to about `right`; None where no one bit does."""
    assert stored.data is not None
    held = np.array([stored.data[index]])
    octets = held.view(f"u{held.dtype.itemsize}")
    masks = np.array([1 << bit for bit in range(8 * held.dtype.itemsize)], octets.dtype)
    flipped = (octets ^ masks).view(held.dtype).astype(np.float64)
    apart = np.nan_to_num(np.abs(flipped - right), nan=np.inf)
    bit = int(np.argmin(apart))
    return bit if apart[bit] <= _FLIP_LEAVES * abs(own - right) or not math.isfinite(own) else None


def _weights(case: _Case) -> Iterator[_Output]:
    if case.is_layer:
        own = case.observed.constants(case.graph, case.node)
        right = case.data(case.node.inputs[1])
        values = own.get(case.node.inputs[1])
        if values is not None:
            differing = int(np.count_nonzero(values != right))
            words = f"the file's weight is another: {differing} of {right.size} numbers differ"
            yield from case.outputs(words, constants={case.node.inputs[1]: values})


def _pair_saturation(case: _Case) -> Iterator[_Output]:
    """x86 without VNNI multiplies uint8 by int8 with vpmaddubsw, which adds products in pairs and saturates each sum to
    int16: acc = sum over pairs of clip(x0 w0 + x1 w1, -2^15, 2^15 - 1), pairs in the order height, width, channel."""
    held = _int8_layer(case)
    if held is None:
        return
    x, weight, bias = held
    taps = _taps(case, x, weight)
    if taps is None:
        return
    zero_point = int(x.zero_point) + 128
    weights = weight.integers.reshape(len(weight.integers), -1).astype(np.int32)
    odd = weights.shape[1] % 2
    taps, weights = np.pad(taps, ((0, 0), (0, odd))), np.pad(weights, ((0, 0), (0, odd)))
    columns = []
    for row, offset in zip(weights, bias.integers, strict=True):
        pairs = (taps * row).reshape(len(taps), -1, 2).sum(axis=2)
        columns.append(np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1) - zero_point * int(row.sum()) + int(offset))
    real = np.stack(columns, axis=1).reshape(case.found.shape) * bias.scale
    low, high = {"": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}[case.node.attrs["activation"]]
    output = np.clip(real, low, high) / case.observed.multiple(case.node.output)
    yield "pairs of products saturate at int16 (uint8 x int8 without VNNI): store the weights as uint8", output


@dataclass(frozen=True)
class _Integers:
    """A quantized tensor: its integers, their scale f32[1 or C] and zero point."""

    integers: np.ndarray
    scale: np.ndarray
    zero_point: int


def _int8_layer(case: _Case) -> tuple[_Integers, _Integers, _Integers] | None:
    """(input, weight, bias) of an int8 layer with symmetric weights and one group; None for others."""
    if not case.is_layer or case.node.attrs.get("groups", 1) != 1:
        return None
    name = case.observed.name_of(case.node.inputs[0])
    held = []
    for stored in (name, *map(case.observed.constant_name, case.node.inputs[1:])):
        tensor = None if stored is None else case.observed.tensors.get(stored)
        data = case.observed.values.get(name or "") if stored == name else None if tensor is None else tensor.data
        if tensor is None or tensor.qparams is None or data is None or data.dtype.kind != "i":
            return None
        held.append(_Integers(data, tensor.qparams.scale, int(tensor.qparams.zero_point[0])))
    return None if held[1].zero_point else (held[0], held[1], held[2])


def _taps(case: _Case, x: _Integers, weight: _Integers) -> np.ndarray | None:
    """What each output pixel multiplies, as uint8 has it, i32[pixels, KH*KW*I]."""
    seen = x.integers.astype(np.int32) + 128
    if case.node.op == "linear":
        return seen
    if case.node.attrs["dilation"] != (1, 1):
        return None
    padding, (rows, columns) = case.node.attrs["padding"], case.node.attrs["stride"]
    padded = np.pad(seen, ((0, 0), *padding, (0, 0)), constant_values=x.zero_point + 128)
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.integers.shape[1:3], axis=(1, 2))
    ordered = windows[:, ::rows, ::columns].transpose(0, 1, 2, 4, 5, 3)
    return ordered.reshape(-1, weight.integers[0].size)


CAUSES: Mapping[str, Callable[[_Case], Iterator[_Output]]] = {
    "padding": _padding,
    "layout": _layout,
    "channel order": _channel_order,
    "normalisation": _normalised,
    "hard-swish form": _hswish_form,
    "activation": _activation,
    "bias overflow": _bias_overflow,
    "flipped bit": _flipped_bit,
    "int16 saturation": _pair_saturation,
}

# What is true of many mistakes: told only where nothing more particular explains the layer.
_GENERAL: Mapping[str, Callable[[_Case], Iterator[_Output]]] = {"bias": _bias, "weights": _weights}
