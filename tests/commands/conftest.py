"""The command line as a user meets it: exit code, standard output, standard error; and a small set of photos."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from edgemobile import cli


class Ran:
    """One run of the command line: exit code, standard output, standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def edgemobile(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["edgemobile", *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return Ran(int(exit_.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A zip of three classes, two splits, one broken image: soft blots of colour."""
    rng = np.random.default_rng(0)
    path = tmp_path / "photos.zip"
    with ZipFile(path, "w") as archive:
        for split, count in (("train", 6), ("test", 4)):
            for name in ("airplane", "cat", "truck"):
                for index in range(count):
                    blots = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((32, 40))
                    with archive.open(f"{split}/{name}/{index}.png", "w") as file:
                        blots.save(file, "png")
        archive.writestr("test/cat/broken.png", b"not a picture")
    return path
