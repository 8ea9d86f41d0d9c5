"""`edgemobile search`: what the command asks for, and how it shows the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgemobile.nas.request import Found, SearchRequest, SearchResult

pytest.importorskip("optuna")


def _found(number: int, cost: float, held_out: float, multiplier: float | None = None) -> Found:
    return Found(
        number, {"px": 64}, cost, 0.8, 1_500_000, 12_000_000, multiplier, held_out, f"nets/{number}.safetensors"
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SearchRequest]:
    requests: list[SearchRequest] = []

    def search(request: SearchRequest, progress: object) -> SearchResult:
        requests.append(request)
        front, full, narrow = _found(7, 4.5e6, 0.875), _found(0, 6e6, 0.9, 1.0), _found(3, 5e6, 0.87, 0.6)
        nets = (full, narrow, front)
        return SearchResult(request.out, request.on, "instructions", nets, (front, full), (full, narrow), 2, "9 images")

    monkeypatch.setattr("edgemobile.nas.run.search", search)
    return requests


def test_the_front_beside_the_width_multipliers(edgemobile, asked: list[SearchRequest], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ran = edgemobile(
        *[
            "search",
            "v3-small",
            "--data",
            "images",
            "--res",
            "96",
            "--res",
            "64",
            "--trials",
            "9",
            "--out",
            "found",
            "--plot",
            "front.png",
        ]
    )
    assert ran.code == 0
    assert (asked[0].res, asked[0].trials, asked[0].out) == ((64, 96), 9, Path("found"))
    lines = ran.out.splitlines()
    assert next(line.split() for line in lines if line.startswith("nets/7.safetensors"))[1:4] == ["64", "4.50", "M"]
    assert any(line.startswith("nets/0.safetensors (width 1)") for line in lines)
    assert any("on the images held out: 0.6 of 2" in line for line in lines)
    assert any("2 choices were no net" in line for line in lines)
    assert (tmp_path / "front.png").stat().st_size > 5000


def test_json(edgemobile, asked: list[SearchRequest]) -> None:
    found = json.loads(edgemobile("search", "v3-small", "--data", "images", "--out", "found", "--json").out)
    assert [net["number"] for net in found["front"]] == [7, 0]
    assert found["front"][0]["held_out_top1"] == 0.875


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("v5", "unknown model 'v5'"),
        ("v3-small --trials 0", "--trials must be at least 1"),
        ("v3-small --res 16", "16 is not in the range"),
        ("v3-small --plot front.bmp", "unknown format"),
    ],
)
def test_refusals(edgemobile, asked: list[SearchRequest], words: str, said: str) -> None:
    ran = edgemobile("search", *words.split(), "--data", "images", "--out", "found")
    assert ran.code == 2
    assert said in ran.err
    assert not asked
