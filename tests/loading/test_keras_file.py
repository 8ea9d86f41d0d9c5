"""A file of Keras as a source, written by Keras itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")
if find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed", allow_module_level=True)

from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.errors import EdgemobileError
from edgemobile.graph.interpreter import run_real
from edgemobile.loading.file_model import load_file
from edgemobile.metrics.measures import measure
from edgemobile.pipeline.export import export
from edgemobile.pipeline.request import ExportRequest
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe

PX, CLASSES = 32, 5

# MobileNetV3's ingredients as keras.applications has them, and its own first layers. The biases of both squeezes stay
# zero, so the converter stores one constant for them.
_WRITE = """
import os, sys
import h5py, keras, numpy as np
from keras import layers
folder = sys.argv[1]
keras.utils.set_random_seed(0)

def hard_sigmoid(x):
    return layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)

def block(x, kernel, stride):
    shortcut = x
    x = layers.Conv2D(24, 1, use_bias=False)(x)
    x = layers.Activation("hard_swish")(layers.BatchNormalization(momentum=0.5)(x))
    x = layers.DepthwiseConv2D(kernel, strides=stride, padding="same", use_bias=False)(x)
    x = layers.Activation("hard_swish")(layers.BatchNormalization(momentum=0.5)(x))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = layers.Conv2D(24, 1)(layers.Conv2D(8, 1, activation="relu")(squeezed))
    x = layers.Multiply()([x, hard_sigmoid(squeezed)])
    x = layers.BatchNormalization(momentum=0.5)(layers.Conv2D(8, 1, use_bias=False)(x))
    return x if stride > 1 else layers.Add()([shortcut, x])

def net(px):
    image = keras.Input((px, px, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = block(block(layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.5)(x)), 3, 2), 5, 1)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Flatten()(layers.Conv2D(int(sys.argv[2]), 1)(x))
    return keras.Model(image, layers.Softmax()(x))

def older(px):
    image = keras.Input((px, px, 3))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, activation="relu")(x))
    return keras.Model(image, layers.Dense(int(sys.argv[2]))(x))

model, images = net(32), np.random.default_rng(0).uniform(0, 255, (16, 32, 32, 3)).astype(np.float32)
for _ in range(20):
    model(images, training=True)
model.save(os.path.join(folder, "theirs.keras"))
np.save(os.path.join(folder, "shares.npy"), model(images, training=False).numpy())
older_net = older(32)
older_net.save(os.path.join(folder, "older.h5"))
np.save(os.path.join(folder, "logits.npy"), older_net(images, training=False).numpy())
with h5py.File(os.path.join(folder, "older.h5"), "r+") as file:
    # Keras 2 wrote this argument.
    config = file.attrs["model_config"].replace('"depth_multiplier"', '"groups": 1, "depth_multiplier"')
    assert config.count("groups") > file.attrs["model_config"].count("groups")
    file.attrs["model_config"] = config
net(None).save(os.path.join(folder, "any_size.keras"))
image = keras.Input((32, 32, 3))
keras.Model(image, layers.Lambda(lambda x: x + 1)(image)).save(os.path.join(folder, "code.keras"))
"""


@dataclass(frozen=True)
class Theirs:
    """Files of Keras, and what it computes for `images`, raw pixels f32[16,32,32,3]."""

    folder: Path
    images: np.ndarray
    shares: np.ndarray


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    folder = tmp_path_factory.mktemp("keras")
    subprocess.run(
        [sys.executable, "-c", _WRITE, str(folder), str(CLASSES)],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    images = np.random.default_rng(0).uniform(0, 255, (16, PX, PX, 3)).astype(np.float32)
    return Theirs(folder, images, np.load(folder / "shares.npy"))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_the_graph_computes_what_keras_does_and_int8_follows(theirs: Theirs) -> None:
    model = load_file(str(theirs.folder / "theirs.keras"), preprocess="raw")
    graph = model.graph()
    # The scaling of the pixels is part of the preprocessing: nothing stands before the first layer.
    assert (model.preprocess.mean, model.preprocess.std) == ((0.5,) * 3, (0.5,) * 3)
    assert graph.nodes[0].op == "conv2d"
    assert {op: count for op, count in graph.op_counts().items() if "hard" in op} == {"hardswish": 4, "hardsigmoid": 2}
    images = theirs.images / 127.5 - 1
    np.testing.assert_allclose(_softmax(run_real(graph, images)), theirs.shares, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(_softmax(model.rows(images)), theirs.shares, rtol=1e-3, atol=1e-5)
    int8 = ptq(graph, [images], Recipe()).graph
    assert measure(run_real(graph, images), run_real(int8, images))["sqnr_db"] > 20


def test_its_exports_agree_with_it(theirs: Theirs, tmp_path: Path) -> None:
    """parity gives each file its own preprocessing: the metadata of the export has that of the Keras file."""
    source = str(theirs.folder / "theirs.keras")
    request = ExportRequest(
        source, preprocess="raw", formats=("tflite",), precisions=("float32",), out=tmp_path / "out"
    )
    exported = export(request)
    (row,) = parity(ParityRequest(source, (str(exported.out / "theirs-float32.tflite"),))).files
    assert row.passed
    assert row.metrics["sqnr_db"] > 80


def test_an_h5_file_of_keras_2_is_read(theirs: Theirs) -> None:
    model = load_file(str(theirs.folder / "older.h5"), preprocess="raw")
    logits = np.load(theirs.folder / "logits.npy")
    np.testing.assert_allclose(run_real(model.graph(), theirs.images), logits, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("any_size.keras", {}, r"any_size.keras: it takes images of any size\. Choose one: --res PX"),
        ("code.keras", {}, r"code.keras: Keras .* cannot load it: .*Lambda"),
        ("damaged.keras", {}, r"damaged.keras: Keras .* cannot load it"),
        ("absent.keras", {}, r"cannot read model .*absent.keras: it does not exist"),
    ],
)
def test_what_is_refused(theirs: Theirs, name: str, options: dict[str, int], message: str) -> None:
    (theirs.folder / "damaged.keras").write_bytes((theirs.folder / "theirs.keras").read_bytes()[:3000])
    with pytest.raises(EdgemobileError, match=message):
        load_file(str(theirs.folder / name), preprocess="raw", **options)
