"""A file that cannot be run has a row with the reason, is neither a pass nor a miss, and the others are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper

from edgemobile.comparison.output import junit_xml, markdown
from edgemobile.comparison.report import ParityReport
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.errors import EdgemobileError
from edgemobile.gate.checks import Outcome
from edgemobile.gate.judge import parities

BROKEN = "torn.onnx", "two.onnx", "reshape.onnx", "grey.onnx"


def _graph(node: Any, outputs: list[str], shape: list[Any], *others: str) -> bytes:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", *others)]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    nodes = [helper.make_node("Constant", [], ["fixed"], value_ints=[1, 7]), node]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, given), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


@pytest.fixture
def files(tmp_path: Path, colour_model: Callable[..., bytes]) -> Path:
    """Two correct files, one that swaps red and green, and BROKEN: four that cannot be compared."""
    reshape = helper.make_node("Reshape", ["image", "fixed"], ["y"])
    contents = {
        "right.onnx": colour_model("bgr"),
        "also.onnx": colour_model("bgr"),
        "swapped.onnx": colour_model("brg"),
        "torn.onnx": colour_model("bgr")[:300],
        "two.onnx": _graph(helper.make_node("Sum", ["image", "sizes"], ["y"]), ["y"], [1, 3, 32, 32], "sizes"),
        # Opens, and then fails: no image has 7 numbers.
        "reshape.onnx": _graph(reshape, ["y"], [1, 3, 32, 32]),
        "grey.onnx": _graph(helper.make_node("Flatten", ["image"], ["y"]), ["y"], [1, 1, 32, 32]),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def _report(folder: Path, *names: str) -> ParityReport:
    return parity(ParityRequest(str(folder / "right.onnx"), tuple(str(folder / name) for name in names), images=2))


def test_the_others_are_judged(files: Path) -> None:
    report = _report(files, "torn.onnx", "also.onnx", "two.onnx", "reshape.onnx", "grey.onnx")
    assert [Path(file.file).name for file in report.files] == [BROKEN[0], "also.onnx", *BROKEN[1:]]
    assert [file.verdict for file in report.files] == ["refused", "pass", "refused", "refused", "refused"]
    torn, _, two, reshape, grey = (file.refused for file in report.files)
    assert "does not parse" in torn
    assert two == "it has 2 inputs (image, sizes). Supported: one; remove the others"
    assert "onnxruntime cannot run" in reshape
    assert "has one grey channel" in grey
    assert not any("\n" in file.refused or file.missed for file in report.files)
    assert (report.passed, report.exit_code) == (False, 2)
    assert ParityReport.from_json(json.dumps(report.to_json())).exit_code == 2


@pytest.mark.parametrize(
    ("names", "code"),
    [(["also.onnx"], 0), (["swapped.onnx"], 1), (["swapped.onnx", "torn.onnx"], 2), (["also.onnx", "two.onnx"], 2)],
)
def test_only_a_miss_exits_with_1(files: Path, names: list[str], code: int) -> None:
    assert _report(files, *names).exit_code == code


@pytest.mark.parametrize("name", BROKEN)
def test_alone_it_is_the_error_of_the_command(files: Path, name: str) -> None:
    with pytest.raises(EdgemobileError):
        _report(files, name)
    with pytest.raises(EdgemobileError):
        parity(ParityRequest(str(files / name), (str(files / "right.onnx"),)))


def test_every_form_of_the_report_has_the_refused_file(files: Path) -> None:
    report = _report(files, "also.onnx", "two.onnx")
    assert 'errors="1"' in junit_xml(report)
    assert "has 2 inputs" in junit_xml(report)
    assert "| refused |" in markdown(report)
    assert "- it has 2 inputs" in markdown(report)
    assert "has 2 inputs" in str(report)


def test_the_gate_calls_it_an_error(files: Path) -> None:
    class _Model:
        class entry:
            name = "net"

    checks = parities(_Model(), _report(files, "also.onnx", "two.onnx"), kept=False)  # type: ignore[arg-type]
    assert [check.outcome for check in checks] == [Outcome.PASSED, Outcome.WRONG]
    assert checks[1].words[0].startswith("it has 2 inputs")


def test_faint_outputs_are_noted(files: Path, colour_model: Callable[..., bytes]) -> None:
    (files / "faint.onnx").write_bytes(colour_model("bgr", gain=1e-10))
    report = parity(ParityRequest(str(files / "faint.onnx"), (str(files / "faint.onnx"),), images=2))
    assert "only just initialised: load weights" in report.notes[-1]
    assert not any("initialised" in note for note in _report(files, "also.onnx").notes)
    assert np.isinf(report.files[0].metrics["sqnr_db"])


@pytest.mark.parametrize(
    ("shape", "said"),
    [([1, "n"], r"its input is float32 \[1, N\], which is"), ([1, 3, 8, 16], "its input is 8 x 16 px")],
)
def test_a_reference_that_takes_no_square_image_is_refused_by_name(tmp_path: Path, shape: list[Any], said: str) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(_graph(helper.make_node("Flatten", ["image"], ["y"]), ["y"], shape))
    with pytest.raises(EdgemobileError, match=rf"odd\.onnx: {said}"):
        parity(ParityRequest(str(path), (str(path),)))
