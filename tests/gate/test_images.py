"""The images of the gate: the same on every machine, and so many that one answer has little weight."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.gate import measured as module
from edgemobile.gate.config import GateConfig
from edgemobile.gate.load import load_gate
from edgemobile.images.dataset import open_dataset
from edgemobile.loading.checkpoint import CHECK_IMAGES, bundled
from edgemobile.util.config_file import read_config


def _load(folder: Path, text: str) -> GateConfig:
    (folder / "edgemobile.toml").write_text(text)
    return load_gate(read_config(folder / "edgemobile.toml"))


@pytest.mark.parametrize(
    ("text", "images", "count"),
    [
        ("", CHECK_IMAGES, 64),
        ('weights = "bundled"', CHECK_IMAGES, 64),
        ('weights = "random"', None, 32),
        ('weights = "mine.pth"', None, 32),
        ('calib = "photos"', "photos", 64),
        ('weights = "mine.pth"\ncalib = "photos"', "photos", 64),
    ],
)
def test_what_files_are_compared_on(tmp_path: Path, text: str, images: str | Path | None, count: int) -> None:
    config = _load(tmp_path, f"[models.v2]\n{text}\n")
    (entry,) = config.models
    expected = images if images is None else tmp_path / images
    assert (module._compared_on(entry), module._count(entry, config)) == (expected, count)
    config = _load(tmp_path, f"[gate]\nimages = 5\n[models.v2]\n{text}\n")
    assert module._count(config.models[0], config) == 5


def test_every_net_of_the_package_is_sure_of_the_images_in_it() -> None:
    """The answer for an image on the border between two classes would depend on the machine, not on the file."""
    torch = pytest.importorskip("torch")
    from edgemobile.loading.checkpoint import build, load_weights
    from edgemobile.models.arch import get_arch

    dataset = open_dataset(CHECK_IMAGES)
    assert len(dataset) > 64
    assert dataset.labels is not None
    for name in bundled():
        weights = load_weights("bundled", get_arch(name))
        assert weights.preprocess is not None
        assert weights.labels is not None
        images, skipped = dataset.load_batch(range(len(dataset)), weights.preprocess)
        assert not skipped
        _, net = build(get_arch(name), weights)
        with torch.no_grad():
            shares = net(torch.from_numpy(images.transpose(0, 3, 1, 2))).softmax(-1).numpy()
        assert [weights.labels[index] for index in shares.argmax(-1)] == [dataset.classes[i] for i in dataset.labels]
        assert shares.max(-1).min() > 0.5, name
