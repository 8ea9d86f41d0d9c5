"""`edgemobile sweep`: every point is a row, failures too, and stopping it changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

_GRID = 'models = ["v3-small"]\nweights = "random"\nclasses = 3\nresolutions = [32]\nformats = ["onnx"]\n'


def test_a_point_that_fails_is_a_row_and_a_dry_run_says_what_is_cached(edgemobile, grid, colour_photos: Path) -> None:
    text = f'{_GRID}accuracy = {{ data = "{colour_photos}" }}\ndevices = ["ssh://nobody@127.0.0.1:9"]\n'
    grid(text.replace('"random"', '["random", "absent.pth"]').replace("[32]", "[32]\nwidths = [0.35]"))
    waiting = json.loads(edgemobile("sweep", "--dry-run", "--json").out)
    assert {check["outcome"] for row in waiting["rows"] for check in row["problems"]} == {"would_run", "wrong"}
    assert not Path(".edgemobile").exists()
    ran = edgemobile("sweep", "--json", "--csv", "sweep.csv")
    assert ran.code == 2
    table = json.loads(ran.out)
    good, failed = table["rows"][:-1], table["rows"][-1]
    assert [(row["precision"], row["accuracy"]["count"]) for row in good] == [("float32", 18), ("int8", 18)]
    assert [check["outcome"] for row in good for check in row["problems"]] == ["unreachable", "unreachable"]
    assert "absent.pth" in failed["problems"][0]["words"][0]
    names = Path("sweep.csv").read_text()
    assert all(row["name"] in names for row in good)
    again = json.loads(edgemobile("sweep", "--dry-run", "--json").out)
    assert [row["accuracy"] for row in again["rows"]] == [row["accuracy"] for row in table["rows"]]
    # Counts of an earlier sweep hold for a wider grid.
    grid(text.replace("[32]", "[32]\nwidths = [0.35, 0.4]"))
    ran = edgemobile("sweep", "--dry-run")
    assert "would run: 1 exports" in ran.out
    assert "would run: accuracy of 2 files" in ran.out


def test_killed_twice_it_ends_with_the_same_table(
    edgemobile, grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_script: Callable[[str], ModuleType]
) -> None:
    script: Any = load_script("benchmarks/sweep_kills.py")
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
        path = grid(f"{_GRID}widths = [0.35, 0.4]\nrecipes = ['default', 'minmax']")
        path.rename(tmp_path / name / path.name)
    assert script.kill_often(tmp_path / "killed", 2, random.Random(0), within_s=0.05)
    tables = []
    for name in ("killed", "alone"):
        monkeypatch.chdir(tmp_path / name)
        tables.append(json.loads(edgemobile("sweep", "--json").out))
    assert tables[0] == tables[1]
    assert [row["precision"] for row in tables[0]["rows"]] == ["float32", "int8", "int8"] * 2
    assert all(row["sha256"] and not row["problems"] for row in tables[0]["rows"])
