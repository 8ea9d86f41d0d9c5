"""`edgemobile parity` as a user and a pipeline meet it: exit codes, JUnit, the summary, JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from edgemobile import cli
from edgemobile.comparison.output import junit_xml, markdown
from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.util.hashing import sha256_hex


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of two layers in both formats, and one whose second weight lost its sign."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("files")
    shapes = {"input": (1, 8, 8, 3), "conv": (1, 4, 4, 5), "pool": (1, 1, 1, 5), "flat": (1, 5), "fc": (1, 4)}
    constants = {"conv.w": (5, 3, 3, 3), "conv.b": (5,), "fc.w": (4, 5), "fc.b": (4,)}
    conv = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "activation": "relu"}
    nodes = (
        Node("conv2d", ("input", "conv.w", "conv.b"), "conv", conv),
        Node("mean", ("conv",), "pool"),
        Node("reshape", ("pool",), "flat"),
        Node("linear", ("flat", "fc.w", "fc.b"), "fc", {"activation": ""}),
    )
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    tensors |= {
        name: Tensor.constant(name, rng.standard_normal(shape).astype(np.float32)) for name, shape in constants.items()
    }
    graph = Graph("two", ("input",), ("fc",), nodes, tensors)
    weight = np.array(tensors["fc.w"].data)
    weight[1, 2] *= -1
    wrong = graph.replaced(tensors=[Tensor.constant("fc.w", weight)])
    for name, form in (("right.onnx", graph), ("right.tflite", graph), ("wrong.tflite", wrong)):
        (folder / name).write_bytes(FORMATS[name.rpartition(".")[2]].load().to_bytes(form, metadata={}))
    (folder / "broken.onnx").write_bytes(b"\x08 not a model")
    (folder / "erf.onnx").write_bytes(_with_erf((folder / "right.onnx").read_bytes()))
    return folder


def _with_erf(data: bytes) -> bytes:
    """A file with Erf behind its last op, which is not recomputed alone."""
    import onnx

    model = onnx.load_from_string(data)
    last = next(node for node in model.graph.node if "fc" in node.output)
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Erf", ["before"], ["fc"]))
    return model.SerializeToString()


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["edgemobile", "parity", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_pass_is_0_and_says_so(files: Path, monkeypatch, capsys) -> None:
    assert _run(monkeypatch, files / "right.onnx", files / "right.tflite", "--layers", "--images", 4) == 0
    shown = capsys.readouterr().out
    assert "pass  right.tflite  litert" in shown
    assert "5 of 5" in shown


def test_a_failure_is_1_and_names_layer_and_cause(files: Path, monkeypatch, capsys) -> None:
    arguments = (files / "right.onnx", files / "right.tflite", files / "wrong.tflite", "--layers", "--images", 4)
    assert _run(monkeypatch, *arguments) == 1
    shown = capsys.readouterr().out
    assert "layer fc (linear) diverges in its constants; likely cause: flipped bit (bit 31 of fc.w[1, 2]" in shown
    assert "pass  right.tflite" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.onnx",), "cannot read"),
        (("broken.onnx",), "ONNX"),
        (("right.tflite", "--min", "snr=3"), "unknown metric 'snr'"),
        (("right.tflite", "--runtime", "tvm"), "no runtime 'tvm'"),
        (("right.tflite", "--images", "0"), "--images must be at least 1"),
        (("right.tflite", "--junit", "no/such/folder.xml"), "the folder no/such does not exist"),
    ],
)
def test_usage_is_2_and_one_line(files: Path, monkeypatch, capsys, arguments: tuple[str, ...], words: str) -> None:
    other, *rest = arguments
    assert _run(monkeypatch, files / "right.onnx", files / other, *rest) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_min_is_the_gate(files: Path, monkeypatch, capsys) -> None:
    arguments = (files / "right.onnx", files / "wrong.tflite", "--images", 4)
    assert _run(monkeypatch, *arguments, "--min", "sqnr=-50,top1_agree=0") == 0
    assert _run(monkeypatch, *arguments, "--min", "kl=0") == 1
    assert "kl_nats" in capsys.readouterr().out


def test_a_file_replaced_meanwhile_is_judged_as_it_was_read(
    files: Path, monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The right file in the place of the wrong one makes it no better."""
    from edgemobile.comparison import observing

    checked, open_isolated = tmp_path / "checked.tflite", observing.open_isolated
    checked.write_bytes((files / "wrong.tflite").read_bytes())

    def replaced(*words: object, **options: object) -> object:
        checked.write_bytes((files / "right.tflite").read_bytes())
        return open_isolated(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(observing, "open_isolated", replaced)
    assert _run(monkeypatch, files / "right.onnx", checked, "--images", 2, "--json") == 1
    (row,) = json.loads(capsys.readouterr().out)["files"]
    assert row["sha256"] == sha256_hex((files / "wrong.tflite").read_bytes())
    assert checked.read_bytes() == (files / "right.tflite").read_bytes()


def test_junit_and_summary_for_a_pipeline(files: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    junit = tmp_path / "out.xml"
    arguments = (files / "right.onnx", files / "right.tflite", files / "wrong.tflite", "--layers", "--images", 4)
    assert _run(monkeypatch, *arguments, "--junit", junit, "--github-summary") == 1
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")
    failed = {(case.get("classname"), case.get("name")) for case in suite if case.find("failure") is not None}
    assert failed == {("wrong.tflite on litert", "outputs"), ("wrong.tflite on litert", "layers")}
    text = summary.read_text()
    assert text.startswith("before\n### Parity with")
    assert "| ✅ |" in text
    assert "**fc**" in text
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    capsys.readouterr()
    _run(monkeypatch, *arguments, "--github-summary")
    assert "### Parity with" in capsys.readouterr().out


def test_what_cannot_be_compared_is_0_and_with_strict_6(files: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    """The outputs hold; the layers are a third verdict, with its reason, in every form."""
    junit, summary = tmp_path / "out.xml", tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    arguments = (files / "erf.onnx", files / "erf.onnx", "--layers", "--images", 4)
    assert _run(monkeypatch, *arguments, "--junit", junit, "--github-summary") == 0
    shown = capsys.readouterr().out
    assert "not compared  erf.onnx  onnxruntime" in shown
    assert "Erf (at fc) has no lowering" in shown
    assert "missed" not in shown
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "0", "1")
    assert "Erf" in str(next(suite.iter("skipped")).get("message"))
    assert "➖" in summary.read_text()
    assert _run(monkeypatch, *arguments, "--strict") == 6
    complete = (files / "right.onnx", files / "right.tflite", "--layers", "--images", 4)
    assert _run(monkeypatch, *complete, "--strict") == 0


def test_a_shortfall_outranks_what_cannot_be_compared(files: Path, monkeypatch, capsys) -> None:
    arguments = (files / "erf.onnx", files / "erf.onnx", files / "wrong.tflite", "--layers", "--images", 4, "--strict")
    assert _run(monkeypatch, *arguments) == 1


def test_an_error_leaves_no_green_junit(files: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    junit = tmp_path / "out.xml"
    assert _run(monkeypatch, files / "right.onnx", files / "right.tflite", "--images", 2, "--junit", junit) == 0
    capsys.readouterr()
    assert _run(monkeypatch, files / "right.onnx", files / "broken.onnx", "--junit", junit, "--json") == 2
    assert "broken.onnx" in json.loads(capsys.readouterr().out)["error"]
    (error,) = ElementTree.parse(junit).getroot().iter("error")
    assert "broken.onnx" in str(error.get("message"))


def test_json_is_json_and_nothing_else(files: Path, monkeypatch, capsys) -> None:
    arguments = (files / "right.onnx", files / "right.onnx", "--layers", "--images", 2, "--json", "--github-summary")
    assert _run(monkeypatch, *arguments) == 0
    report = ParityReport.from_json(capsys.readouterr().out)
    assert report.files[0].metrics["sqnr_db"] == float("inf")
    assert report.passed


def test_hostile_names_stay_text() -> None:
    metrics = dict.fromkeys(("sqnr_db", "max_abs", "cosine", "top1_agree", "kl_nats"), float("nan"))
    evil = 'a|b<script>&"\x00\x1b[31m.onnx'
    file = FileParity(evil, "onnx", "float32", "onnxruntime", "x86_64", metrics, {}, (f"layer {evil} diverges",))
    report = ParityReport(evil, "1 image", (file,))
    root = ElementTree.fromstring(junit_xml(report).partition("\n")[2])
    assert "<script>" in (root[0][-1].find("failure").get("message") or "")  # type: ignore[union-attr]
    assert "<script>" not in markdown(report)
    assert "a|b" not in markdown(report)
