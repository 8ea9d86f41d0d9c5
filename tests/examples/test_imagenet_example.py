"""The script that measures int8 on ImageNet: which images it counts, and what its table says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from edgemobile.images.samples import from_dataset
from edgemobile.preprocess import CIFAR10


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("examples/imagenet_accuracy.py")


def _pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")


def test_the_images_of_calibration_are_not_counted(script: ModuleType, tmp_path: Path) -> None:
    _pictures(tmp_path / "set" / "0", 20)
    _pictures(tmp_path / "set" / "1", 20)
    options = script.parse(["--data", str(tmp_path / "set"), "--out", str(tmp_path), "--calib-images", "12"])
    held = script.calibration_images(options)
    used = from_dataset(options.data, CIFAR10, None, calibration=12, check=5, seed=0, outputs=2).calibration
    dataset = script.open_dataset(options.data)
    wanted, _ = dataset.load_batch([dataset.names.index(name) for name in held], CIFAR10)
    assert len(held) == 12
    assert sorted(image.tobytes() for image in used) == sorted(image.tobytes() for image in wanted)


def test_a_set_with_train_counts_all_of_val(script: ModuleType, tmp_path: Path) -> None:
    _pictures(tmp_path / "set" / "train" / "0", 3)
    _pictures(tmp_path / "set" / "val" / "0", 3)
    options = script.parse(["--data", str(tmp_path / "set"), "--out", str(tmp_path)])
    assert script.calibration_images(options) == set()


def test_a_loss_is_compared_image_by_image(script: ModuleType) -> None:
    right = np.ones(400, bool)
    int8 = right.copy()
    int8[:4] = False
    float_row, int8_row = script.rows("v2", [script.Counted("float", right), script.Counted("int8", int8)])
    assert float_row[:4] == ["v2", "float", "400", "100.00%"]
    # The deviation of 4 losses in 400: sqrt(0.01 - 0.0001) / 20 = 0.4975 points, times 1.96.
    assert int8_row[5:] == ["1.00", "0.02 to 1.98"]


def test_published_figures_stand_below_their_net(script: ModuleType) -> None:
    (row,) = script.published_rows("v3-small")
    assert row[1:4] == ["NNCF, post-training (published)", "50,000", "66.81%"]
    assert row[5] == "0.85"
    assert list(script.published_rows("nonesuch")) == []


def test_wrong_input_is_one_line(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = script.main(["--data", str(tmp_path / "none"), "--nets", "v2=none.pth", "--out", str(tmp_path / "out")])
    assert code == 2
    assert capsys.readouterr().err.startswith("error: ")
