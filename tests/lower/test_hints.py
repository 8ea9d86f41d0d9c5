"""What a net that is not ready is told, and how little of torch's own words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from edgemobile.errors import Unsupported
from edgemobile.loading.model import load_model
from edgemobile.lower import export_program, lower
from edgemobile.lower.hints import faint, training_branches

NETS = """
import torch
import torch
from torch import nn

def head(net, channels=8):
    return nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))

class Rep(nn.Module):
    def __init__(self):
        super().__init__()
        self.rbr_dense, self.rbr_1x1 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.rbr_dense(x) + self.rbr_1x1(x)

    def switch_to_deploy(self):
        ...

def plain():
    return head(nn.Conv2d(3, 8, 3))

def rep():
    return head(Rep())

def grey():
    return head(nn.Conv2d(1, 8, 3))

def quantized():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), torch.ao.nn.quantized.Linear(3, 5))
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "hinted_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "hinted_nets", raising=False)
    return "hinted_nets"


class _Deciding(nn.Module):
    """Goes another way by the values it sees, which no trace can follow."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(layers)))

    def forward(self, x: Any) -> Any:
        x = self.layers(x).mean((2, 3))
        return x * 2 if x.sum() > 0 else x


def test_what_torch_prints_is_in_the_details(capfd: pytest.CaptureFixture[str]) -> None:
    """It printed the program it had so far, hundreds of kilobytes of a large net."""
    with pytest.raises(Unsupported) as caught:
        export_program(_Deciding(20), (1, 3, 8, 8))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert "use torch.where" in str(caught.value)
    assert caught.value.details.count("conv2d") >= 20
    assert capfd.readouterr() == ("", "")


def test_the_command_keeps_the_details_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "deciding.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n def forward(self, x):\n"
        "  x = x.mean((2, 3))\n  return x * 2 if x.sum() > 0 else x\n"
    )
    argv = [sys.executable, "-m", "edgemobile", "export", "deciding:Net", "--res", "8", "--out", "out"]
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (kept,) = tmp_path.glob("edgemobile-*.txt")
    assert done.stderr.rstrip().endswith(f"The full message: {kept}")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "data-dependent" in kept.read_text()


@pytest.mark.parametrize(
    ("net", "weights", "said"),
    [
        ("quantized", None, r"already quantized by torch .*use the net before convert\(\)"),
        ("grey", None, r"one grey channel.*weight\.repeat\(1, 3, 1, 1\) / 3"),
        ("plain", "imagenet", r"--weights imagenet is for reference models: .* creates its own weights"),
    ],
)
def test_a_net_that_is_not_ready_is_refused_with_what_to_do(
    nets: str, net: str, weights: str | None, said: str
) -> None:
    """A quantized one ended in a TypeError."""
    with pytest.raises(Unsupported, match=said):
        load_model(f"{nets}:{net}", weights, res=8)


def test_blocks_with_training_branches_are_noted(nets: str) -> None:
    notes = load_model(f"{nets}:rep", res=8).notes
    assert any("call switch_to_deploy()" in note and "0.rbr_dense.weight" in note for note in notes)
    assert training_branches(nn.Sequential(nn.Conv2d(3, 8, 3))) == ""


@pytest.mark.parametrize(
    ("largest", "noted"), [(1e-9, True), (0.0, True), (1e-3, False), (np.nan, False), (np.inf, False)]
)
def test_only_outputs_that_say_nothing_are_faint(largest: float, noted: bool) -> None:
    assert bool(faint(np.array([[0, largest]]))) is noted
    assert faint(np.zeros((0, 5))) == ""


def test_a_net_with_attention_is_refused_by_its_attention_not_only_by_a_reshape() -> None:
    class Attends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.reshape(1, 3, 16).transpose(1, 2)
            rows = nn.functional.scaled_dot_product_attention(rows, rows, rows)
            return nn.functional.layer_norm(rows, (3,))

    with pytest.raises(Unsupported, match=r"has attention and layer norm, .* --backend torch"):
        lower(export_program(Attends(), (1, 3, 4, 4)))
