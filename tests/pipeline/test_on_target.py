"""Files are checked as their target computes them, also on a machine that would not, and everybody is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgemobile.accuracy.classifier import ClassifierOptions, open_classifier
from edgemobile.comparison.report import FileParity
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.devices.host import saturation
from edgemobile.model_file.metadata import TARGET
from edgemobile.pipeline.export import export
from edgemobile.pipeline.request import ExportRequest, ExportResult
from edgemobile.quant.targets import TARGETS

_NOTE = "v2-int8.onnx is for arm; onnxruntime on this CPU saturates sums of int8 products"
_PX = 32


def _exported(out: Path, target: str) -> ExportResult:
    return export(
        ExportRequest(
            "v2",
            out,
            weights="random",
            width=0.35,
            res=_PX,
            formats=("onnx",),
            precisions=("float32", "int8"),
            calib_images=8,
            check_images=8,
            target=target,
        )
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same integers for two targets, exported on whatever machine this is."""
    folder = tmp_path_factory.mktemp("exports")
    for target in ("arm", "cpu"):
        _exported(folder / target, target)
    return {target: folder / target for target in ("arm", "cpu")}


def _int8_metrics(folder: Path) -> dict[str, float]:
    (file,) = (file for file in _manifest(folder)["files"] if file["precision"] == "int8")
    return file["metrics"]


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def _parity(*files: Path) -> tuple[FileParity, ...]:
    options = {"weights": "random", "width": 0.35, "images": 4, "layers": True}
    return parity(ParityRequest("v2", tuple(map(str, files)), **options)).files  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [name for name, row in TARGETS.items() if row.needs_exact_sums])
def test_an_export_is_checked_as_its_target_computes_it(
    saturating_host: None, folders: dict[str, Path], tmp_path: Path, target: str
) -> None:
    result = _exported(tmp_path / "out", target)
    float32, int8 = result.files
    assert (float32.config, float32.metrics_here) == ({}, None)
    assert int8.config == {"session.x64quantprecision": "1"}
    assert int8.verdict.metrics == _int8_metrics(folders["cpu"])
    assert int8.max_lsb is not None
    assert int8.max_lsb <= 2
    assert int8.metrics_here is not None
    assert int8.metrics_here["cosine"] == pytest.approx(-int8.verdict.metrics["cosine"])
    here = int8.metrics_here["sqnr_db"], int8.metrics_here["top1_agree"]
    (note,) = (note for note in result.notes if "saturates" in note)
    assert (
        f"as on {target}; with saturating sums, it has {here[0]:.1f} dB and {here[1]:.1%} of PyTorch's answers" in note
    )
    assert note.endswith("For this CPU export with --target cpu")
    manifest = _manifest(tmp_path / "out")
    assert note in manifest["notes"]
    assert manifest["files"][1]["config"] == int8.config
    assert manifest["files"][1]["metrics_here"] == int8.metrics_here


def test_an_export_for_every_cpu_is_checked_as_it_is(saturating_host: None, tmp_path: Path) -> None:
    result = _exported(tmp_path / "out", "cpu")
    assert not any(file.config or file.metrics_here for file in result.files)
    assert not any("saturates" in note for note in result.notes)


def test_parity_is_that_of_the_target_and_says_what_this_machine_computes(
    saturating_host: None, folders: dict[str, Path]
) -> None:
    arm, cpu = _parity(*(folders[target] / "v2-int8.onnx" for target in ("arm", "cpu")))
    assert arm.metrics == cpu.metrics
    assert arm.layers == cpu.layers
    assert len(arm.layers) > 30
    (note,) = (note for note in arm.notes if "saturates" in note)
    assert note.startswith(_NOTE)
    assert re.search(r"with saturating sums, it has -\d+\.\d dB and \d+\.\d% of the reference's answers", note)
    assert not any("saturates" in note for note in cpu.notes)


def test_a_file_that_names_no_target_is_run_as_this_machine_does(
    saturating_host: None, folders: dict[str, Path], tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(folders["arm"] / "v2-int8.onnx")
    for entry in model.metadata_props:
        if entry.key == TARGET:
            entry.key, entry.value = "int8 weights", "1"
    path = tmp_path / "theirs.onnx"
    onnx.save(model, path)
    theirs, ours = _parity(path, folders["arm"] / "v2-int8.onnx")
    assert theirs.metrics["cosine"] == pytest.approx(-ours.metrics["cosine"])
    assert theirs.metrics["sqnr_db"] < 0


def test_accuracy_is_that_of_the_target(saturating_host: None, folders: dict[str, Path]) -> None:
    path = str(folders["arm"] / "v2-int8.onnx")
    here, device = (open_classifier(path, ClassifierOptions(on_target=on_target)) for on_target in (True, False))
    images = np.random.default_rng(0).standard_normal((2, _PX, _PX, 3)).astype(np.float32)
    np.testing.assert_array_equal(here.scores(images), -device.scores(images))
    assert [note.startswith(_NOTE) for note in here.notes if "saturates" in note] == [True]
    assert not any("saturates" in note for note in device.notes)


def test_a_machine_that_needs_exact_sums_has_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]
) -> None:
    monkeypatch.setattr(saturation, "saturates_here", lambda: False)
    path = folders["arm"] / "v2-int8.onnx"
    (file,) = _parity(path)
    assert not any(
        "saturates" in note for note in (*file.notes, *open_classifier(str(path), ClassifierOptions()).notes)
    )
