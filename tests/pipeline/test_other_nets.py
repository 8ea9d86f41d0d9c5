"""Nets that are no classifiers: the export of all their outputs, what is said of each, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgemobile.accuracy.classifier import ClassifierOptions, open_classifier
from edgemobile.accuracy.detector import open_detector
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.loading.model import load_model
from edgemobile.metrics.outputs import split
from edgemobile.models.arch import ARCHS, scaled
from edgemobile.models.ssdlite import postprocess
from edgemobile.pipeline.export import export
from edgemobile.pipeline.request import ExportRequest, ExportResult
from edgemobile.postprocess import Postprocess

SOURCE = """
import torch
from torch import nn

def block(inputs, outputs, activation):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), activation)

class Net(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body = block(3, 8, nn.Hardswish()), block(8, 12, nn.ReLU())
        self.mask, self.pool, self.fc = nn.Conv2d(12, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(12, 4)
        self.wrap = wrap

    def forward(self, x):
        low = self.stem(x)
        high = self.body(low)
        return self.wrap(low, self.mask(high), self.fc(self.pool(high).flatten(1)))

def settled(wrap):
    net = Net(wrap)
    for norm in (net.stem[1], net.body[1]):
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        net.train()(torch.randn(8, 3, 32, 32))
    return net.eval()

def heads(): return settled(lambda low, mask, logits: {"low": low, "mask": mask, "logits": logits})
def segmenter(): return settled(lambda low, mask, logits: {"out": mask})
def maps(): return settled(lambda low, mask, logits: [low, mask])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets")
    (path / "other_nets.py").write_text(SOURCE)
    return path


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "other_nets", raising=False)
    return folder


def _exported(folder: Path, name: str, **asked: Any) -> ExportResult:
    asked = {"precisions": ("float32", "int8"), "check_images": 4, "calib_images": 8, **asked}
    return export(ExportRequest(f"other_nets:{name}", folder / name, res=32, overwrite=True, **asked))


@pytest.fixture
def heads(folder: Path) -> Path:
    if not (folder / "heads").is_dir():
        assert _exported(folder, "heads").passed
    return folder / "heads"


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("heads", ["low", "mask", "logits"]), ("segmenter", ["out"]), ("maps", ["output_0", "output_1"])],
)
def test_every_output_is_exported_and_checked(folder: Path, name: str, outputs: list[str]) -> None:
    result = _exported(folder, name)
    assert result.passed
    for file in result.files:
        assert list(file.verdict.outputs) == outputs
        assert all(metrics["sqnr_db"] > 20 for metrics in file.verdict.outputs.values())
        session = open_session(folder / name / file.entry.file)
        assert [port.name for port in session.outputs] == outputs
        # The integers of both formats are those of the reference arithmetic, but for ties.
        assert file.max_lsb is None or file.max_lsb <= 1
    facts = json.loads((folder / name / "manifest.json").read_text())
    assert facts["model"]["classes"] is None
    assert [one["name"] for one in facts["model"]["outputs"]] == outputs
    assert list(facts["files"][0]["metrics_of_outputs"]) == outputs
    assert {one["file"] for one in facts["other_files"]} == {"README.md"}


def test_a_detectors_files_have_its_anchors_and_labels(folder: Path) -> None:
    names = ("background", "cat", "dog")
    (folder / "names.txt").write_text("\n".join(names))
    given = {"weights": "random", "width": 0.25, "res": 64, "classes": 3, "labels": folder / "names.txt"}
    out = folder / "detector"
    result = export(ExportRequest("v2-ssdlite", out, formats=("tflite",), check_images=2, overwrite=True, **given))
    assert result.passed
    (file,) = result.files
    record = json.loads((out / "manifest.json").read_text())["model"]["postprocess"]
    how = postprocess(scaled(ARCHS["v2-ssdlite"], input_px=64))
    assert Postprocess.from_json(record) == how
    detector = open_detector(str(out / file.entry.file), ClassifierOptions())
    assert (detector.postprocess, detector.labels) == (how, names)
    assert {one["file"] for one in json.loads((out / "manifest.json").read_text())["other_files"]} == {
        *("README.md", "predict.py", "labels.txt")
    }
    # Boxes are shares of the whole image.
    assert detector.preprocess.resize == "exact"
    assert f"{how.count} anchors, of which `bbox_regression`" in (out / "README.md").read_text()
    model = load_model("v2-ssdlite", "random", width=0.25, res=64, classes=3)
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    offsets, logits = (rows[0] for rows in split(model.rows(image), model.outputs).values())
    (found,), expected = detector.detect(image), how(offsets, logits)
    np.testing.assert_allclose(found.boxes[:20], expected.boxes[:20], atol=1e-4)
    np.testing.assert_allclose(found.scores[:20], expected.scores[:20], atol=1e-5)


def test_a_file_holds_what_pytorch_computes_in_its_own_layout(heads: Path) -> None:
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    model = load_model("other_nets:heads", res=32)
    expected = split(model.rows(images), model.outputs)
    for suffix, shape in (("tflite", (1, 8, 8, 5)), ("onnx", (1, 5, 8, 8))):
        session = open_session(heads / f"heads-float32.{suffix}")
        found = dict(zip((port.name for port in session.outputs), session.run_all(images), strict=True))
        assert found["mask"].shape == shape
        mask = found["mask"] if suffix == "tflite" else found["mask"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(mask, expected["mask"], atol=1e-5)
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_the_readme_runs_the_file(heads: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = export(
        ExportRequest("other_nets:heads", heads.parent / f"only-{suffix}", res=32, formats=(suffix,), overwrite=True)
    )
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save("photo.jpg")
    text = (result.out / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code.replace(f"heads-float32.{suffix}", str(result.out / f"heads-float32.{suffix}")), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["low", "mask", "logits"]
    assert "| `mask` | [1, 8, 8, 5] | [1, 5, 8, 8] |" in text


def test_parity_compares_every_output_and_every_layer(heads: Path) -> None:
    files = tuple(map(str, sorted(heads.glob("heads-*.*"))))
    report = parity(ParityRequest("other_nets:heads", files, images=4, layers=True))
    for file in report.files:
        assert file.passed, file.missed
        assert list(file.outputs) == ["low", "mask", "logits"]
        assert not file.unmatched
        assert file.agreeing == len(file.layers) > 5


def test_both_formats_hold_the_same_integers(heads: Path) -> None:
    onnx_file, tflite_file = (str(heads / f"heads-int8.{suffix}") for suffix in ("onnx", "tflite"))
    (file,) = parity(ParityRequest(onnx_file, (tflite_file,), layers=True)).files
    assert file.passed, file.missed
    assert file.lsb is not None
    assert file.lsb <= 1


def test_a_damaged_output_is_missed_by_its_name(heads: Path) -> None:
    model = onnx.load(heads / "heads-float32.onnx")
    (bias,) = (one for one in model.graph.initializer if one.name == "mask.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, "damaged.onnx")
    (file,) = parity(ParityRequest("other_nets:heads", ("damaged.onnx",), images=4)).files
    assert [words.split(":")[0] for words in file.missed] == ["mask"]


def test_outputs_are_compared_by_name_in_any_order(heads: Path) -> None:
    model = onnx.load(heads / "heads-float32.onnx")
    turned = list(reversed(model.graph.output))
    del model.graph.output[:]
    model.graph.output.extend(turned)
    onnx.save(model, "turned.onnx")
    (file,) = parity(ParityRequest("other_nets:heads", ("turned.onnx",), images=4, layers=True)).files
    assert file.passed, file.missed


def test_a_file_without_one_of_the_outputs_is_of_another_model(heads: Path) -> None:
    model = onnx.load(heads / "heads-float32.onnx")
    del model.graph.output[0]
    onnx.save(model, "fewer.onnx")
    (file,) = parity(ParityRequest("other_nets:heads", ("fewer.onnx",), images=4)).files
    assert file.missed == (
        "its outputs are mask [N, 8, 8, 5], logits [N, 4], but the reference has low [N, 16, 16, 8], "
        "mask [N, 8, 8, 5], logits [N, 4] (channels last)",
    )


@pytest.mark.parametrize("asked", [{"max_drop": 1.0}, {"labels": Path("labels.txt")}])
def test_options_of_classifiers_are_refused(folder: Path, asked: dict[str, Any]) -> None:
    (folder / "labels.txt").write_text("a\nb\n")
    with pytest.raises(Unsupported, match=r"segmenter has the output out \[N, 8, 8, 5\]\. Supported: classifiers"):
        _exported(folder, "segmenter", **asked)


def test_a_classifiers_commands_name_the_outputs(heads: Path) -> None:
    with pytest.raises(EdgemobileError, match=r"has the outputs low .*, mask .*, logits .*\. Supported: classifiers"):
        open_classifier(str(heads / "heads-int8.tflite"), ClassifierOptions())


def test_files_that_take_pixels(folder: Path) -> None:
    result = _exported(folder, "maps", embed_preprocess=True)
    assert result.passed
    assert open_session(folder / "maps" / "maps-int8.tflite").input.dtype == "uint8"


def test_int8_is_ranked_over_all_outputs(folder: Path) -> None:
    from edgemobile.pipeline.export import ranking

    costs = ranking(ExportRequest("other_nets:maps", folder / "ranked", res=32, precisions=("int8",), calib_images=8))
    assert {"output_0", "output_1"} <= {cost.tensor for cost in costs}
    assert sum(cost.share for cost in costs) == pytest.approx(1)
