"""`edgemobile verify`, and the commands that take the folder of an export."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(tmp_path: Path, colour_model: Callable[..., bytes]) -> Path:
    """An export of two models, one of which takes red for green."""
    folder = tmp_path / "net"
    folder.mkdir()
    files = {"right.onnx": colour_model("bgr"), "swapped.onnx": colour_model("brg")}
    entries = []
    for name, data in files.items():
        (folder / name).write_bytes(data)
        entries.append({"file": name, "format": "onnx", "bytes": len(data), "sha256": sha256(data).hexdigest()})
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "edgemobile": "0.1.0", "files": entries}))
    return folder


def test_verify(edgemobile: Callable, folder: Path) -> None:
    ran = edgemobile("verify", "net")
    assert (ran.code, ran.out) == (0, "net: 2 of 2 files are unchanged\n")
    (folder / "right.onnx").write_bytes(b"")
    (folder / "swapped.onnx").unlink()
    (folder / "[notes].txt").touch()
    ran = edgemobile("verify", "net")
    assert ran.code == 1
    assert ran.out.splitlines()[1:] == [
        "missing: swapped.onnx",
        "extra: [notes].txt",
        "net: 0 of 2 files are unchanged",
    ]
    assert ran.out.startswith("changed: right.onnx has sha256 e3b0c44298fc, not ")
    ran = edgemobile("verify", "net", "--json")
    found = json.loads(ran.out)
    assert ran.code == 1
    assert not found["passed"]
    assert found["changed"][0]["bytes"] == 0
    assert (found["missing"], found["extra"]) == (["swapped.onnx"], ["[notes].txt"])


def test_verify_of_what_is_no_export(edgemobile: Callable, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        ran = edgemobile("verify", path)
        assert ran.code == 2
        assert "is not the folder of an export" in ran.err
        assert ran.err.count("\n") == 1


def test_eval_takes_the_folder(edgemobile: Callable, folder: Path, colour_photos: Path) -> None:
    ran = edgemobile("eval", "net", "--data", colour_photos, "--json")
    found = json.loads(ran.out)
    assert {Path(file["file"]).name: file["correct"] for file in found["files"]} == {
        "right.onnx": 18,
        "swapped.onnx": 6,
    }


def test_bench_takes_the_folder(edgemobile: Callable, folder: Path) -> None:
    ran = edgemobile("bench", "net", "--runs", "5", "--json", "--processes", "1")
    (run,) = json.loads(ran.out)["runs"]
    assert [Path(case["file"]).name for case in run["cases"]] == ["right.onnx", "swapped.onnx"]
    ran = edgemobile("bench", "net", "--runtime", "litert")
    assert ran.code == 2
    assert "net has no file in tflite; it has right.onnx, swapped.onnx" in ran.err


def test_parity_takes_the_folder(edgemobile: Callable, folder: Path) -> None:
    ran = edgemobile("parity", "net/right.onnx", "net/", "--json", "--images", "4")
    assert [Path(file["file"]).name for file in json.loads(ran.out)["files"]] == ["right.onnx", "swapped.onnx"]


@pytest.mark.parametrize("command", [("eval", "--data", "photos"), ("bench",), ("parity", "net/right.onnx")])
def test_a_changed_file_is_refused(edgemobile: Callable, folder: Path, command: tuple[str, ...]) -> None:
    (folder / "swapped.onnx").write_bytes(b"")
    ran = edgemobile(*command, "net/")
    assert ran.code == 2
    assert "net does not match its manifest.json: swapped.onnx has sha256 e3b0c44298fc" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [("predict", "net/", "photo.png"), ("inspect", "net"), ("snippet", "net", "--lang", "cpp")]
)
def test_commands_of_one_file_name_the_folders_files(
    edgemobile: Callable, folder: Path, command: tuple[str, ...]
) -> None:
    ran = edgemobile(*command)
    assert ran.code == 2
    assert "has 2 model files. Choose one of them: net/right.onnx, net/swapped.onnx" in ran.err
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": manifest["files"][:1]}))
    Image.new("RGB", (32, 32), (10, 200, 10)).save("photo.png")
    ran = edgemobile(*command)
    assert ran.code == 0, ran.err
    assert "right.onnx" in ran.out
