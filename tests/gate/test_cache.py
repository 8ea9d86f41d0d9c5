"""Cached results are found by their key, and ignored if they are not what was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.gate.cache import Cache
from edgemobile.gate.fingerprint import content_sha256, contents, fingerprint, software

KEY = fingerprint("a")


def test_what_was_put_is_got(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "kept")
    assert cache.get("parity", KEY, dict) is None
    cache.put("parity", KEY, {"sqnr_db": "inf", "n": [1, 2.5, None]})
    assert cache.get("parity", KEY, dict) == {"sqnr_db": "inf", "n": [1, 2.5, None]}
    assert cache.get("export", KEY, dict) is None
    assert cache.get("parity", fingerprint("b"), dict) is None
    assert Cache(tmp_path / "kept", force=True).get("parity", KEY, dict) is None
    assert (tmp_path / "kept" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"30", b"31"),
        lambda data: data.replace(b'"version": 1', b'"version": 2'),
        lambda data: b"[]",
        lambda data: b"\xff" + data,
        lambda data: data.replace(b"30", b"NaN"),
    ],
)
def test_a_damaged_entry_is_none(tmp_path: Path, damage) -> None:
    cache = Cache(tmp_path)
    cache.put("parity", KEY, {"sqnr_db": 30})
    (entry,) = (tmp_path / "results").iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert cache.get("parity", KEY, dict) is None


def test_an_entry_its_reader_refuses_is_none(tmp_path: Path) -> None:
    def refuse(value: object) -> dict[str, int]:
        raise EdgemobileError("of another version")

    Cache(tmp_path).put("parity", KEY, {})
    assert Cache(tmp_path).get("parity", KEY, refuse) is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(EdgemobileError, match="cannot write the cache"):
        Cache(tmp_path / "kept").put("parity", KEY, {})


def test_only_a_models_own_old_files_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old, new = fingerprint("old"), fingerprint("new")
    for model, key in (("v3", old), ("v3", new), ("v3-small", old)):
        cache.files(model, key).mkdir(parents=True)
    cache.tidy("v3", new)
    left = {path.name for path in (tmp_path / "files").iterdir()}
    assert left == {cache.files("v3", new).name, cache.files("v3-small", old).name}


def test_files_are_cleared_inside_the_cache_alone(tmp_path: Path) -> None:
    cache, outside = Cache(tmp_path / "kept"), tmp_path / "outside"
    cache.files("v3", KEY).mkdir(parents=True)
    (cache.files("v3", KEY) / "mine.txt").write_text("mine")
    cache.clear("v3", KEY)
    cache.clear("v3", KEY)
    assert not cache.files("v3", KEY).exists()
    outside.mkdir()
    cache.files("v3", KEY).symlink_to(outside)
    cache.files("../../v3", KEY).mkdir()
    for model in ("v3", "../../v3"):
        with pytest.raises(EdgemobileError, match="is outside the cache"):
            cache.clear(model, KEY)
    assert outside.is_dir()
    assert cache.files("../../v3", KEY).is_dir()


def test_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "x").write_bytes(b"1")
    assert content_sha256(tmp_path / "a") == content_sha256(tmp_path / "b")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "y")
    assert content_sha256(tmp_path / "a") != content_sha256(tmp_path / "b")
    with pytest.raises(EdgemobileError, match="cannot read"):
        content_sha256(tmp_path / "none")
    (name, digest), absent = contents([tmp_path / "b" / "y", tmp_path / "none"])
    assert (name, digest) == ("y", content_sha256(tmp_path / "b" / "y"))
    assert absent == ("none", None)


def test_the_sources_and_the_tools_count() -> None:
    found = software()
    assert {"sources", "numpy", "machine"} <= found.keys()
