"""`edgemobile report` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SHA256 = "b" * 64
MANIFEST = {
    "version": 1,
    "model": {
        "name": "v3-large",
        "classes": 1,
        "input_px": 32,
        "labels": None,
        "preprocess": {
            "version": 1,
            "input_px": 32,
            "resize": "exact",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    },
    "weights": {"source": "bundled", "sha256": "c" * 64},
    "checked_on": {"images": "200 images of photos.zip"},
    "files": [],
    "tools": {},
}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    file = {
        "file": "int8.onnx",
        "sha256": SHA256,
        "count": 10,
        "top1": 0.5,
        "top1_interval95": [0.2, 0.8],
        "top5": None,
    }
    file |= {"runtime": "onnxruntime 1", "preprocess": "0 to 1"}
    data = {"version": 1, "data": "photos.zip", "split": None, "limit": 10, "seed": 3, "on": None, "files": [file]}
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({**data, "classes": ["cat"], "images": [], "notes": ["a note"]}))
    return path


def test_writes_what_is_asked_for_and_says_so(edgemobile, evaluation: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    ran = edgemobile("report", evaluation, "--html", "r.html", "--md", "r.md", "--csv", "r.csv", "--cards", "new/cards")
    assert ran.code == 0, ran.err
    assert "50.00 %" in (tmp_path / "r.html").read_text()
    assert "| int8.onnx | onnx |" in (tmp_path / "r.md").read_text()
    assert SHA256 in (tmp_path / "r.csv").read_text()
    assert (tmp_path / "new" / "cards" / "int8.onnx.md").is_file()
    assert ran.out.count("wrote ") == 4


def test_tables_and_cards_need_no_extra(edgemobile, evaluation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    assert edgemobile("report", evaluation, "--csv", "r.csv", "--md", "r.md", "--cards", "cards").code == 0
    refused = edgemobile("report", evaluation, "--html", "r.html")
    assert refused.code == 3
    assert "edgemobile[report]" in refused.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval.json"], "nothing to write"),
        (["gone.json", "--csv", "x.csv"], "cannot read gone.json"),
        (["eval.json", "--csv", "nowhere/x.csv"], "cannot write nowhere"),
        (["eval.json", "--cards", "eval.json"], "cannot create the folder"),
        (["picture.png", "--md", "x.md"], "picture.png is not valid JSON"),
    ],
)
def test_a_refusal_is_one_line(edgemobile, evaluation: Path, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    ran = edgemobile("report", *words)
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--html", "eval.json"], "eval.json is an input"),
        (["--md", "export/../link.json"], "link.json is an input (as eval.json)"),
        (["--csv", "export/manifest.json"], "export/manifest.json is inside export"),
        (["--cards", "export/cards"], "is inside export"),
        (["--html", "r.html", "--md", "export/../r.html"], "r.html is given for two outputs"),
        (["--csv", "cards/int8.onnx.md", "--cards", "cards"], "int8.onnx.md is given for two outputs"),
    ],
)
def test_no_output_takes_the_place_of_a_source_or_of_another(
    edgemobile, evaluation: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "link.json").symlink_to(evaluation)
    before = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    ran = edgemobile("report", "eval.json", "export", *words, "--md" if "--md" not in words else "--csv", "more")
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")} == before
