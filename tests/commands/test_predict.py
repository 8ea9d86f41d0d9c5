"""`edgemobile predict`: names and probabilities of single images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgemobile.cli import cli
from edgemobile.errors import EdgemobileError
from edgemobile.images.reading import read_image
from tests.support.colour_detector import colour_detector, painted

pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tmp_path: Path, colour_model: Callable[..., bytes]) -> Path:
    """A model of colours, with labels.txt beside it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(colour_model("bgr", gain=2.0))
    (tmp_path / "labels.txt").write_text("blue\ngreen [lime]\nred\n")
    return path


def run(*arguments: object) -> tuple[object, str, str]:
    result = CliRunner().invoke(cli, ["predict", *map(str, arguments)], standalone_mode=False)
    assert result.exception is None
    return result.return_value, result.stdout, result.stderr


def test_names_come_best_first(model: Path, colour_photos: Path) -> None:
    code, shown, _ = run(model, colour_photos / "green" / "0.png", colour_photos / "red" / "1.png", "--top", 2)
    assert code == 0
    lines = [line for line in shown.splitlines() if "%" in line]
    assert [line.split()[1] for line in lines][::2] == ["green", "red"]
    assert "green [lime]" in lines[0]
    assert len(lines) == 4
    assert "labels next to it in labels.txt" in shown


def test_json_probabilities_sum_to_one(model: Path, colour_photos: Path) -> None:
    code, shown, _ = run(model, colour_photos / "blue" / "0.png", "--json")
    (image,) = json.loads(shown)["images"]
    assert code == 0
    assert image["top"][0]["label"] == "blue"
    assert sum(one["probability"] for one in image["top"]) == pytest.approx(1)


def test_an_unreadable_image_does_not_stop_the_others(model: Path, colour_photos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 junk")
    code, shown, errors = run(model, broken, tmp_path / "none.png", colour_photos / "red" / "0.png")
    assert code == 2
    assert "red" in shown
    assert "broken.jpg: it is not an image, or is damaged" in errors
    assert "none.png: No such file or directory" in errors


@pytest.mark.parametrize("gain", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_no_answer(
    tmp_path: Path, colour_model: Callable[..., bytes], colour_photos: Path, gain: float
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(colour_model("bgr", gain=gain))
    image = colour_photos / "red" / "0.png"
    code, shown, errors = run(path, image)
    assert code == 2
    assert "0.png: the model's outputs are not finite: there is no result" in " ".join(errors.split())
    assert "%" not in shown
    code, shown, _ = run(path, image, "--json")
    assert (code, json.loads(shown)["images"][0]["error"][:34]) == (2, "the model's outputs are not finite")


def test_what_cannot_be_shown_says_why(model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "depth.tif")
    Image.new("RGB", (30_000, 1)).save(tmp_path / "strip.png")
    code, _, errors = run(model, tmp_path / "depth.tif", tmp_path / "strip.png")
    assert code == 2
    assert "depth.tif: its pixels are float32, from 0.5 to 0.5" in " ".join(errors.split())
    assert "strip.png: it is 30000 x 1 px" in " ".join(errors.split())


def test_photos_are_turnedread_image(tmp_path: Path, sideways: Image.Image) -> None:
    sideways.save(tmp_path / "turned.png", exif=sideways.getexif())
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2)) == (255, 255, 255)


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """A picture with a red cell and a green one."""
    Image.fromarray(painted((1, 2, "red"), (3, 0, "green"))).save(tmp_path / "cells.png")
    return tmp_path / "cells.png"


@pytest.mark.parametrize("format_name", ["onnx", "tflite"])
def test_a_detectors_boxes_are_in_pixels_of_the_image(tmp_path: Path, coloured: Path, format_name: str) -> None:
    path = tmp_path / f"detector.{format_name}"
    path.write_bytes(colour_detector(format_name))
    code, shown, _ = run(path, coloured, "--json")
    assert code == 0
    found = json.loads(shown)
    assert found["outputs"] == "16 anchors, 3 classes, the first is background"
    boxes = sorted(found["images"][0]["boxes"], key=lambda box: box["label"])
    assert [(box["label"], box["output"]) for box in boxes[:2]] == [("green", 2), ("red", 1)]
    sides = ("left", "top", "right", "bottom")
    assert [[round(box[side], 3) for side in sides] for box in boxes[:2]] == [[0, 48, 32, 64], [64, 16, 96, 32]]
    code, shown, _ = run(path, coloured, "--top", 1)
    assert (code, shown.count("%")) == (0, 1)
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    assert "no boxes" in run(path, tmp_path / "black.png")[1]


def test_a_detector_says_what_does_not_fit(tmp_path: Path, coloured: Path) -> None:
    path = tmp_path / "detector.onnx"
    path.write_bytes(colour_detector("onnx", labels=None))
    (tmp_path / "two.txt").write_text("red\ngreen\n")
    with pytest.raises(EdgemobileError, match=r"has 2 labels, and .* has 3 outputs"):
        CliRunner().invoke(
            cli,
            ["predict", str(path), str(coloured), "--labels", str(tmp_path / "two.txt")],
            standalone_mode=False,
            catch_exceptions=False,
        )
    code, shown, errors = run(path, tmp_path / "none.png", coloured)
    assert code == 2
    assert "none.png: No such file" in errors
    assert "class 1" in shown
