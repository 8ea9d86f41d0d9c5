"""Boards on loopback, and images for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback_sshd import NoSshd
from PIL import Image

pytest.importorskip("distributed")
pytest.importorskip("onnxruntime")

from loopback_boards import LoopbackBoard, Shelf, loopback_boards


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """Starts boards with the given names, and makes them the rows of devices.toml."""
    started = []
    monkeypatch.setenv("EDGEMOBILE_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def start(*names: str, image_s: float = 0.0) -> list[LoopbackBoard]:
        context = loopback_boards(tmp_path / "boards", names, image_s)
        try:
            boards = context.__enter__()
        except NoSshd as reason:
            pytest.skip(str(reason))
        started.append(context)
        (tmp_path / "devices.toml").write_text("\n".join(board.row for board in boards))
        return boards

    yield start
    for context in started:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 images of three classes; of a third of them the class cannot be told, so that an accuracy says something."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir()
        for number in range(80):
            pixels = rng.integers(0, 90, (32, 32, 3))
            pixels[..., 2 - index if number % 3 else rng.integers(3)] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory, colour_model: Callable[..., bytes]) -> Path:
    path = tmp_path_factory.mktemp("models") / "colours.onnx"
    path.write_bytes(colour_model("bgr"))
    return path
