"""The average precision of a detector whose right answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

import edgemobile
from edgemobile.accuracy.coco import read_annotations
from edgemobile.accuracy.detection import DetectionEvaluation, evaluate_detection
from edgemobile.accuracy.pictures import PicturesRequest
from edgemobile.cli import cli
from edgemobile.commands.eval import _OF_CLASSIFIERS
from edgemobile.errors import EdgemobileError
from tests.support.colour_detector import CELLS, colour_detector, painted

pytest.importorskip("pycocotools")
pytest.importorskip("onnxruntime")

PICTURES = {
    "a.png": [(0, 0, "red"), (3, 1, "green")],
    "b.png": [(1, 2, "red")],
    "c.png": [],
}
NUMBERS = {"red": 1, "green": 2}
WIDTH, HEIGHT = 128, 64


def record(**changes: Any) -> dict[str, Any]:
    """COCO's json of the pictures: a box for each painted cell."""
    boxes = []
    for number, cells in enumerate(PICTURES.values(), start=10):
        for row, column, colour in cells:
            wide, tall = WIDTH / CELLS, HEIGHT / CELLS
            box = {"image_id": number, "category_id": NUMBERS[colour], "bbox": [column * wide, row * tall, wide, tall]}
            boxes.append(box)
    return {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(PICTURES, start=10)],
        "categories": [{"id": number, "name": name} for name, number in NUMBERS.items()],
        "annotations": boxes,
        **changes,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, cells in PICTURES.items():
        Image.fromarray(painted(*cells, width=WIDTH, height=HEIGHT)).save(tmp_path / "images" / name)
    (tmp_path / "instances.json").write_text(json.dumps(record()))
    return tmp_path


@pytest.fixture
def measure(data: Path) -> Callable[..., DetectionEvaluation]:
    def run(format_name: str = "onnx", **options: Any) -> DetectionEvaluation:
        path = data / f"detector.{format_name}"
        path.write_bytes(colour_detector(format_name, **options))
        return evaluate_detection(PicturesRequest((str(path),), data / "images", data / "instances.json"))

    return run


@pytest.mark.parametrize("format_name", ["onnx", "tflite"])
def test_a_right_detector_has_all_precision(measure: Callable[..., DetectionEvaluation], format_name: str) -> None:
    result = measure(format_name)
    (file,) = result.files
    assert (file.precision.ap, file.precision.ap50) == (pytest.approx(1), pytest.approx(1))
    assert file.precision.of_categories == {"red": pytest.approx(1), "green": pytest.approx(1)}
    assert (file.boxes, result.annotated, result.skipped) == (3, 3, ())


def test_boxes_beside_the_right_ones_count_up_to_their_overlap(measure: Callable[..., DetectionEvaluation]) -> None:
    """A fifth of a cell to the right, the overlap is 0.8 / 1.2: enough for 0.5, 0.55, 0.6 and 0.65 of ten bounds."""
    (file,) = measure(shift=0.2).files
    assert file.precision.of_categories == {"red": pytest.approx(0.4), "green": pytest.approx(0.4)}
    assert file.precision.ap50 == pytest.approx(1)


def test_classes_are_matched_by_name_else_by_number(measure: Callable[..., DetectionEvaluation]) -> None:
    swapped = measure(labels=("background", "Green", "RED"))
    assert swapped.files[0].precision.ap == 0
    assert measure(labels=None).files[0].precision.ap == pytest.approx(1)


def test_a_detector_that_finds_nothing_has_no_precision(
    data: Path, measure: Callable[..., DetectionEvaluation]
) -> None:
    for name in PICTURES:
        Image.new("RGB", (WIDTH, HEIGHT)).save(data / "images" / name)
    (file,) = measure().files
    assert (file.precision.ap, file.boxes) == (0, 0)


def test_a_category_that_the_detector_lacks_is_named(data: Path, measure: Callable[..., DetectionEvaluation]) -> None:
    with pytest.raises(EdgemobileError, match=r"are not among the detector's labels: green\. Its labels are red, blue"):
        measure(labels=("background", "red", "blue"))
    (data / "instances.json").write_text(
        json.dumps(record(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 7, "name": "c"}]))
    )
    with pytest.raises(EdgemobileError, match="categories 7, and the detector's classes have no names"):
        measure(labels=None)


def test_images_that_cannot_be_read_are_listed(data: Path, measure: Callable[..., DetectionEvaluation]) -> None:
    (data / "images" / "b.png").write_bytes(b"junk")
    images = record()["images"]
    images.append({"id": 99, "file_name": "../instances.json"})
    (data / "instances.json").write_text(json.dumps(record(images=images)))
    result = measure()
    assert [name for name, _ in result.skipped] == ["b.png", "../instances.json"]
    assert result.skipped[1][1] == "its path is outside of the folder"
    # What is not seen is not missed.
    assert result.files[0].precision.ap == pytest.approx(1)
    assert (len(result.images), result.annotated) == (2, 2)
    for name in PICTURES:
        (data / "images" / name).unlink()
    with pytest.raises(EdgemobileError, match=r"no image of .* can be read .* a\.png: No such file"):
        measure()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a COCO json"),
        (json.dumps({"images": []}), "is not a COCO json"),
        (json.dumps(record(images=[])), "has 0 images"),
        (json.dumps(record(annotations=[{"image_id": 10, "category_id": 1, "bbox": [0, 0, -1, 2]}])), "bbox"),
        (
            json.dumps(record(annotations=[{"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 2]}])),
            "image 3, category 1",
        ),
    ],
)
def test_a_json_that_is_not_cocos_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(EdgemobileError, match=reason):
        read_annotations(tmp_path / "instances.json")


def test_from_python_it_prints_as_the_command_does(data: Path) -> None:
    path = data / "detector.onnx"
    path.write_bytes(colour_detector("onnx"))
    found = edgemobile.evaluate_detection(path, data / "images", data / "instances.json", limit=2, seed=1)
    assert len(found.images) == 2
    assert str(found).startswith("2 images of instances.json, drawn with seed 1, 3 boxes")
    assert str(found).count("100.00%") == 2
    with pytest.raises(EdgemobileError, match="is not a folder: with --annotations"):
        edgemobile.evaluate_detection(path, data / "images.zip", data / "instances.json")


def command(*arguments: object) -> tuple[object, str]:
    result = CliRunner().invoke(cli, ["eval", *map(str, arguments)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.return_value, result.stdout


def test_the_command_prints_a_row_for_each_file_or_json(data: Path) -> None:
    files = [data / "detector.onnx", data / "detector.tflite"]
    for path in files:
        path.write_bytes(colour_detector(path.suffix[1:]))
    given = (*files, "--data", data / "images", "--annotations", data / "instances.json")
    code, shown = command(*given)
    assert code == 0
    assert shown.count("100.00%") == 4
    assert "3 images of instances.json, 3 boxes" in shown
    found = json.loads(command(*given, "--json", "--limit", 2)[1])
    assert len(found["images"]) == 2
    assert [file["file"] for file in found["files"]] == list(map(str, files))
    assert found["files"][0]["per_category"]["red"] == pytest.approx(1)


def test_the_results_store_takes_no_boxes(data: Path) -> None:
    path = data / "detector.onnx"
    path.write_bytes(colour_detector("onnx"))
    given = (path, "--data", data / "images", "--annotations", data / "instances.json")
    (data / "boxes.json").write_text(command(*given, "--json")[1])
    added = ["results", "add", str(data / "boxes.json"), "--store", str(data / "store.jsonl")]
    with pytest.raises(EdgemobileError, match=r"boxes\.json is an evaluation of boxes or masks"):
        CliRunner().invoke(cli, added, standalone_mode=False, catch_exceptions=False)


def test_every_option_of_eval_is_taken_or_refused_beside_boxes() -> None:
    """A new one is not ignored in silence."""
    taken = {"files", "data", "annotations", "masks", "limit", "seed", "labels", "preprocess", "threads"}
    shown = {"as_json", "quiet", "help"}
    assert {parameter.name for parameter in cli.commands["eval"].params} - taken - shown == set(_OF_CLASSIFIERS)


def test_what_is_for_classifiers_is_refused(data: Path, colour_model: Callable[..., bytes]) -> None:
    path = data / "detector.onnx"
    path.write_bytes(colour_detector("onnx"))
    given = ("--data", data / "images", "--annotations", data / "instances.json")
    with pytest.raises(EdgemobileError, match="--split, --max-drop, --baseline cannot be used with --annotations"):
        command(path, *given, "--split", "test", "--max-drop", 1, "--baseline", path)
    with pytest.raises(EdgemobileError, match=r"detector.onnx is a detector: add --annotations FILE"):
        command(path, "--data", data / "images")
    (data / "classifier.onnx").write_bytes(colour_model("bgr"))
    with pytest.raises(EdgemobileError, match=r"classifier.onnx is not a detector"):
        command(data / "classifier.onnx", *given)
