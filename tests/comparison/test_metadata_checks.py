"""What a file says of itself is held to the file and to its reference; what a file cannot be shown is its own miss."""

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

LABELS = ("cat", "dog", "owl", "fox")
PREPROCESS = Preprocess(8, antialias=False)
STATED = {"labels": LABELS, "preprocess": PREPROCESS.to_json(), "precision": "float32"}


def _write(
    path: Path, said: Mapping[str, object] = STATED, *, input_px: int = 8, classes: int = 4, ends: tuple[str, ...] = ()
) -> Path:
    """A pooled linear layer that says `said` of itself; `ends` are outputs beside its own."""
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
        ({"labels": LABELS[::-1]}, "labels: the same names in another order; output 0 is 'fox', the reference's 'cat'"),
        ({"labels": ("cat", "dog", "owl", "elk")}, "labels: other names; output 3 is 'elk', the reference's 'fox'"),
        ({"labels": LABELS[:3]}, "labels: its metadata names 3 classes, and it has 4 outputs"),
        ({"preprocess": _pre(interpolation="nearest")}, "says interpolation nearest, the reference interpolation bili"),
        ({"preprocess": _pre(antialias=True)}, "preprocess: its metadata says antialias True, the reference antialias"),
        ({"preprocess": _pre(resize="shorter", shorter_px=9)}, "says resize shorter, shorter_px 9, the reference"),
        ({"preprocess": at_resolution(PREPROCESS, 16).to_json()}, "says input_px 16, and it takes 8 x 8 px"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_claim_that_drifted_is_a_miss(tmp_path: Path, said: dict[str, object], words: str) -> None:
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
            ("its metadata says int8, and what it stores is float32: held to the latter",),
        ),
    ],
    ids=["the same", "nothing", "another precision"],
)
def test_what_is_not_said_is_a_note(tmp_path: Path, said: dict[str, object], notes: tuple[str, ...]) -> None:
    file = _held(tmp_path, said)
    assert file.passed, file.missed
    assert file.notes == notes


def test_a_reference_that_says_nothing_holds_nobody_to_it(tmp_path: Path) -> None:
    reference = _write(tmp_path / "reference.onnx", {})
    other = _write(tmp_path / "other.onnx", {**STATED, "labels": LABELS[::-1]})
    fewer = _write(tmp_path / "fewer.onnx", {**STATED, "labels": LABELS[:3]})
    right, wrong = _report(reference, other, fewer).files
    assert right.passed
    assert right.notes == ()
    assert "names 3 classes, and it has 4 outputs" in wrong.missed[0]


def test_the_constants_say_which_precision(tmp_path: Path) -> None:
    assert read_model_file(_write(tmp_path / "claims.onnx", {"precision": "int8"})).precision == "float32"


@pytest.mark.parametrize("form", list(FORMATS))
def test_what_cannot_be_shown_the_images_is_its_own_miss(tmp_path: Path, form: str) -> None:
    if form == "tflite":
        pytest.importorskip("ai_edge_litert")
    reference = _write(tmp_path / "reference.onnx")
    larger = _write(tmp_path / f"larger.{form}", {}, input_px=16)
    more = _write(tmp_path / f"more.{form}", {}, classes=5)
    two = _write(tmp_path / f"two.{form}", {}, ends=("flat",))
    right = _write(tmp_path / f"right.{form}")
    report = _report(reference, larger, more, two, right)
    missed = [" ".join(file.missed) for file in report.files]
    assert "takes 16 x 16 px, the reference 8 x 8 px" in missed[0]
    assert "gives 5 outputs, the reference 4" in missed[1]
    assert missed[2] == "gives fc [N, 4], flat [N, 3], the reference fc [N, 4] (channels last)"
    assert missed[3] == ""
    assert ParityReport.from_json(json.dumps(report.to_json(), allow_nan=False)).passed is False


def test_a_model_is_held_to_at_the_resolution_of_its_files(tmp_path: Path) -> None:
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
    assert report.files[0].notes == ("it takes 32 x 32 px, and the model is of 96 x 96",)
    assert "interpolation bicubic, the reference interpolation bilinear" in report.files[1].missed[0]
