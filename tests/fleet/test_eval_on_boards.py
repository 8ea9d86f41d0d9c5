"""`edgemobile eval --on 'pi-*'`: several real boards give what one gives, whatever happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("onnxruntime")

from loopback_boards import Shelf, WhenDone

from edgemobile.accuracy.evaluate import evaluate
from edgemobile.accuracy.evaluation import EvalRequest, Evaluation
from edgemobile.devices.fleet import board, spread
from edgemobile.devices.host.transport import DeviceUnreachable


@pytest.fixture
def request_(photos: Path, colours: Path) -> EvalRequest:
    return EvalRequest((str(colours),), photos, on="pi-*")


@pytest.fixture(scope="module")
def here(photos: Path, colours: Path) -> Evaluation:
    return evaluate(EvalRequest((str(colours),), photos))


def _counts(found: Evaluation) -> Any:
    return [(found.images, file.predicted.tolist(), file.rank.tolist()) for file in found.files]


def _aside(found: Evaluation) -> dict[str, str | None]:
    return {share.board: share.set_aside for share in found.files[0].boards}


def _is_left(boards: Any) -> bool:
    """Whether anything of the evaluation is on the boards a moment later."""
    for _ in range(100):
        if not any(board.workers() or board.jobs for board in boards):
            return False
        time.sleep(0.1)
    return True


def test_several_boards_give_what_one_gives(shelf: Shelf, request_: EvalRequest, here: Evaluation) -> None:
    boards = shelf("pi-1", "pi-2", "pi-3", image_s=0.002)
    found = evaluate(request_)
    assert _counts(found) == _counts(here)
    assert 0.3 < found.files[0].correct / found.files[0].count < 0.95
    assert list(_aside(found)) == ["pi-1", "pi-2", "pi-3"]
    assert sum(share.images for share in found.files[0].boards) == 240
    assert all(share.images and share.inference_s and share.set_aside is None for share in found.files[0].boards)
    assert not _is_left(boards)


def test_boards_killed_slow_and_lying_in_the_middle(
    shelf: Shelf, request_: EvalRequest, here: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spread, "_LEAST_SLOW_S", 2.0)
    boards = dict(zip("abcde", shelf(*(f"pi-{name}" for name in "abcde"), image_s=0.03), strict=True))

    def happen() -> None:
        boards["a"].kill()
        boards["b"].does(image_s=10.0)
        # Faster than the others, so that it gets more parts.
        boards["c"].does(image_s=0.001, lies=True)

    found = evaluate(request_, WhenDone(1, happen))
    assert _counts(found) == _counts(here)
    aside = _aside(found)
    assert aside["pi-d"] is None
    assert aside["pi-e"] is None
    assert "differ from its earlier outputs" in str(aside["pi-c"])
    assert aside["pi-a"] is not None
    assert "had not answered" in str(aside["pi-b"])
    assert {share.board: share.images for share in found.files[0].boards}["pi-c"] == 0
    assert not _is_left([boards["c"], boards["d"], boards["e"]])


def test_no_board_left_and_going_on(
    shelf: Shelf, request_: EvalRequest, here: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_PATIENCE_S", 1.0)
    boards = shelf("pi-1", "pi-2", "pi-3", image_s=0.01)

    def happen() -> None:
        boards[0].kill()
        boards[1].kill()

    with pytest.raises(DeviceUnreachable, match=r"no board is left: .*answers to \d+ images are stored"):
        evaluate(EvalRequest(request_.files, request_.data, on="pi-1,pi-2"), WhenDone(32, happen))
    found = evaluate(request_)
    assert _counts(found) == _counts(here)
    assert any("answered by an earlier call, which was interrupted" in note for note in found.notes)
    shares = {share.board: share.images for share in found.files[0].boards}
    assert shares["pi-1"] + shares["pi-2"] >= 32
    assert 0 < shares["pi-3"] < 240


def test_an_interrupted_command_ends_at_once_and_leaves_nothing(
    shelf: Shelf, request_: EvalRequest, tmp_path: Path
) -> None:
    """Though one board hangs."""
    boards = shelf("pi-1", "pi-2", "pi-3", image_s=0.05)
    # A process started with SIGINT ignored, as by nohup, would finish.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{heed}; from edgemobile.cli import main; main()"
    argv = [sys.executable, "-c", command, "eval", *request_.files, "--data", str(request_.data), "--on", "pi-*"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any((tmp_path / "cache").glob("edgemobile/answers/*/*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    boards[2].hang()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().endswith("no partial file is left")
    assert time.monotonic() - began < 15
    assert not _is_left(boards[:2])
