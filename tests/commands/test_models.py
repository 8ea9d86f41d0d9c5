"""`edgemobile models`: the list, what the package's weights reach, and one model layer by layer."""

from __future__ import annotations

import json
import subprocess
import sys

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


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['edgemobile', 'models']\n"
        "from edgemobile.cli import main; main()"
    )
    assert b"v3-large" in subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
