"""A model of one's own: from a factory in the working directory, or a saved program that runs nothing but the model."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.loading.own_model import load_factory, load_program

SOURCE = """
import torch
from torch import nn

def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout())

def make_list():
    return [nn.Linear(2, 2)]

def make_error():
    raise ValueError("two\\nlines")

def make_with(classes):
    return nn.Linear(2, classes)

a_net = nn.Linear(2, 2)
a_number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with my_models.py in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models.py").write_text(SOURCE)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["make_net", "a_net"])
def test_a_factory_or_a_net(here: Path, name: str) -> None:
    path = list(sys.path)
    net = load_factory(f"my_models:{name}")
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("my_models", "package.module:factory"),
        ("my_models:", "package.module:factory"),
        (":make_net", "package.module:factory"),
        ("my-models:make_net", "package.module:factory"),
        ("no_such_module_here:f", "cannot import no_such_module_here"),
        ("..my_models:make_net", "cannot import"),
        ("my_models:nothing", "has no 'nothing'"),
        ("my_models:make_list", "type list, not a torch.nn.Module"),
        ("my_models:make_error", "ValueError: two"),
        ("my_models:make_with", "without arguments"),
        ("my_models:a_number", "without arguments"),
    ],
)
def test_what_gives_no_net_is_one_line(here: Path, spec: str, says: str) -> None:
    with pytest.raises(Unsupported, match=says) as caught:
        load_factory(spec)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_says_why(here: Path) -> None:
    (here / "broken_models.py").write_text("def f(:\n")
    with pytest.raises(Unsupported, match="SyntaxError"):
        load_factory("broken_models:f")


@pytest.mark.parametrize(
    ("source", "step"),
    [
        (
            "import argparse\nargparse.ArgumentParser().parse_args(['--no-such-thing'])\ndef f(): ...\n",
            "importing train",
        ),
        ("def f(): raise SystemExit(2)\n", "calling train:f"),
    ],
)
def test_a_script_that_leaves_does_not_take_the_command_with_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, source: str, step: str
) -> None:
    monkeypatch.delitem(sys.modules, "train", raising=False)
    (here / "train.py").write_text(source)
    with pytest.raises(Unsupported, match=f"^{step} exited the program; guard the script part with if __name__"):
        load_factory("train:f")


@pytest.fixture(scope="module")
def program_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), path)
    return path


def test_a_saved_program_loads(program_file: Path) -> None:
    program, digest = load_program(program_file)
    assert digest == hashlib.sha256(program_file.read_bytes()).hexdigest()
    assert program.module()(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 6, 6)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


class Hostile:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"mkdir {self.folder}",)


def test_a_pickle_inside_a_program_does_not_run(program_file: Path, tmp_path: Path) -> None:
    """torch.export.load alone falls back to weights_only=False: without the guard, this makes the folder."""
    trace, hostile = tmp_path / "it-ran", tmp_path / "hostile.pt2"
    torch.save(Hostile(trace), tmp_path / "bomb.pt")
    replaced = 0
    with zipfile.ZipFile(program_file) as good, zipfile.ZipFile(hostile, "w") as bad:
        for info in good.infolist():
            bomb = "sample_inputs" in info.filename and info.file_size > 0
            bad.writestr(info.filename, (tmp_path / "bomb.pt").read_bytes() if bomb else good.read(info))
            replaced += bomb
    assert replaced == 1
    with pytest.raises(EdgemobileError, match=r"it contains \w+\.system"):
        load_program(hostile)
    assert not trace.exists()


@pytest.mark.parametrize(
    "member",
    ["data/aotinductor/model/x.so", "data/constants/opaque_obj_0", "data/constants/custom_obj_0"],
)
def test_a_program_that_carries_code_is_refused(member: str, program_file: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.pt2"
    shutil.copy(program_file, hostile)
    with zipfile.ZipFile(hostile, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/{member}", b"")
    with pytest.raises(EdgemobileError, match="would run code"):
        load_program(hostile)


@pytest.mark.parametrize("kept", [0, 20, 0.5])
def test_a_truncated_program_is_refused(kept: float, program_file: Path, tmp_path: Path) -> None:
    data = program_file.read_bytes()
    (tmp_path / "w.pt2").write_bytes(data[: int(kept * len(data)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(EdgemobileError, match="cannot read") as caught:
        load_program(tmp_path / "w.pt2")
    assert "\n" not in str(caught.value)


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="does not exist"):
        load_program(tmp_path / "w.pt2")
    with pytest.raises(EdgemobileError, match=r"ending in \.pt2"):
        load_program(tmp_path / "w.onnx")
