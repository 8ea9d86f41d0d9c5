"""A model file takes the road of a model in PyTorch, and is itself what the files are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from drifts import Net, make_net

from edgemobile.api import export as export_from_python
from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import CHECK_IMAGES
from edgemobile.pipeline.export import export, ranking
from edgemobile.pipeline.request import ExportRequest, default_out


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    """Its files state their preprocessing."""
    return make_net(tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize("name", ["float32.onnx", "float32.tflite"])
def test_a_file_is_exported_to_the_same_integers_in_both_formats(net: Net, tmp_path: Path, name: str) -> None:
    request = ExportRequest(
        str(net.folder / name),
        tmp_path / "out",
        precisions=("float32", "int8"),
        calib=CHECK_IMAGES,
        calib_images=16,
        check_images=8,
    )
    result = export(request)
    checked = {file.entry.file: file for file in result.files}
    assert set(checked) == {
        f"float32-{precision}.{format}" for precision in ("float32", "int8") for format in ("onnx", "tflite")
    }
    for file, found in checked.items():
        if found.entry.precision == "float32":
            assert found.verdict.passed, file
            assert found.entry.hswish == f"{net.graph.op_counts()['hardswish']} fused", file
        else:
            assert found.max_lsb is not None, file
            assert found.max_lsb <= 1, file
            assert "HARD_SWISH" not in found.entry.ops
    assert result.reference == name
    facts = json.loads((request.out / "manifest.json").read_text(encoding="utf-8"))
    assert facts["model"]["file"] == str(net.folder / name)
    assert facts["weights"]["source"] == name
    assert f"comparison of each file with\n{name}" in (request.out / "README.md").read_text(encoding="utf-8")


def test_int8_of_a_file_needs_images(net: Net, tmp_path: Path) -> None:
    request = ExportRequest(str(net.folder / "float32.onnx"), tmp_path / "out", precisions=("int8",))
    with pytest.raises(EdgemobileError, match=r"no batch-norm statistics to synthesize .* --calib DIR\|ZIP"):
        export(request)
    assert not request.out.exists()


def test_float_of_a_file_needs_none(net: Net, tmp_path: Path) -> None:
    made = export_from_python(net.folder / "int8.tflite", out=tmp_path / "out", to="onnx")
    assert [file.entry.file for file in made.files] == ["int8-float32.onnx"]
    assert any("is quantized (int8)" in note for note in made.notes)


def test_its_tensors_are_ranked(net: Net, tmp_path: Path) -> None:
    request = ExportRequest(
        str(net.folder / "float32.tflite"), tmp_path, precisions=("int8",), calib=CHECK_IMAGES, calib_images=8
    )
    costs = ranking(request)
    assert {cost.tensor.partition(".x")[0] for cost in costs} >= {net.graph.outputs[0]}


def test_torchs_exporter_is_refused(net: Net, tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="--backend torch is for models in PyTorch"):
        ExportRequest(str(net.folder / "float32.onnx"), tmp_path, backend="torch")


def test_its_folder_has_its_name() -> None:
    assert default_out("models/theirs.tflite") == Path("theirs")
