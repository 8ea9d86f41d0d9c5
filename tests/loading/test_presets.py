"""What an input gets when its file does not say what it wants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemobile.devices.runtimes.sessions import Port
from edgemobile.errors import EdgemobileError
from edgemobile.graph.affine import quantize
from edgemobile.loading.presets import chosen_preprocess, default_preprocess, described
from edgemobile.preprocess import CIFAR10

FLOAT_NCHW = Port("x", (1, 3, 224, 224), "float32", "NCHW")
ALL_PIXELS = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)


@settings(max_examples=60)
@given(st.floats(1e-4, 10), st.integers(0, 255), st.sampled_from(["uint8", "int8"]))
def test_raw_gives_every_pixel_back_as_it_is(scale: float, zero_point: int, dtype: str) -> None:
    offset = 128 if dtype == "int8" else 0
    port = Port("x", (1, 16, 16, 3), dtype, "NHWC", scale, zero_point - offset)
    preprocess, _ = default_preprocess(port, 16)
    assert port.qparams is not None
    integers = quantize(preprocess(ALL_PIXELS), port.qparams, dtype)
    assert (integers.astype(int) + offset == ALL_PIXELS).all()


@pytest.mark.parametrize(
    ("dtype", "layout", "black", "white"),
    [
        ("float32", "NCHW", -0.485 / 0.229, (1 - 0.485) / 0.229),
        ("float32", "NHWC", -1, 1),
        ("uint8", "NHWC", 0, 255),
        ("int8", "NHWC", -128, 127),
    ],
)
def test_the_default_follows_the_input(dtype: str, layout: str, black: float, white: float) -> None:
    shape = (1, 3, 128, 128) if layout == "NCHW" else (1, 128, 128, 3)
    preprocess, words = default_preprocess(Port("x", shape, dtype, layout), 128)
    for level, wanted in ((0, black), (255, white)):
        assert preprocess(np.full((200, 150, 3), level, np.uint8))[..., 0] == pytest.approx(wanted, abs=1e-4)
    assert "the file does not state it" in words
    assert (preprocess.resize, preprocess.shorter_px) == ("shorter", 146)


@pytest.mark.parametrize(
    ("dtype", "stated", "black", "white"),
    [
        ("float32", ((127.5,) * 3, (127.5,) * 3), -1, 1),
        ("float32", ((0.0,) * 3, (1.0,) * 3), 0, 255),
        ("uint8", ((127.5,) * 3, (127.5,) * 3), -1, 1),
        # Not normalised: the pixels themselves.
        ("uint8", ((0.0,) * 3, (1.0,) * 3), 0, 255),
        ("int8", ((0.0,) * 3, (1.0,) * 3), -128, 127),
    ],
)
def test_what_tflite_metadata_states_is_taken(dtype: str, stated: Any, black: float, white: float) -> None:
    preprocess, _ = default_preprocess(Port("x", (1, 128, 128, 3), dtype, "NHWC"), 128, stated)
    for level, wanted in ((0, black), (255, white)):
        assert preprocess(np.full((200, 150, 3), level, np.uint8)) == pytest.approx(wanted, abs=1e-4)


def test_small_inputs_are_not_cropped() -> None:
    assert default_preprocess(FLOAT_NCHW, 64)[0].resize == "exact"
    assert default_preprocess(FLOAT_NCHW, 96)[0].shorter_px == 110


def test_json_may_leave_out_what_the_model_knows(tmp_path: Path) -> None:
    short, source = chosen_preprocess('{"mean": [0, 0, 0], "std": [1, 1, 1]}', FLOAT_NCHW, 48, 224)
    assert (short.input_px, short.mean, source) == (48, (0.0, 0.0, 0.0), "--preprocess JSON")
    sidecar = tmp_path / "weights.json"
    sidecar.write_text(json.dumps({"labels": ["a"], "preprocess": CIFAR10.to_json()}))
    assert chosen_preprocess(str(sidecar), FLOAT_NCHW, 96, 224)[0] == CIFAR10
    # Its own resolution gives way to the model's.
    assert chosen_preprocess(str(sidecar), FLOAT_NCHW, 32, 224)[0].input_px == 32
    # Unless the model takes any.
    assert chosen_preprocess(str(sidecar), FLOAT_NCHW, None, 224)[0].input_px == 96
    assert chosen_preprocess("imagenet", FLOAT_NCHW, None, 160)[0].shorter_px == 183


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagnet", "imagenet, inception, unit, raw"),
        ('{"mean": ', "is not JSON"),
        ('{"a":' * 100_000, "is not JSON"),
        ('{"mean": [NaN, 0, 0]}', "is not JSON: NaN is not a number"),
        ('{"std": [1, 1, 1], "std": [2, 2, 2]}', "is not JSON: a key occurs twice"),
        ('{"means": [0, 0, 0]}', "means"),
        ('{"std": [0, 1, 1]}', "std must be above 0"),
        ('{"preprocess": [1]}', "must be a JSON object, found list"),
    ],
)
def test_a_wrong_wish_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        chosen_preprocess(text, FLOAT_NCHW, 224, 224)


def test_described_names_what_matters() -> None:
    assert described(CIFAR10).startswith("resized to 96 px (bilinear), mean 0.485, 0.456, 0.406")
    assert "the centre 224" in described(default_preprocess(FLOAT_NCHW, 224)[0])
