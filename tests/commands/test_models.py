"""`edgemobile models`: the list, what the package's weights reach, and one model layer by layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgemobile.models.arch import ARCHS


def test_the_list_says_what_the_packages_weights_reach(edgemobile) -> None:
    rows = {row["name"]: row for row in json.loads(edgemobile("models", "--json").out)}
    assert list(rows) == list(ARCHS)
    trained = {name: row["bundled"] for name, row in rows.items() if row["bundled"]}
    assert set(trained) == {"v1", "v2", "v3-small", "v3-large"}
    shown = edgemobile("models").out
    for name, facts in trained.items():
        assert abs(facts["top1_float_percent"] - facts["top1_int8_percent"]) < 0.5, name
        line = next(line for line in shown.splitlines() if line.startswith(f"{name} "))
        assert f"CIFAR-10 at {facts['input_px']} px: {facts['top1_float_percent']:.2f} %" in line


def test_one_model_layer_by_layer(edgemobile) -> None:
    facts = json.loads(edgemobile("models", "v3-large", "--width", "0.5", "--res", "128", "--json").out)
    assert (facts["width"], facts["input_px"]) == (0.5, 128)
    assert sum(layer["macs"] for layer in facts["layers"]) == facts["macs"]
    assert sum(layer["params"] for layer in facts["layers"]) == facts["params"]
    assert "total" in edgemobile("models", "v3-large").out


@pytest.mark.parametrize(("words", "figure"), [("models", "216.6 M"), ("models v3-large", "216,589,760")])
def test_a_terminal_of_80_columns_shows_every_figure(
    edgemobile, monkeypatch: pytest.MonkeyPatch, words: str, figure: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    lines = edgemobile(*words.split()).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(figure in line for line in lines)
    assert not any("…" in line for line in lines)


def test_explain_says_what_ideas_save_and_draws_it(edgemobile, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "ideas.svg"
    shown = edgemobile("models", "v3-large", "--explain", "--plot", str(plot)).out
    line = next(line for line in shown.splitlines() if line.startswith("depthwise separable"))
    assert line.split()[3:] == ["1332.0", "M", "216.6", "M", "0.163", "0.163"]
    assert "(-2,314,368 values of hard-swish) (arXiv:1905.02244, section 5.2)" in shown
    # matplotlib draws texts as paths, and has the text in a comment.
    assert all(f"<!-- {name} -->" in plot.read_text() for name in ("squeeze-and-excite", "width 0.5", "MACs"))


def test_explain_on_a_device(edgemobile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a file is its size here; that files are measured on devices is tests/latency's."""
    sizes: dict[str, int] = {}

    def measured(device: str, unit: str, files, progress: object) -> list[int]:
        assert (device, unit) == ("emulated:cortex-a72", "instructions")
        sizes.update({file.name: file.bytes for file in files})
        return [file.bytes for file in files]

    monkeypatch.setattr("edgemobile.adaptation.idea_costs.measured", measured)
    asked = ("models", "v3-small", "--explain", "--res", "32", "--classes", "10", "--on", "emulated:cortex-a72")
    found = json.loads(edgemobile(*asked, "--json").out)
    assert (found["device"], found["unit"], found["input_px"]) == ("emulated:cortex-a72", "instructions", 32)
    ideas = {idea["name"]: idea for idea in found["ideas"]}
    standard = ideas["depthwise separable convolutions"]
    assert standard["macs"]["share"] == pytest.approx(standard["expected_share"])
    # int8 files: about a byte for each parameter.
    for idea in ideas.values():
        for side in ("before", "after"):
            assert 0.9 < idea["measured"][side] / idea["params"][side] < 1.6, idea["name"]
    # The net itself is before or after most ideas, and measured once.
    assert len(sizes) < 2 * len(ideas) - 5
    text = edgemobile("models", "v1", "--explain", "--width", "0.25", "--res", "32", "--on", "emulated:cortex-a72").out
    assert "measured on emulated:cortex-a72" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--explain", "--explain needs a model"),
        ("v1 --on local", "--on is for --explain"),
        ("v1 --explain --unit ms", "--unit is for --on"),
        ("v1 --explain --plot ideas.bmp", "unknown format. Allowed: a file ending in .svg, .png, .pdf"),
        ("v1 --explain --on local --unit instructions", "local is none. Give a time"),
        ("v4-conv-small --explain", "the ideas of v4-conv-small cannot be separated"),
    ],
)
def test_explain_refuses(edgemobile, words: str, said: str) -> None:
    ran = edgemobile("models", *words.split())
    assert ran.code == 2
    assert said in ran.err


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['edgemobile', 'models', *sys.argv[1:]]\n"
        "from edgemobile.cli import main; main()"
    )
    for words, said in (((), b"v3-large"), (("v3-small", "--explain"), b"squeeze-and-excite")):
        command = [sys.executable, "-c", code, *words]
        assert said in subprocess.run(command, capture_output=True, check=True).stdout
