"""benchmarks/third_party_nets.py: its three parts of the images, and the columns of its table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgemobile.preprocess import IMAGENET, at_resolution

for _extra in ("torch", "onnx", "onnxruntime", "ai_edge_litert"):
    pytest.importorskip(_extra)


@pytest.fixture
def script(repo_root: Path, load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(repo_root / "benchmarks")
    return load_script("benchmarks/third_party_nets.py")


def test_no_image_is_in_two_parts(script: ModuleType, tmp_path: Path) -> None:
    for shade in range(30):
        folder = tmp_path / "images" / str(shade % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (8 * shade,) * 3).save(folder / f"{shade}.png")
    model = SimpleNamespace(preprocess=at_resolution(IMAGENET, 8), labels=None, classes=2)
    net = script.Net("", "")

    def part(*, choose: bool) -> object:
        options = argparse.Namespace(
            images=tmp_path / "images", calib_images=10, choosing_images=5, report_images=15, choose=choose
        )
        return script.split(net, model, options)

    reporting, choosing = part(choose=False), part(choose=True)
    assert (len(reporting.calibration), len(reporting.check), len(choosing.check)) == (10, 15, 5)
    shades = [float(image[0, 0, 0]) for image in (*reporting.calibration, *reporting.check, *choosing.check)]
    assert len(set(shades)) == 30
    assert np.array_equal(reporting.calibration, choosing.calibration)
    assert len(reporting.labels) == 15


def test_a_row_has_the_interval_of_the_agreement_and_of_the_paired_drop(script: ModuleType) -> None:
    reference = np.eye(2, dtype=np.float32)[np.zeros(100, int)]
    other = np.eye(2, dtype=np.float32)[np.array([1, 1, 1, 1] + [0] * 96)]
    labels = np.array([0, 0, 0, 1] + [0] * 96)
    _, same, drop = script.columns(other, reference, labels).split(" | ")
    assert same == "96.00% (90.2% to 98.4%)"
    # Three images are lost and one is gained: 2 points, variance (4 - 100 * 0.02^2) / 100.
    assert drop == "2.00 ± 3.90"
    assert script.columns(other, reference, None).endswith("| ")
