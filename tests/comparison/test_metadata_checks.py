"""A file's metadata is checked against the file and its reference. A file of another input size misses by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.exporters import FORMATS
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.preprocess import Preprocess, at_resolution
from tests.support.colour_detector import HOW, colour_detector

LABELS = ("cat", "dog", "owl", "fox")
PREPROCESS = Preprocess(8, antialias=False)
STATED = {"labels": LABELS, "preprocess": PREPROCESS.to_json(), "precision": "float32"}


def _write(
    path: Path, said: Mapping[str, object] = STATED, *, input_px: int = 8, classes: int = 4, ends: tuple[str, ...] = ()
) -> Path:
    """A pooled linear layer with the metadata `said`; `ends` are additional outputs."""
    rng = np.random.default_rng(0)
    shapes = {"input": (1, input_px, input_px, 3), "pool": (1, 1, 1, 3), "flat": (1, 3), "fc": (1, classes)}
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    tensors["w"] = Tensor.constant("w", rng.standard_normal((classes, 3)).astype(np.float32))
    tensors["b"] = Tensor.constant("b", rng.standard_normal(classes).astype(np.float32))
    nodes = (
        Node("mean", ("input",), "pool"),
        Node("reshape", ("pool",), "flat"),
        Node("linear", ("flat", "w", "b"), "fc", {"activation": ""}),
    )
    graph = Graph("pooled", ("input",), ("fc", *ends), nodes, tensors)
    texts = {f"edgemobile.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}
    path.write_bytes(FORMATS[path.suffix[1:]].load().to_bytes(graph, metadata=texts))
    return path


def _report(reference: Path, *others: Path) -> ParityReport:
    return parity(ParityRequest(str(reference), tuple(map(str, others)), images=4))


def _held(folder: Path, said: Mapping[str, object]) -> FileParity:
    (file,) = _report(_write(folder / "reference.onnx"), _write(folder / "other.onnx", said)).files
    return file


def _pre(**fields: object) -> dict[str, object]:
    return replace(PREPROCESS, **fields).to_json()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"labels": LABELS[::-1]},
            "labels: the same names in another order; output 0 is 'fox', in the reference it is 'c",
        ),
        ({"labels": ("cat", "dog", "owl", "elk")}, "other names; output 3 is 'elk', in the reference it is 'fox'"),
        ({"labels": LABELS[:3]}, "labels: its metadata names 3 classes, but it has 4 outputs"),
        ({"preprocess": _pre(interpolation="nearest")}, "says interpolation nearest, but the reference has interpolat"),
        ({"preprocess": _pre(antialias=True)}, "preprocess: its metadata says antialias True, but the reference has"),
        ({"preprocess": _pre(resize="shorter", shorter_px=9)}, "says resize shorter, shorter_px 9, but the reference"),
        ({"preprocess": at_resolution(PREPROCESS, 16).to_json()}, "says input_px 16, but its input is 8 x 8 px"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_metadata_is_a_miss(tmp_path: Path, said: dict[str, object], words: str) -> None:
    file = _held(tmp_path, {**STATED, **said})
    assert words in file.missed[0]
    assert len(file.missed) == 1
    assert file.metrics["sqnr_db"] > 90


@pytest.mark.parametrize(
    ("said", "notes"),
    [
        (STATED, ()),
        ({}, ("its metadata has no labels and no preprocessing to compare",)),
        (
            {**STATED, "precision": "int8"},
            ("its metadata says int8, but it stores float32: checked against the bounds for float32",),
        ),
    ],
    ids=["the same", "nothing", "another precision"],
)
def test_missing_metadata_is_a_note(tmp_path: Path, said: dict[str, object], notes: tuple[str, ...]) -> None:
    file = _held(tmp_path, said)
    assert file.passed, file.missed
    assert file.notes == notes


def test_a_reference_without_metadata_has_nothing_to_check(tmp_path: Path) -> None:
    reference = _write(tmp_path / "reference.onnx", {})
    other = _write(tmp_path / "other.onnx", {**STATED, "labels": LABELS[::-1]})
    fewer = _write(tmp_path / "fewer.onnx", {**STATED, "labels": LABELS[:3]})
    right, wrong = _report(reference, other, fewer).files
    assert right.passed
    assert right.notes == ()
    assert "names 3 classes, but it has 4 outputs" in wrong.missed[0]


def test_the_constants_say_which_precision(tmp_path: Path) -> None:
    assert read_model_file(_write(tmp_path / "claims.onnx", {"precision": "int8"})).precision == "float32"


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_file_of_another_size_or_outputs_misses_by_itself(tmp_path: Path, form: str) -> None:
    if form == "tflite":
        pytest.importorskip("ai_edge_litert")
    reference = _write(tmp_path / "reference.onnx")
    larger = _write(tmp_path / f"larger.{form}", {}, input_px=16)
    more = _write(tmp_path / f"more.{form}", {}, classes=5)
    two = _write(tmp_path / f"two.{form}", {}, ends=("flat",))
    right = _write(tmp_path / f"right.{form}")
    report = _report(reference, larger, more, two, right)
    missed = [" ".join(file.missed) for file in report.files]
    assert "its input is 16 x 16 px, but the reference's is 8 x 8 px" in missed[0]
    assert "it has 5 outputs, but the reference has 4" in missed[1]
    assert missed[2] == "its outputs are fc [N, 4], flat [N, 3], but the reference has fc [N, 4] (channels last)"
    assert missed[3] == ""
    assert ParityReport.from_json(json.dumps(report.to_json(), allow_nan=False)).passed is False


def test_a_model_is_compared_at_the_resolution_of_its_files(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from edgemobile.loading.model import load_model
    from edgemobile.lower import lower
    from edgemobile.pipeline.manifest import file_metadata

    model = load_model("v3-small", res=32)
    graph = lower(model.program, model.name)
    metadata = dict(file_metadata(model, "float32"))
    right, wrong = tmp_path / "right.onnx", tmp_path / "wrong.onnx"
    right.write_bytes(FORMATS["onnx"].load().to_bytes(graph, metadata=metadata))
    metadata["edgemobile.preprocess"] = json.dumps(replace(model.preprocess, interpolation="bicubic").to_json())
    wrong.write_bytes(FORMATS["onnx"].load().to_bytes(graph, metadata=metadata))
    report = parity(ParityRequest("v3-small", (str(right), str(wrong)), images=2))
    assert report.files[0].passed, report.files[0].missed
    assert report.files[0].notes == ("its input is 32 x 32 px, but the model was trained at 96 x 96 px",)
    assert "interpolation bicubic, but the reference has interpolation bilinear" in report.files[1].missed[0]


def test_a_detectors_labels_and_anchors_are_compared(tmp_path: Path) -> None:
    reference = tmp_path / "detector.onnx"
    reference.write_bytes(colour_detector("onnx"))
    for name, said in {"same": {}, "labels": {"labels": ("background", "red")}, "anchors": {}}.items():
        how = replace(HOW, iou_threshold=0.9) if name == "anchors" else HOW
        (tmp_path / f"{name}.onnx").write_bytes(colour_detector("onnx", how=how, **said))  # type: ignore[arg-type]
    report = _report(reference, *(tmp_path / f"{name}.onnx" for name in ("same", "labels", "anchors")))
    assert [file.missed for file in report.files] == [
        (),
        ("labels: its metadata names 2 classes, but it has 3 outputs; export it again",),
        ("postprocess: its metadata has other iou_threshold than the reference",),
    ]
