"""The mean intersection over union of a net whose right answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import edgemobile
from edgemobile.cli import cli
from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.model_file.metadata import PREPROCESS
from edgemobile.preprocess import Preprocess

pytest.importorskip("onnxruntime")

PX = 16
PLAIN = Preprocess(PX, mean=(0, 0, 0), std=(1, 1, 1), antialias=False, interpolation="nearest")


def colour_segmenter(format_name: str, preprocess: Preprocess = PLAIN, name: str = "out", pool: int = 1) -> bytes:
    """A file that says of each pixel, or each block of pixels, whether it is black (0), red (1) or green (2)."""
    constants = {
        "w": np.array([[-1, -1, -1], [8, -8, -8], [-8, 8, -8]], np.float32).reshape(3, 1, 1, 3),
        "b": np.array([1, 0, 0], np.float32),
    }
    side = preprocess.input_px // pool
    tensors = {
        "image": Tensor("image", (1, preprocess.input_px, preprocess.input_px, 3)),
        "pooled": Tensor("pooled", (1, side, side, 3)),
        name: Tensor(name, (1, side, side, 3)),
        **{key: Tensor.constant(key, data) for key, data in constants.items()},
    }
    point = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    nodes = (
        Node("avg_pool2d", ("image",), "pooled", {"kernel": (pool, pool), "stride": (pool, pool)}),
        Node("conv2d", ("pooled", "w", "b"), name, point),
    )
    graph = Graph("pixels", ("image",), (name,), nodes, tensors)
    return FORMATS[format_name].load().to_bytes(graph, metadata={PREPROCESS: json.dumps(preprocess.to_json())})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A picture of 32 x 16: its left half is red, but the mask calls the lowest quarter of that green."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    image, mask = np.zeros((16, 32, 3), np.uint8), np.zeros((16, 32), np.uint8)
    image[:, :16, 0], mask[:, :16], mask[12:, :16] = 255, 1, 2
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    return tmp_path


@pytest.fixture
def measure(data: Path) -> Callable[..., Any]:
    def run(format_name: str = "onnx", **options: Any) -> Any:
        path = data / f"net.{format_name}"
        path.write_bytes(colour_segmenter(format_name, **options))
        return edgemobile.evaluate_segmentation(path, data / "images", data / "masks")

    return run


@pytest.mark.parametrize("format_name", ["onnx", "tflite"])
def test_shares_of_pixels_are_counted_for_each_class(measure: Callable[..., Any], format_name: str) -> None:
    result = measure(format_name)
    (file,) = result.files
    # Of 16 x 16: 128 are black, 96 red, 32 green but taken for red.
    assert file.confusion.tolist() == [[128, 0, 0], [0, 96, 0], [0, 32, 0]]
    assert file.iou.tolist() == [1, 96 / 128, 0]
    assert file.mean_iou == pytest.approx((1 + 0.75 + 0) / 3)
    assert file.pixel_accuracy == pytest.approx(224 / 256)
    assert str(result).count("58.33%") == 1


def test_pixels_of_no_class_and_classes_that_are_nowhere_do_not_count(data: Path, measure: Callable[..., Any]) -> None:
    mask = np.asarray(Image.open(data / "masks" / "a.png")).copy()
    mask[mask == 2] = 255
    # With a palette, as Pascal VOC has its masks.
    stored = Image.fromarray(mask).convert("P")
    stored.putdata(mask.ravel().tolist())
    stored.save(data / "masks" / "a.png")
    (file,) = measure().files
    assert file.confusion.sum() == 224
    assert np.isnan(file.iou[2])
    assert file.mean_iou == 1


def test_a_crop_and_coarse_logits_meet_the_same_pixels(measure: Callable[..., Any]) -> None:
    cropped = replace(PLAIN, input_px=8, resize="shorter", shorter_px=8)
    # The centre 8 x 8 of 8 x 16: half of it red, and of that a quarter green in the mask.
    assert measure(preprocess=cropped).files[0].confusion.tolist() == [[32, 0, 0], [0, 24, 0], [0, 8, 0]]
    coarse = measure("tflite", pool=2).files[0]
    assert coarse.confusion.sum() == 256
    assert coarse.confusion[0, 0] >= 112


def test_images_that_cannot_be_measured_are_listed(data: Path, measure: Callable[..., Any]) -> None:
    Image.new("RGB", (8, 8)).save(data / "images" / "b.jpg")
    Image.new("RGB", (8, 8)).save(data / "images" / "c.png")
    Image.new("RGB", (8, 8)).save(data / "masks" / "c.png")
    (data / "images" / "notes.txt").write_text("not an image")
    result = measure()
    assert result.images == ("a.png",)
    ((name, reason),) = result.skipped
    assert name == "c.png"
    assert "mode RGB" in reason
    assert "1 images of" in str(result)
    (data / "images" / "a.png").unlink()
    with pytest.raises(EdgemobileError, match=r"no image of .* with a mask can be read; the first, c\.png: its mask"):
        measure()
    (data / "masks" / "c.png").unlink()
    with pytest.raises(EdgemobileError, match=r"none of 2 images of .* has a mask of its name in"):
        measure()


def test_a_class_that_the_net_lacks_is_named(data: Path, measure: Callable[..., Any]) -> None:
    Image.fromarray(np.full((16, 32), 7, np.uint8)).save(data / "masks" / "a.png")
    with pytest.raises(EdgemobileError, match=r"the mask of a\.png has class 7, and .* has 3 classes, 0 to 2"):
        measure()


def command(*arguments: object) -> tuple[object, str]:
    result = CliRunner().invoke(cli, ["eval", *map(str, arguments)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.return_value, result.stdout


def test_the_command_says_what_does_not_fit(data: Path, colour_model: Callable[..., bytes]) -> None:
    path = data / "net.onnx"
    path.write_bytes(colour_segmenter("onnx", name="pixels"))
    given = (path, "--data", data / "images", "--masks", data / "masks")
    assert command(*given)[0] == 0
    found = json.loads(command(*given, "--json")[1])
    assert found["files"][0]["iou"] == [1, 0.75, 0]
    with pytest.raises(EdgemobileError, match="--labels cannot be used with --masks"):
        command(*given, "--labels", data / "names.txt")
    with pytest.raises(EdgemobileError, match="give one of them"):
        command(*given, "--annotations", data / "boxes.json")
    with pytest.raises(EdgemobileError, match="is not a folder: --masks"):
        command(path, "--data", data / "images", "--masks", data / "masks.zip")
    (data / "classifier.onnx").write_bytes(colour_model("bgr"))
    with pytest.raises(EdgemobileError, match=r"classifier\.onnx (has the outputs|does not state)"):
        command(data / "classifier.onnx", *given[1:])
