"""`edgemobile sample-data`: an image set that the other commands take as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemobile.images.dataset import open_dataset


def test_it_is_an_image_set(edgemobile: Callable, tmp_path: Path) -> None:
    ran = edgemobile("sample-data")
    assert ran.code == 0
    found = open_dataset(tmp_path / "samples")
    assert found.splits == ("train", "test")
    assert len(found.classes) == 10
    train, test = found.in_split("train"), found.in_split("test")
    assert f"wrote samples: {len(train)} images in train/, {len(test)} images in test/" in ran.out
    assert len(train) > len(test) >= 25
    # Each class is in both.
    assert all(len(set(part.labels.tolist())) == 10 for part in (train, test))


def test_the_packages_nets_know_them(edgemobile: Callable) -> None:
    pytest.importorskip("torch")
    edgemobile("sample-data", "deep/images")
    ran = edgemobile("eval", "v3-small", "--data", "deep/images", "--json")
    assert json.loads(ran.out)["files"][0]["top1"] == 1


def test_a_folder_that_exists_stays(edgemobile: Callable, tmp_path: Path) -> None:
    for name in ("samples", "file"):
        (tmp_path / name).mkdir() if name == "samples" else (tmp_path / name).touch()
        ran = edgemobile("sample-data", name)
        assert ran.code == 2
        assert f"{name} exists already" in ran.err
    ran = edgemobile("sample-data", "file/inside")
    assert ran.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "samples"]
    assert not list((tmp_path / "samples").iterdir())
