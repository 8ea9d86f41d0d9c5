"""`edgemobile bench --on 'pi-*'`: all boards at the same time, each its own measurement."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from loopback_boards import LoopbackBoard, Shelf

from edgemobile.devices.host.records import Run, Settings
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.exporters.model_files import read_model_file
from edgemobile.latency.boards import bench_all
from edgemobile.latency.run import BenchRequest


@pytest.fixture
def boards(shelf: Shelf) -> list[LoopbackBoard]:
    return shelf("pi-1", "pi-2", "pi-3", image_s=0.05)


def _requests(file: Path, runs: int) -> list[BenchRequest]:
    settings = Settings(runs=runs, processes=2)
    return [BenchRequest((read_model_file(file),), name, settings) for name in ("pi-1", "off", "pi-2")]


def test_boards_are_measured_at_the_same_time(
    boards: list[LoopbackBoard], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is off, which the others do not wait for."""
    with (tmp_path / "devices.toml").open("a") as file:
        file.write(boards[2].row.replace("[pi-3]", "[off]"))
    boards[2].kill()
    at_work: list[int] = []

    def look() -> None:
        while len(at_work) < 2000:
            at_work.append(sum(bool(board.workers()) for board in boards))
            time.sleep(0.05)

    threading.Thread(target=look, daemon=True).start()
    done = dict(bench_all(_requests(colours, runs=60)))
    assert sorted(done) == [0, 1, 2]
    assert max(at_work) == 2
    assert isinstance(done[1], DeviceUnreachable)
    for index in (0, 2):
        run = done[index]
        assert isinstance(run, Run)
        assert run.device == _requests(colours, 60)[index].device
        assert run.cases[0].median_ns > 50e6


def test_an_interruption_stops_all_boards(boards: list[LoopbackBoard], colours: Path) -> None:
    def interrupt() -> None:
        until = time.monotonic() + 60
        while not all(any(board.root.glob("jobs/*/progress.jsonl")) for board in boards[:2]):
            assert time.monotonic() < until
            time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)

    requests = [request for request in _requests(colours, runs=2000) if request.device != "off"]
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(bench_all(requests))
    until = time.monotonic() + 20
    while any(board.workers() for board in boards) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(board.workers() for board in boards)
