"""predict.py of an export computes what `edgemobile predict` does, without it; README.md tells the next steps."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemobile import pixels
from edgemobile.commands.predict import predict
from edgemobile.pipeline.other_files import predict_source


@pytest.fixture(scope="module", params=["normalised outside", "normalised inside"])
def export(request: pytest.FixtureRequest, bundled_export: Callable[[str], Path]) -> Path:
    return bundled_export(request.param)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, sideways: Image.Image) -> list[Path]:
    """Photos of several sizes, modes and formats; one is turned, one grey of 16 bits, one the size of the input."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)

    def blots(height: int, width: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (5, 4, 3), np.uint8)).resize((width, height))

    made = {
        "wide.jpg": blots(120, 333),
        "high.png": blots(301, 97),
        "small.bmp": blots(96, 96),
        "palette.gif": blots(64, 50).convert("P"),
        "alpha.png": blots(80, 81).convert("RGBA"),
        "grey16.png": Image.fromarray(rng.integers(0, 65535, (70, 60), np.uint16)),
    }
    for name, image in made.items():
        image.save(folder / name)
    sideways.save(folder / "turned.jpg", exif=sideways.getexif())
    return sorted(folder.iterdir())


def run_predict(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """predict.py in a Python where edgemobile cannot be imported."""
    code = (
        "import runpy, sys; sys.modules['edgemobile'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, folder / "predict.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_a_reader_that_closes_the_pipe_sees_no_traceback(export: Path, closed_pipe: int) -> None:
    command = [sys.executable, export / "predict.py", export / "v3-small-int8.tflite", export / "sample.png"]
    ran = subprocess.run(command, stdout=closed_pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 141
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("file", ["int8.tflite", "int8.onnx", "float32.tflite", "float32.onnx"])
def test_it_computes_what_edgemobile_predict_does(
    export: Path, images: list[Path], capsys: pytest.CaptureFixture[str], file: str
) -> None:
    path = export / f"v3-small-{file}"
    ran = run_predict(export, path, *images, "--json")
    assert ran.returncode == 0, ran.stderr
    assert predict.main(list(map(str, (path, *images, "--json"))), standalone_mode=False) == 0
    expected = json.loads(capsys.readouterr().out)
    found = json.loads(ran.stdout)
    assert found["images"] == expected["images"]
    assert len({one["top"][0]["label"] for one in found["images"]}) > 1
    assert all(len(one["top"]) == 5 for one in found["images"])


def test_the_readme_says_what_it_prints(export: Path) -> None:
    page = (export / "README.md").read_text()
    command, expected = re.findall(r"^ {7}python (predict.py .* sample.png)\n\n.*?:\n\n(.*?)\n\n", page, re.M | re.S)[0]
    assert command == "predict.py v3-small-int8.tflite sample.png"
    ran = subprocess.run([sys.executable, *command.split()], cwd=export, capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("v3-small-int8.tflite  ai_edge_litert 2.")
    assert [line[7:] for line in expected.splitlines()] == lines[2:]
    assert f"scp -r '{export.name}' pi@" in page
    assert "pip install numpy Pillow ai-edge-litert" in page
    for line in re.findall(r"^\| `v3-small-.*$", page, re.M):
        name, _, _, answer = (cell.strip() for cell in line.strip("|").split("|"))
        printed = run_predict(export, export / name.strip("`"), export / "sample.png", "--top", "1").stdout
        label, share = answer.rsplit(", ", 1)
        assert f"{share}  {label}\n" in printed


def test_labels_beside_the_file_and_none(export: Path, tmp_path: Path) -> None:
    """A file that says no labels takes labels.txt of as many lines, else numbers."""
    model = export / "v3-small-int8.tflite"
    data = model.read_bytes()
    assert data.count(b"edgemobile.labels") == 1
    (tmp_path / "net.tflite").write_bytes(data.replace(b"edgemobile.labels", b"edgemobile.lobels"))

    def best() -> str:
        ran = run_predict(export, tmp_path / "net.tflite", export / "sample.png", "--top", "1", "--json")
        return json.loads(ran.stdout)["images"][0]["top"][0]["label"]

    assert best() == "class 0"
    (tmp_path / "labels.txt").write_text("".join(f"kind {i}\x1b\n" for i in range(10)))
    assert best() == "kind 0?"
    (tmp_path / "labels.txt").write_text("kind\n")
    assert best() == "class 0"


def test_bad_input_is_one_line(export: Path, tmp_path: Path) -> None:
    model = export / "v3-small-float32.onnx"
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.tflite").write_bytes((export / "v3-small-int8.tflite").read_bytes()[:3000])
    (tmp_path / "net.onnx").write_bytes(
        model.read_bytes().replace(b"edgemobile.preprocess", b"edgemobile.postprocess"[:21])
    )
    for words, said, code in (
        ((tmp_path / "absent.onnx", "a.png"), "cannot read", 2),
        ((tmp_path / "text.png", "a.png"), "cannot open", 2),
        ((tmp_path / "cut.tflite", "a.png"), "cannot open", 2),
        ((tmp_path / "net.onnx", "a.png"), "does not contain its preprocessing", 2),
        ((model, tmp_path / "text.png"), "text.png: it is not an image, or is damaged", 2),
        ((model, tmp_path / "absent.png"), "absent.png: No such file or directory", 2),
    ):
        ran = run_predict(export, *words)
        assert ran.returncode == code
        assert said in ran.stderr
        assert "Traceback" not in ran.stderr
    ran = run_predict(export, model, tmp_path / "text.png", export / "sample.png")
    assert ran.returncode == 2
    assert "airplane" in ran.stdout


@pytest.mark.parametrize(
    ("missing", "file", "said"),
    [
        ("PIL", "v3-small-int8.tflite", "error: PIL is not installed. Run: pip install numpy Pillow"),
        ("onnxruntime", "v3-small-int8.onnx", "error: onnxruntime is not installed. Run: pip install onnxruntime"),
        ("ai_edge_litert", "v3-small-int8.tflite", "error: ai-edge-litert is not installed. Run: pip install ai-edge"),
    ],
)
def test_what_is_not_installed(
    export: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
    file: str,
    said: str,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(export / file), str(export / "sample.png")])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(export / "predict.py"), run_name="__main__")
    assert said in capsys.readouterr().err + str(exit_.value.code)
    assert exit_.value.code not in (0, None)


def test_the_manifest_knows_every_file(export: Path) -> None:
    from edgemobile.pipeline.folder import verify

    found = verify(export)
    assert found.passed
    assert not found.extra
    assert {one.file for one in found.intact} >= {"predict.py", "README.md", "sample.png", "labels.txt"}


def test_it_is_python_3_9_with_numpy_and_pillow() -> None:
    tree = ast.parse(predict_source(), feature_version=(3, 9))
    found = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert tops == {"numpy", "PIL", "onnxruntime"}
    assert "strict" not in {word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
    unions = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)]
    assert not [node for node in unions if isinstance(node.value.op, ast.BitOr)]


def test_it_holds_the_arithmetic_of_pixels(load_code: Callable[[str], dict[str, Any]]) -> None:
    copied = load_code(predict_source())
    image = np.random.default_rng(0).integers(0, 255, (33, 45, 3), np.uint8)
    for asked in (("exact", "bilinear", False), ("shorter", "bicubic", False), ("shorter", "nearest", True)):
        assert np.array_equal(copied["resize"](image, 20, *asked), pixels.resize(image, 20, *asked))


@pytest.fixture
def load_code() -> Callable[[str], dict[str, Any]]:
    def load(text: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "predict"}
        exec(compile(text, "predict.py", "exec"), names)
        return names

    return load


@pytest.mark.parametrize("format_name", ["onnx", "tflite"])
def test_of_a_detector_it_prints_what_predict_prints(
    format_name: str, tmp_path: Path, load_code: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from click.testing import CliRunner
    from colour_detector import colour_detector, painted
    from PIL import Image

    from edgemobile.cli import cli

    path, picture = tmp_path / f"detector.{format_name}", tmp_path / "cells.png"
    path.write_bytes(colour_detector(format_name))
    Image.fromarray(painted((1, 2, "red"), (3, 0, "green"))).resize((96, 64)).save(picture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["predict.py", str(path), str(picture), "--json", "--top", "3"])
        assert load_code(predict_source())["main"]() == 0
        found = json.loads(capsys.readouterr().out)["images"]
        patch.setattr(sys, "argv", ["predict.py", str(path), str(picture), "--top", "1"])
        assert load_code(predict_source())["main"]() == 0
    assert capsys.readouterr().out.count("%") == 1
    shown = CliRunner().invoke(cli, ["predict", str(path), str(picture), "--json", "--top", "3"])
    wanted = json.loads(shown.stdout)["images"]
    assert len(wanted[0]["boxes"]) >= 2
    for one, other in zip(found[0]["boxes"], wanted[0]["boxes"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
