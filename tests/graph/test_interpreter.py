"""The numpy oracle against something slower and plainer: python loops over exact integers and fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemobile.graph import Graph, GraphError, Node, QParams, Tensor
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.graph.interpreter import run

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
seeds = st.integers(0, 2**32 - 1)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _qparams(rng: np.random.Generator, channels: int | None = None) -> QParams:
    if channels is None:
        return QParams(rng.uniform(0.004, 0.2, 1), rng.integers(-128, 128, 1))
    return QParams(rng.uniform(0.002, 0.05, channels), np.zeros(channels), axis=0)


def _integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "int8") -> np.ndarray:
    low, high = RANGES[dtype]
    return rng.integers(low, high + 1, shape).astype(dtype)


def _one_node(op: str, operands: list[Tensor], output: Tensor, **attrs) -> Graph:
    inputs = tuple(tensor.name for tensor in operands if not tensor.is_constant)
    node = Node(op, tuple(tensor.name for tensor in operands), output.name, attrs)
    return Graph("one", inputs, (output.name,), (node,), {t.name: t for t in (*operands, output)})


# ---- quantize and dequantize


@given(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e3, 1e3, width=32)),
    st.floats(1e-3, 10),
    st.sampled_from(list(RANGES)),
    st.data(),
)
def test_rounding_loses_at_most_half_a_step(real: np.ndarray, scale: float, dtype: str, data: st.DataObject) -> None:
    low, high = RANGES[dtype]
    qparams = QParams(scale, data.draw(st.integers(low, high)))  # type: ignore[arg-type]
    step, zero_point = float(qparams.scale[0]), int(qparams.zero_point[0])
    inside = np.clip(real, np.float32((low - zero_point) * step), np.float32((high - zero_point) * step))
    back = dequantize(quantize(inside, qparams, dtype), qparams)
    # Half a step, and float32's own rounding of the value.
    assert (np.abs(back.astype(np.float64) - inside) <= step / 2 + 4e-7 * np.abs(inside)).all()


@given(seeds, st.sampled_from(list(RANGES)))
def test_every_integer_survives_a_round_trip(seed: int, dtype: str) -> None:
    qparams = QParams(_rng(seed).uniform(1e-3, 10, 1), np.zeros(1) if dtype == "int16" else np.full(1, 17))
    every = np.arange(RANGES[dtype][0], RANGES[dtype][1] + 1).astype(dtype)
    np.testing.assert_array_equal(quantize(dequantize(every, qparams), qparams, dtype), every)


@pytest.mark.parametrize("dtype", RANGES)
def test_values_outside_saturate(dtype: str) -> None:
    extremes = np.array([-3e38, -1e9, 1e9, 3e38, -np.inf, np.inf], np.float32)
    low, high = RANGES[dtype]
    assert quantize(extremes, QParams(1e-3, 5), dtype).tolist() == [low, low, high, high, low, high]  # type: ignore[arg-type]


def test_halves_round_to_even() -> None:
    halves = np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert quantize(halves, QParams(1.0, 0), "int8").tolist() == [-2, 0, 0, 2, 2]  # type: ignore[arg-type]


def test_channels_have_their_own_scale() -> None:
    qparams = QParams(np.array([1.0, 0.5]), np.array([0, 10]), axis=1)
    q = quantize(np.full((3, 2), 4.0, np.float32), qparams, "int8")
    assert q.tolist() == [[4, 18]] * 3
    np.testing.assert_array_equal(dequantize(q, qparams), np.full((3, 2), 4.0))


@given(seeds)
def test_requantizing_goes_through_the_real_value(seed: int) -> None:
    rng = _rng(seed)
    x, qx, qy = _integers(rng, (1, 9)), _qparams(rng), _qparams(rng)
    graph = _one_node("quantize", [Tensor("x", (1, 9), "int8", qparams=qx)], Tensor("y", (1, 9), "int8", qparams=qy))
    expected = [_round_to(qx, int(v), qy) for v in x[0]]
    # float32 may fall on the other side of a half.
    assert np.abs(run(graph, x)["y"][0].astype(int) - expected).max() <= 1


def _round_to(qx: QParams, value: int, qy: QParams) -> int:
    real = Fraction(float(qx.scale[0])) * (value - int(qx.zero_point[0]))
    return _saturate(round(real / Fraction(float(qy.scale[0]))) + int(qy.zero_point[0]))


def _saturate(value: int, low: int = -128, high: int = 127) -> int:
    return min(max(value, low), high)


def test_float16_constants_dequantize_to_float32() -> None:
    half = Tensor.constant("h", np.array([[1.5, -2.0]], np.float16))
    tensors = {"x": Tensor("x", (1, 2)), "h": half, "f": Tensor("f", (1, 2)), "y": Tensor("y", (1, 2))}
    nodes = (Node("dequantize", ("h",), "f"), Node("add", ("x", "f"), "y", {"activation": ""}))
    out = run(Graph("g", ("x",), ("y",), nodes, tensors), np.ones((1, 2), np.float32))["y"]
    assert out.dtype == np.float32
    assert out.tolist() == [[2.5, -1.0]]


# ---- conv2d and linear on integers


def _slow_accumulators(x, zero_point, weight, bias, stride, padding, dilation, groups) -> dict[tuple[int, ...], int]:
    """acc[n,i,j,o] by definition, in python integers; padding holds the zero point, so it adds nothing."""
    n, height, width, _ = x.shape
    out_c, kernel_h, kernel_w, in_c = weight.shape
    (top, bottom), (left, right) = padding
    out_h = (height + top + bottom - (kernel_h - 1) * dilation[0] - 1) // stride[0] + 1
    out_w = (width + left + right - (kernel_w - 1) * dilation[1] - 1) // stride[1] + 1
    found = {}
    for b, i, j, o in itertools.product(range(n), range(out_h), range(out_w), range(out_c)):
        total = int(bias[o])
        first = o // (out_c // groups) * in_c
        for r, s, c in itertools.product(range(kernel_h), range(kernel_w), range(in_c)):
            row, column = i * stride[0] - top + r * dilation[0], j * stride[1] - left + s * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                total += (int(x[b, row, column, first + c]) - zero_point) * int(weight[o, r, s, c])
        found[b, i, j, o] = total
    return found


def _requantize(acc: int, qx: QParams, weight_scale: float, qy: QParams, activation: str) -> tuple[int, float]:
    """(the integer, how far the exact value is from it) without any float32."""
    real = Fraction(acc) * Fraction(float(qx.scale[0])) * Fraction(weight_scale)
    exact = real / Fraction(float(qy.scale[0])) + int(qy.zero_point[0])
    low = max(-128, int(qy.zero_point[0])) if activation else -128
    high = min(127, int(qy.zero_point[0]) + round(6 / float(qy.scale[0]))) if activation == "relu6" else 127
    return _saturate(round(exact), low, high), float(abs(exact - round(exact)))


@settings(max_examples=60)
@given(
    seed=seeds,
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.tuples(*[st.integers(0, 2)] * 2), st.tuples(*[st.integers(0, 2)] * 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.sampled_from([(1, 2, 3), (2, 1, 1), (2, 2, 1), (4, 1, 1), (3, 1, 2), (1, 3, 4)]),
    activation=st.sampled_from(["", "relu", "relu6"]),
)
def test_integer_conv2d_is_exact(seed, stride, padding, dilation, kernel, channels, activation) -> None:
    """groups, in and out channels a group; depthwise among them."""
    rng, (groups, in_c, out_c) = _rng(seed), channels
    shape = (2, int(rng.integers(5, 7)), int(rng.integers(5, 7)), groups * in_c)
    x, weight = _integers(rng, shape), _integers(rng, (groups * out_c, *kernel, in_c))
    bias = rng.integers(-2000, 2000, groups * out_c).astype(np.int32)
    qx, qw, qy = _qparams(rng), _qparams(rng, groups * out_c), _qparams(rng)
    slow = _slow_accumulators(x, int(qx.zero_point[0]), weight, bias, stride, padding, dilation, groups)
    out_shape = tuple(max(index[axis] for index in slow) + 1 for axis in range(4))
    graph = _one_node(
        "conv2d",
        [
            Tensor("x", shape, "int8", qparams=qx),
            Tensor.constant("w", weight, qw),
            Tensor.constant("b", bias),
        ],
        Tensor("y", out_shape, "int8", qparams=qy),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        activation=activation,
    )
    y = run(graph, x)["y"]
    assert y.shape == out_shape
    for index, acc in slow.items():
        expected, distance = _requantize(acc, qx, float(qw.scale[index[3]]), qy, activation)
        # Where the exact value all but sits on a half, float32 may take the other integer.
        assert abs(int(y[index]) - expected) <= (1 if distance > 0.4999 else 0)


@settings(max_examples=60)
@given(seeds, st.integers(1, 9), st.integers(1, 5), st.sampled_from(["", "relu", "relu6"]), st.booleans())
def test_integer_linear_is_exact(seed: int, fan_in: int, fan_out: int, activation: str, per_channel: bool) -> None:
    rng = _rng(seed)
    x, weight = _integers(rng, (3, fan_in)), _integers(rng, (fan_out, fan_in))
    bias = rng.integers(-2000, 2000, fan_out).astype(np.int32)
    qx, qy = _qparams(rng), _qparams(rng)
    qw = _qparams(rng, fan_out) if per_channel else QParams(rng.uniform(0.002, 0.05, 1), np.zeros(1))
    y = run(_linear(weight, bias, qx, qw, qy, activation), x)["y"]
    for row, o in itertools.product(range(3), range(fan_out)):
        zero_point = int(qx.zero_point[0])
        acc = int(bias[o]) + sum((int(a) - zero_point) * int(b) for a, b in zip(x[row], weight[o], strict=True))
        expected, distance = _requantize(acc, qx, float(qw.scale[o if per_channel else 0]), qy, activation)
        assert abs(int(y[row, o]) - expected) <= (1 if distance > 0.4999 else 0)


def _linear(weight, bias, qx, qw, qy, activation="") -> Graph:
    operands = [
        Tensor("x", (1, weight.shape[1]), "int8", qparams=qx),
        Tensor.constant("w", weight, qw),
        Tensor.constant("b", bias),
    ]
    output = Tensor("y", (1, len(weight)), "int8", qparams=qy)
    return _one_node("linear", operands, output, activation=activation)


@pytest.mark.parametrize(("activation", "expected"), [("", [-128, 127]), ("relu", [-20, 127]), ("relu6", [-20, 40])])
def test_fused_activations_clamp_integers(activation: str, expected: list[int]) -> None:
    """zero_point -20 and scale 0.1: 0 is -20, 6 is 40."""
    weight = np.array([[-127], [127]], np.int8)
    one = QParams(1.0, 0)  # type: ignore[arg-type]
    graph = _linear(weight, np.zeros(2, np.int32), one, one, QParams(0.1, -20), activation)  # type: ignore[arg-type]
    assert run(graph, np.full((1, 1), 100, np.int8))["y"].tolist() == [expected]


def test_integer_halves_round_to_even() -> None:
    """acc / 2 for acc = -3, -1, 1, 3, 5."""
    one = QParams(1.0, 0)  # type: ignore[arg-type]
    graph = _linear(np.ones((1, 1), np.int8), np.zeros(1, np.int32), one, one, QParams(2.0, 0))  # type: ignore[arg-type]
    assert run(graph, np.array([[-3], [-1], [1], [3], [5]], np.int8))["y"].ravel().tolist() == [-2, 0, 0, 2, 2]


def test_an_overflowing_accumulator_is_an_error() -> None:
    weight = np.full((1, 4), 127, np.int8)
    one = QParams(1.0, 0)  # type: ignore[arg-type]
    bias = np.full(1, 2**31 - 4 * 127 * 127, np.int32)
    x = np.full((1, 4), 127, np.int8)
    with pytest.raises(OverflowError, match="y: the int32 accumulator overflows"):
        run(_linear(weight, bias, one, one, one), x)
    assert run(_linear(weight, bias - 1, one, one, one), x)["y"].tolist() == [[127]]


# ---- the other integer ops: real arithmetic between dequantize and quantize


_REAL = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "hardswish": lambda x: x * min(max(x + 3, Fraction(0)), Fraction(6)) / 6,
    "hardsigmoid": lambda x: min(max(x + 3, Fraction(0)), Fraction(6)) / 6,
    "relu": lambda x: max(x, Fraction(0)),
    "relu6": lambda x: min(max(x, Fraction(0)), Fraction(6)),
}


@settings(max_examples=40)
@given(seed=seeds, op=st.sampled_from(list(_REAL)))
def test_integer_elementwise_ops_are_within_a_rounding(seed: int, op: str) -> None:
    rng = _rng(seed)
    count = 2 if op in ("add", "mul") else 1
    arrays = [_integers(rng, (1, 8)) for _ in range(count)]
    operands = [Tensor(f"x{i}", (1, 8), "int8", qparams=_qparams(rng)) for i in range(count)]
    output = Tensor("y", (1, 8), "int8", qparams=_qparams(rng))
    graph = _one_node(op, operands, output, **({"activation": ""} if count == 2 else {}))
    y = run(graph, {t.name: a for t, a in zip(operands, arrays, strict=True)})["y"]
    for column in range(8):
        reals = [_fraction(t.qparams, int(a[0, column])) for t, a in zip(operands, arrays, strict=True)]
        scale, zero_point = Fraction(float(output.qparams.scale[0])), int(output.qparams.zero_point[0])
        exact = _REAL[op](*reals) / scale + zero_point
        distance = abs(exact - round(exact))
        assert abs(int(y[0, column]) - _saturate(round(exact))) <= (1 if distance > Fraction(4999, 10000) else 0)


def _fraction(qparams: QParams, q: int) -> Fraction:
    return Fraction(float(qparams.scale[0])) * (q - int(qparams.zero_point[0]))


@given(seeds)
def test_integer_mean_is_the_mean_of_the_reals(seed: int) -> None:
    rng = _rng(seed)
    x, qx, qy = _integers(rng, (2, 3, 4, 5)), _qparams(rng), _qparams(rng)
    graph = _one_node("mean", [Tensor("x", x.shape, "int8", qparams=qx)], Tensor("y", (2, 1, 1, 5), "int8", qparams=qy))
    y = run(graph, x)["y"]
    for n, c in itertools.product(range(2), range(5)):
        exact = sum(_fraction(qx, int(v)) for v in x[n, :, :, c].ravel()) / 12 / Fraction(float(qy.scale[0]))
        expected = _saturate(round(exact) + int(qy.zero_point[0]))
        distance = abs(exact - round(exact))
        assert abs(int(y[n, 0, 0, c]) - expected) <= (1 if distance > Fraction(499, 1000) else 0)


def test_weights_may_have_a_zero_point() -> None:
    """Those of uint8 files have: acc = sum (x - zx) (w - zw)."""
    rng = _rng(0)
    qx, qw, qy = QParams(0.1, 7), QParams(0.05, 131), QParams(2.0, 90)  # type: ignore[arg-type]
    x, weight = _integers(rng, (3, 5), "uint8"), _integers(rng, (4, 5), "uint8")
    bias = np.zeros(4, np.int32)
    graph = _one_node(
        "linear",
        [
            Tensor("x", (1, 5), "uint8", qparams=qx),
            Tensor.constant("w", weight, qw),
            Tensor.constant("b", bias, QParams(0.005, 0)),  # type: ignore[arg-type]
        ],
        Tensor("y", (1, 4), "uint8", qparams=qy),
        activation="",
    )
    exact = (x.astype(int) - 7) @ (weight.astype(int) - 131).T * 0.005 / 2 + 90
    assert np.abs(run(graph, x)["y"] - np.clip(exact, 0, 255)).max() <= 0.51


def test_softmax_is_a_distribution_in_floats_and_in_integers() -> None:
    x = np.array([[0.0, 1.0, 1000.0], [2.0, 2.0, -5.0]], np.float32)
    graph = _one_node("softmax", [Tensor("x", (1, 3))], Tensor("y", (1, 3)))
    expected = torch.softmax(torch.from_numpy(x), 1).numpy()
    np.testing.assert_allclose(run(graph, x)["y"], expected, atol=1e-7)
    steps = QParams(0.25, 0), QParams(1 / 256, 0)  # type: ignore[arg-type]
    given, made = (Tensor(name, (1, 3), "uint8", qparams=each) for name, each in zip("xy", steps, strict=True))
    integers = np.array([[0, 4, 12]], np.uint8)
    shares = torch.softmax(torch.tensor([[0.0, 1.0, 3.0]]), 1).numpy() * 256
    np.testing.assert_array_equal(run(_one_node("softmax", [given], made), integers)["y"], np.rint(shares))


def test_rounding_is_to_the_range_of_each_image() -> None:
    x = np.array([[-1.0, 0.013, 4.1], [0.0, 0.0, 0.0], [100.0, 50.0, 2.0]], np.float32)
    y = run(_one_node("round", [Tensor("x", (1, 3))], Tensor("y", (1, 3))), x)["y"]
    steps = np.array([[5.1], [1.0], [100.0]]) / 255
    assert (np.abs(y - x) <= steps / 2 * 1.0001).all()
    np.testing.assert_allclose(y / steps, np.rint(y / steps), atol=1e-4)


def test_a_mean_may_leave_rows_and_a_linear_layer_may_read_an_image_of_one_pixel() -> None:
    x = _rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32)
    rows = _one_node("mean", [Tensor("x", (1, 3, 3, 4))], Tensor("y", (1, 4)))
    np.testing.assert_allclose(run(rows, x)["y"], x.mean((1, 2)), rtol=1e-6)
    constants = [Tensor.constant("w", np.eye(4, dtype=np.float32)), Tensor.constant("b", np.zeros(4, np.float32))]
    pixel = _one_node("linear", [Tensor("x", (1, 1, 1, 4)), *constants], Tensor("y", (1, 4)), activation="")
    np.testing.assert_array_equal(run(pixel, x[:, :1, :1])["y"], x[:, 0, 0])


@pytest.mark.parametrize("op", ["concat", "reshape", "max_pool2d"])
def test_ops_that_move_integers_need_one_scale(op: str) -> None:
    attrs = {
        "concat": {"axis": 3},
        "max_pool2d": {"kernel": (2, 2), "stride": (2, 2), "padding": ((1, 1), (1, 1))},
        "reshape": {},
    }[op]
    shape = {"concat": (1, 4, 4, 1), "max_pool2d": (1, 3, 3, 1), "reshape": (1, 16)}[op]
    x = Tensor("x", (1, 4, 4, 1), "int8", qparams=QParams(0.1, 3))  # type: ignore[arg-type]
    same = _one_node(op, [x], Tensor("y", shape, "int8", qparams=x.qparams), **attrs)
    lowest = np.full((1, 4, 4, 1), -128, np.int8)
    lowest[0, 1, 1] = -100
    # The padding of a max pool never wins.
    assert sorted(set(run(same, lowest)["y"].ravel().tolist())) == [-128, -100]
    other = _one_node(op, [x], Tensor("y", shape, "int8", qparams=QParams(0.2, 3)), **attrs)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=f"{op} y moves integers"):
        run(other, lowest)


def test_a_real_output_may_not_read_integers() -> None:
    x = Tensor("x", (1, 2), "int8", qparams=QParams(0.1, 0))  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="relu y is float but reads the integer tensor x"):
        run(_one_node("relu", [x], Tensor("y", (1, 2))), np.zeros((1, 2), np.int8))


# ---- float against torch


@settings(max_examples=40)
@given(
    seed=seeds,
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    kernel=st.sampled_from([1, 2, 3]),
    channels=st.sampled_from([(1, 3, 4), (6, 1, 1), (6, 1, 2), (2, 3, 2)]),
)
def test_float_conv2d_is_torchs(seed, stride, padding, dilation, kernel, channels) -> None:
    rng, (groups, in_c, out_c) = _rng(seed), channels
    x = rng.standard_normal((2, 9, 8, groups * in_c), np.float32)
    weight = rng.standard_normal((groups * out_c, kernel, kernel, in_c), np.float32)
    bias = rng.standard_normal(groups * out_c, np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(weight).permute(0, 3, 1, 2),
        torch.from_numpy(bias),
        stride,
        padding,
        dilation,
        groups,
    )
    expected = expected.permute(0, 2, 3, 1).numpy()
    graph = _one_node(
        "conv2d",
        [Tensor("x", x.shape), Tensor.constant("w", weight), Tensor.constant("b", bias)],
        Tensor("y", expected.shape),
        stride=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dilation=(dilation, dilation),
        groups=groups,
        activation="",
    )
    np.testing.assert_allclose(run(graph, x)["y"], expected, rtol=1e-4, atol=1e-4)


# ---- run


def _twice() -> Graph:
    tensors = {name: Tensor(name, (1, 2)) for name in ("x", "a", "y")}
    nodes = (Node("relu", ("x",), "a"), Node("add", ("a", "x"), "y", {"activation": ""}))
    return Graph("twice", ("x",), ("y",), nodes, tensors)


def test_run_takes_any_batch_and_keeps_what_is_asked() -> None:
    x = np.array([[-1, 2], [3, -4], [0, 0]], np.float32)
    assert set(run(_twice(), x)) == {"y"}
    every = run(_twice(), {"x": x}, keep_all=True)
    assert set(every) == {"x", "a", "y"}
    assert every["y"].tolist() == [[-1, 4], [6, -4], [0, 0]]
    assert run(_twice(), x[:0])["y"].shape == (0, 2)


@pytest.mark.parametrize("x", [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float64), np.zeros((1, 2), np.int8)])
def test_run_refuses_a_wrong_input(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"input x is float32\[1, 2\] \(batch free\), got"):
        run(_twice(), x)
