"""Files as other people make them: layouts, dtypes, batches, outputs; all must see the same colours."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemobile.accuracy.classifier import Classifier, ClassifierOptions, classify, is_probability, open_classifier
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import Preprocess

pytest.importorskip("onnxruntime")

RED = Image.new("RGB", (40, 30), (200, 10, 30))


@pytest.fixture
def opened(tmp_path: Path, colour_model: Callable[..., bytes]) -> Callable[..., Classifier]:
    def build(order: str = "bgr", *, preprocess: str | None = None, **options: Any) -> Classifier:
        path = tmp_path / "model.onnx"
        path.write_bytes(colour_model(order, **options))
        return open_classifier(str(path), ClassifierOptions(preprocess=preprocess))

    return build


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, (np.array([30, 10, 200]) / 255 - [0.406, 0.456, 0.485]) / [0.225, 0.224, 0.229]),
        ({"shape": (1, 32, 32, 3)}, np.array([30, 10, 200]) / 127.5 - 1),
        ({"shape": (1, 32, 32, 3), "dtype": "UINT8"}, [30, 10, 200]),
        ({"dtype": "UINT8"}, [30, 10, 200]),
        ({"shape": (1, 32, 32, 3), "dtype": "INT8"}, [30 - 128, 10 - 128, 200 - 128]),
        ({"preprocess": "unit"}, np.array([30, 10, 200]) / 255),
        ({"preprocess": "raw"}, [30, 10, 200]),
        ({"shape": (4, 3, 32, 32), "preprocess": "raw"}, [30, 10, 200]),
        ({"shape": ("N", 3, "H", "W"), "preprocess": "raw"}, [30, 10, 200]),
    ],
)
def test_every_form_of_input_sees_the_pixels(
    opened: Callable[..., Classifier], options: dict[str, Any], wanted: list[float]
) -> None:
    classifier = opened(**options)
    images = np.stack([classifier.preprocess(RED)] * 3)
    assert classifier.scores(images) == pytest.approx(np.array([wanted] * 3), abs=2e-3)


def test_a_file_of_ours_is_taken_at_its_word(opened: Callable[..., Classifier]) -> None:
    record = Preprocess(32, mean=(0, 0, 0), std=(0.5, 0.5, 0.5))
    metadata = {
        "edgemobile.preprocess": json.dumps(record.to_json()),
        "edgemobile.labels": json.dumps(["blue", "green", "red"]),
    }
    classifier = opened(metadata=metadata)
    assert (classifier.preprocess, classifier.labels) == (record, ("blue", "green", "red"))
    assert "in its metadata" in classifier.found["preprocess"]
    assert opened(metadata=metadata, preprocess="unit").preprocess.std == (1, 1, 1)


def test_a_free_resolution_is_what_its_preprocessing_says(opened: Callable[..., Classifier]) -> None:
    metadata = {"edgemobile.preprocess": json.dumps(Preprocess(48).to_json())}
    assert opened(shape=("N", 3, "H", "W"), metadata=metadata).session.input.shape == (1, 3, 48, 48)
    assert opened(shape=("N", 3, "H", "W")).preprocess.input_px == 224


def test_softmax_is_taken_once(opened: Callable[..., Classifier]) -> None:
    shares = {}
    for softmax in (False, True):
        classifier = opened(softmax=softmax, preprocess="unit", gain=4.0)
        assert classifier.probabilities is softmax
        assert ("probabilities" if softmax else "logits") in classifier.found["outputs"]
        shares[softmax] = [one.probability for one in classify(classifier, RED, top=3)]
    assert shares[True] == pytest.approx(shares[False], abs=1e-6)
    assert sum(shares[True]) == pytest.approx(1)


def test_large_logits_do_not_overflow(opened: Callable[..., Classifier]) -> None:
    best = classify(opened(preprocess="raw", gain=1e6), RED, top=1)
    assert (best[0].output, best[0].label, best[0].probability) == (2, "class 2", 1.0)


def test_1001_outputs_begin_with_background(opened: Callable[..., Classifier]) -> None:
    classifier = opened("_bgr" + "_" * 997)
    assert classifier.found["outputs"] == "1001 logits, the first is background"


def test_is_probability_allows_for_8_bit_steps() -> None:
    softmax = np.full((2, 1000), 1 / 1000)
    assert is_probability(softmax)
    assert is_probability(np.array([[0.5, 0.49]]))
    assert not is_probability(np.array([[0.5, 0.4]]))
    assert not is_probability(np.array([[1.5, -0.5]]))
    assert not is_probability(np.zeros((0, 3)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shape": (1, 3, 32, 48)}, r"takes float32 NCHW\[1, 3, 32, 48\]. Supported: square RGB"),
        ({"order": "r"}, r"has the output \w+ \[1, 1\]. Supported: classifiers"),
    ],
)
def test_what_is_no_classifier_is_refused(opened: Callable[..., Classifier], options: Any, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        opened(**options)


def test_files_that_are_not_there_or_need_a_name(tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match=r"cannot read none.tflite"):
        open_classifier("none.tflite", ClassifierOptions())
    with pytest.raises(EdgemobileError, match=r"w.pth: it does not exist"):
        open_classifier("w.pth", ClassifierOptions())
    with pytest.raises(Unsupported, match=r"unknown model 'v3-larg'. Did you mean v3-large"):
        open_classifier("v3-larg", ClassifierOptions())
    with pytest.raises(
        EdgemobileError, match=r"no weights of v4-conv-small .* Give a file: a checkpoint of v4-conv-small"
    ):
        open_classifier("v4-conv-small", ClassifierOptions())


def test_a_checkpoint_says_by_its_shapes_which_model_it_is_of(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    small = scaled(get_arch("v3-small"), width=0.25, classes=5)
    state = {f"net.{key}": value for key, value in build_net(small).state_dict().items()}
    torch.save({"state_dict": state, "classes": list("abcde")}, tmp_path / "w.pth")
    classifier = open_classifier(str(tmp_path / "w.pth"), ClassifierOptions())
    assert (classifier.outputs, classifier.labels) == (5, tuple("abcde"))
    with pytest.raises(EdgemobileError, match=r"contains weights of v3-small \(width 0.25\), not of v2"):
        open_classifier(str(tmp_path / "w.pth"), ClassifierOptions(arch="v2"))
    torch.save({"weight": torch.ones(3)}, tmp_path / "x.pth")
    with pytest.raises(EdgemobileError, match=r"does not contain weights of a reference model. Known: v1"):
        open_classifier(str(tmp_path / "x.pth"), ClassifierOptions())


def test_a_model_of_one_s_own_is_run_in_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    source = """
        import torch
        def make():
            torch.manual_seed(0)
            return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        """
    (tmp_path / "colour_nets.py").write_text(dedent(source))
    monkeypatch.chdir(tmp_path)
    own = open_classifier("colour_nets:make", ClassifierOptions())
    images = np.random.default_rng(0).normal(size=(9, 224, 224, 3)).astype(np.float32)
    net = importlib.import_module("colour_nets").make()
    program = torch.export.export(net, (torch.zeros(1, 3, 224, 224),))
    torch.export.save(program, tmp_path / "net.pt2")
    with torch.no_grad():
        wanted = net(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    for classifier in (own, open_classifier(str(tmp_path / "net.pt2"), ClassifierOptions())):
        assert (classifier.outputs, classifier.preprocess.input_px) == (4, 224)
        assert classifier.found["preprocess"].endswith("; assumed: no source states it")
        assert classifier.scores(images) == pytest.approx(wanted, abs=1e-5)


def test_a_reference_model_is_its_bundled_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    # `edgemobile export v3-large` leaves a folder of that name; the model is meant all the same.
    (tmp_path / "v3-large").mkdir()
    classifier = open_classifier("v3-large", ClassifierOptions())
    assert (classifier.outputs, classifier.session.runtime) == (10, "torch")
    assert classifier.labels is not None
    assert classifier.labels[6] == "frog"
    assert classifier.found["preprocess"].endswith("; from its checkpoint")
    images = np.random.default_rng(0).normal(size=(9, 96, 96, 3)).astype(np.float32)
    # The last batch is padded; that must not show.
    assert classifier.scores(images)[8] == pytest.approx(classifier.scores(images[8:])[0], abs=1e-5)
