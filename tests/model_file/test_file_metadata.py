"""What is read of a file's metadata, ours or anyone's: one answer for every reader."""

from __future__ import annotations

import json

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.graph.embed import outside
from edgemobile.model_file.metadata import embedded_entry, labels_in, preprocess_in, whole
from edgemobile.preprocess import CIFAR10, IMAGENET, Preprocess


def test_labels_are_a_list_of_text() -> None:
    assert labels_in({"edgemobile.labels": json.dumps(["Katze", "hund", "fåre"])}) == ("Katze", "hund", "fåre")
    assert labels_in({"edgemobile.labels": "[]"}) == ()


@pytest.mark.parametrize("entry", ["", "[", "[1, 2]", '["cat", null]', '{"0": "cat"}', '"cat"', "null"])
def test_anything_else_is_no_labels(entry: str) -> None:
    assert labels_in({"edgemobile.labels": entry}) is None
    assert labels_in({}) is None


def test_a_damaged_preprocess_is_refused_and_a_missing_one_is_not() -> None:
    assert preprocess_in({"edgemobile.preprocess": json.dumps(IMAGENET.to_json())}) == IMAGENET
    assert preprocess_in({"edgemobile.labels": "[]"}) is None
    for entry in ("", "{}", '{"input_px": 8}'):
        with pytest.raises(EdgemobileError, match="preprocess"):
            preprocess_in({"edgemobile.preprocess": entry})


@pytest.mark.parametrize("preprocess", [CIFAR10, IMAGENET])
def test_what_a_file_leaves_and_what_it_does_make_the_whole(preprocess: Preprocess) -> None:
    assert whole(outside(preprocess), embedded_entry(preprocess)) == preprocess
    assert whole(preprocess, {}) == preprocess


@pytest.mark.parametrize("entry", ["", "[]", '{"mean": [0, 0, 0]}', '{"mean": 0, "std": [1, 1, 1]}'])
def test_a_damaged_normalisation_is_refused(entry: str) -> None:
    with pytest.raises(EdgemobileError, match=r"edgemobile\.embedded|mean"):
        whole(IMAGENET, {"edgemobile.embedded": entry})
