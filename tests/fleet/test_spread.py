"""How parts go to boards: Dask and its workers are real, the boards are functions that wait, fail or lie."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

from edgemobile.devices.fleet import spread as module
from edgemobile.devices.fleet.board import Answered, Opened, Work
from edgemobile.devices.fleet.cluster import dask_client
from edgemobile.devices.fleet.spread import Spread, spread
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError

_WORK = Work(SimpleNamespace(sha256="0" * 64), 2, "litert", 1)  # type: ignore[arg-type]


@dataclass
class _Board:
    """What it does from its task number `at` on, from 1: wait so long, give wrong outputs, or fail."""

    at: int = 1
    wait_s: float = 0.0
    lies: bool = False
    error: Exception | None = None
    tasks: list[int] = field(default_factory=list)


_boards: dict[str, _Board] = {}


def _scores(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(1, 2))[:, :2].astype(np.float32)


def _open(token: str, board: str, work: Work, canary: tuple[np.ndarray, ...]) -> Opened:
    return Opened("kind", "litert 2.3.0", tuple(map(_scores, canary)))


def _answer(token: str, board: str, parts: tuple[np.ndarray, ...], canary: np.ndarray) -> Answered:
    does = _boards[board]
    does.tasks.append(sum(map(len, parts)))
    if len(does.tasks) < does.at:
        does = _Board()
    time.sleep(does.wait_s)
    if does.error is not None:
        raise does.error
    sign = -1 if does.lies else 1
    return Answered(tuple(sign * _scores(part) for part in parts), sign * _scores(canary), (0.01,) * len(parts))


def _close(token: str, board: str) -> None:
    pass


@pytest.fixture(autouse=True)
def boards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "open_board", _open)
    monkeypatch.setattr(module, "answer", _answer)
    monkeypatch.setattr(module, "close_board", _close)
    monkeypatch.setattr(module, "_LEAST_SLOW_S", 0.3)
    _boards.clear()
    yield
    assert not list(tmp_path.glob("edgemobile/answers/*/*.partial"))


@pytest.fixture
def parts() -> list[np.ndarray]:
    """Of 5 images each; one has none, and two have the same."""
    rng = np.random.default_rng(0)
    found = [rng.standard_normal((5, 4, 4, 3)).astype(np.float32) for _ in range(30)]
    found[7] = found[7][:0]
    found[9] = found[8]
    return found


@pytest.fixture
def answered(parts: list[np.ndarray]) -> Callable[..., Spread]:
    def run(**boards: _Board) -> Spread:
        _boards.update(boards)
        with dask_client(list(boards), None) as client:
            found = spread(client, list(boards), _WORK, len(parts), parts.__getitem__, lambda done, total=None: None)
        assert len(found.scores) == len(parts)
        for scores, images in zip(found.scores, parts, strict=True):
            np.testing.assert_array_equal(scores, _scores(images) if len(images) else np.zeros((0, 2)))
        assert sum(share.images for share in found.boards) == sum(map(len, parts))
        return found

    return run


def _aside(found: Spread) -> dict[str, str | None]:
    return {share.board: share.set_aside for share in found.boards}


def test_all_boards_work(answered: Callable[..., Spread], tmp_path: Path) -> None:
    found = answered(a=_Board(wait_s=0.05), b=_Board(wait_s=0.05), c=_Board(wait_s=0.05))
    assert _aside(found) == {"a": None, "b": None, "c": None}
    assert (found.kind, found.runtime, found.resumed) == ("kind", "litert 2.3.0", 0)
    assert min(share.images for share in found.boards) > 0
    assert not list((tmp_path / "edgemobile" / "answers").iterdir())


def test_a_board_that_fails_keeps_what_it_answered(answered: Callable[..., Spread]) -> None:
    found = answered(a=_Board(wait_s=0.05), b=_Board(at=3, error=DeviceUnreachable("b is not reachable: off")))
    assert _aside(found) == {"a": None, "b": "is not reachable: off"}
    assert found.boards[1].images > 0


def test_of_a_board_that_lies_nothing_counts(answered: Callable[..., Spread]) -> None:
    found = answered(a=_Board(wait_s=0.05), b=_Board(at=3, lies=True))
    assert "differ from its earlier outputs, by up to" in str(_aside(found)["b"])
    assert found.boards[1].images == 0


def test_a_board_that_hangs_is_set_aside_in_favour_of_one_that_is_idle(answered: Callable[..., Spread]) -> None:
    began = time.monotonic()
    found = answered(a=_Board(wait_s=0.05), b=_Board(at=2, wait_s=20.0))
    assert str(_aside(found)["b"]).startswith("it had not answered ")
    assert time.monotonic() - began < 15


def test_a_board_that_is_late_but_first_goes_on(
    answered: Callable[..., Spread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy is slower still: neither of both is set aside."""
    monkeypatch.setattr(module, "_SLOW", 0.0)
    found = answered(a=_Board(at=4, wait_s=1.5), b=_Board(at=3, wait_s=0.9))
    assert _aside(found) == {"a": None, "b": None}


def test_with_no_board_left_the_next_call_goes_on(answered: Callable[..., Spread], parts: list[np.ndarray]) -> None:
    off = DeviceUnreachable("it is off")
    with pytest.raises(DeviceUnreachable, match=r"no board is left: a: it is off; b: it is off. The answers to \d+ im"):
        answered(a=_Board(at=2, error=off), b=_Board(at=2, error=off))
    kept = sum(_boards[name].tasks[0] for name in "ab")
    found = answered(c=_Board(), d=_Board())
    # Two parts have the same images.
    assert found.resumed in (kept, kept + 5)
    assert sum(share.images for share in found.boards if share.board in "ab") == found.resumed
    assert sum(sum(_boards[name].tasks) for name in "cd") + found.resumed == sum(map(len, parts))


def test_what_was_kept_of_a_board_that_lies_now_is_asked_again(answered: Callable[..., Spread]) -> None:
    off = DeviceUnreachable("it is off")
    with pytest.raises(DeviceUnreachable):
        answered(a=_Board(at=2, error=off), b=_Board(at=2, error=off))
    found = answered(a=_Board(lies=True), b=_Board(wait_s=0.05))
    shares = {share.board: share for share in found.boards}
    assert shares["a"].images == 0
    assert shares["b"].set_aside is None


def test_an_error_of_ours_is_not_a_board_that_failed(answered: Callable[..., Spread]) -> None:
    with pytest.raises(ZeroDivisionError):
        answered(a=_Board(error=ZeroDivisionError()), b=_Board())


def test_no_image(parts: list[np.ndarray]) -> None:
    with dask_client(["a"], None) as client, pytest.raises(EdgemobileError, match="no image can be read"):
        spread(client, ["a"], _WORK, 1, lambda number: parts[7], lambda done, total=None: None)


def test_another_file_does_not_resume(answered: Callable[..., Spread], monkeypatch: pytest.MonkeyPatch) -> None:
    off = DeviceUnreachable("it is off")
    with pytest.raises(DeviceUnreachable):
        answered(a=_Board(at=2, error=off))
    other: Any = SimpleNamespace(sha256="1" * 64)
    monkeypatch.setattr(f"{__name__}._WORK", replace(_WORK, file=other), raising=True)
    assert answered(a=_Board()).resumed == 0
