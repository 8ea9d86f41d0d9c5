"""The official TFLite metadata: what is written is what the table says, and labels are a zip behind the file."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="needs the litert extra")

from edgemobile.accuracy.classifier import ClassifierOptions, open_classifier
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.exporters import tflite, tflite_contents
from edgemobile.exporters.tflite_metadata import METADATA_NAME, _Read, image_metadata, in_words, normalisation
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.images.class_labels import find_labels
from edgemobile.preprocess import IMAGENET
from tests.support.colour_detector import colour_detector

LABELS = ["cat", "dog", "ünder"]
METADATA = {
    "edgemobile.model": "small",
    "edgemobile.preprocess": json.dumps(IMAGENET.to_json()),
    "edgemobile.labels": json.dumps(LABELS),
}


def graph() -> Graph:
    tensors = {name: Tensor(name, (1, 2, 2, 3)) for name in "xy"}
    return Graph("small", ("x",), ("y",), (Node("relu", ("x",), "y"),), tensors)


def test_it_says_what_edgemobile_s_own_entries_say() -> None:
    data = tflite.to_bytes(graph(), metadata=METADATA)
    said = tflite_contents.read_contents(data).metadata[METADATA_NAME]
    assert said == "small; mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375; labels labels.txt"
    assert tflite.read_metadata(data) == METADATA


def test_a_stranger_s_file_is_taken_at_its_word(tmp_path: Path) -> None:
    tensors = {"x": Tensor("x", (1, 2, 2, 3)), "y": Tensor("y", (1, 1, 1, 3))}
    colours = Graph("small", ("x",), ("y",), (Node("mean", ("x",), "y"),), tensors)
    data = tflite.to_bytes(colours, metadata=METADATA)
    path = tmp_path / "model.tflite"
    path.write_bytes(data.replace(b"edgemobile.preprocess", b"somebody's.preprocess"))
    classifier = open_classifier(str(path), ClassifierOptions())
    assert classifier.preprocess.mean == pytest.approx(IMAGENET.mean)
    assert classifier.preprocess.std == pytest.approx(IMAGENET.std)
    assert "in its TFLite metadata" in classifier.found["preprocess"]
    path.write_bytes(tflite.to_bytes(colours, metadata={}))
    assert "assumed" in open_classifier(str(path), ClassifierOptions()).found["preprocess"]


def test_labels_are_packed_as_the_official_tools_do(tmp_path: Path) -> None:
    data = tflite.to_bytes(graph(), metadata=METADATA)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == LABELS
    found = find_labels(tmp_path / "model.tflite", len(LABELS), {}, data=data)
    assert (found.names, found.source) == (tuple(LABELS), "packed into the file")


def test_the_file_still_runs_and_its_bytes_repeat() -> None:
    data = tflite.to_bytes(graph(), metadata=METADATA)
    assert data == tflite.to_bytes(graph(), metadata=METADATA)
    x = np.full((1, 2, 2, 3), -1, np.float32)
    assert not open_session(data).run(x).any()


def test_a_detectors_labels_are_those_of_its_logits() -> None:
    data = colour_detector("tflite")
    said = tflite_contents.read_contents(data).metadata[METADATA_NAME]
    assert said.startswith("detector; mean 0, 0, 0; std 255, 255, 255")
    assert said.endswith("labels labels.txt")
    (subgraph,) = official(tflite.read_metadata(data)).tables("subgraph_metadata", "SubGraphMetadata")
    outputs = subgraph.tables("output_tensor_metadata", "TensorMetadata")
    named = [(tensor.text("name"), len(tensor.tables("associated_files", "AssociatedFile"))) for tensor in outputs]
    assert named == [("bbox_regression", 0), ("cls_logits", 1)]
    assert [port.name for port in open_session(data).outputs] == ["bbox_regression", "cls_logits"]
    assert official(tflite.read_metadata(data)).text("description") == "Object detector with raw outputs"


def official(metadata: dict[str, str]) -> _Read:
    made = image_metadata(metadata)
    assert made is not None
    return _Read.root(made)


def test_without_preprocessing_or_labels_it_is_left_out() -> None:
    assert image_metadata({"edgemobile.model": "small"}) is None
    unlabelled = {key: value for key, value in METADATA.items() if key != "edgemobile.labels"}
    data = tflite.to_bytes(graph(), metadata=unlabelled)
    assert not zipfile.is_zipfile(io.BytesIO(data))
    assert "labels" not in tflite_contents.read_contents(data).metadata[METADATA_NAME]


@pytest.mark.parametrize(
    "broken",
    [
        {"edgemobile.preprocess": '{"input_px": 8}'},
        {"edgemobile.labels": "[1"},
        {"edgemobile.labels": '["cat", 2]'},
        # A file with a line a class would have other lines than classes.
        {"edgemobile.labels": '["cat", "dog\\nwolf"]'},
        {"edgemobile.labels": '["cat", ""]'},
    ],
)
def test_entries_of_another_form_are_kept_and_not_translated(broken: dict[str, str]) -> None:
    data = tflite.to_bytes(graph(), metadata=METADATA | broken)
    assert tflite.read_metadata(data) == METADATA | broken
    assert not zipfile.is_zipfile(io.BytesIO(data))


def test_damaged_metadata_is_said_so() -> None:
    official = image_metadata(METADATA)
    assert official is not None
    assert official[4:8] == b"M001"
    assert "cannot be read" in in_words(b"")
    for size in range(0, len(official), 3):
        assert isinstance(in_words(official[:size]), str)
        assert normalisation(official[:size]) in (None, normalisation(official))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(official)
        damaged[rng.integers(len(official))] = rng.integers(256)
        assert isinstance(in_words(bytes(damaged)), str)
