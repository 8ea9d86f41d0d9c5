"""A bench of a file that never ends, or wants all memory: it is named, and nothing of it outlives whoever asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import hostile_files

from edgemobile.devices.board import parts
from edgemobile.devices.runtimes.limits import identity
from edgemobile.errors import EdgemobileError
from edgemobile.util.locking import try_lock

_LONGEST_S = 60

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _LONGEST_S
    while not true():
        assert time.monotonic() < until, f"after {_LONGEST_S} s, {what}"
        time.sleep(0.1)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a bench with a cache and a lock of its own."""
    (tmp_path / "tmp").mkdir()
    paths = os.pathsep.join(filter(None, sys.path))
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
        "EDGEMOBILE_TEST": str(tmp_path),
    }


def _started(tmp_path: Path) -> set[int]:
    """The living processes with this test's mark in their environment."""
    mark = f"EDGEMOBILE_TEST={tmp_path}\0".encode()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes() + b"\0" and identity(int(process.name)):
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def bench(tmp_path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`edgemobile bench` inside its endless first inference."""
    (tmp_path / "endless.onnx").write_bytes(hostile_files.endless())
    words = ["edgemobile", "bench", "endless.onnx", "--runs", "1", "-q"]
    # A shell starts what it runs in the background with interrupts ignored, and so perhaps these tests.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heed}; import sys; from edgemobile.cli import main; sys.argv = {words!r}; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def measuring() -> bool:
        assert running.poll() is None, running.communicate()
        return any(b"--process" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in _started(tmp_path))

    _until(measuring, "no file is being measured")
    time.sleep(1)
    yield running
    for pid in _started(tmp_path):
        os.kill(pid, signal.SIGKILL)
    running.communicate()


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_bench_that_asked(
    bench: subprocess.Popen[str], tmp_path: Path, ended_by: signal.Signals
) -> None:
    """Neither a process that computes for ever, nor the lock that makes every other bench of the machine wait."""
    bench.send_signal(ended_by)
    assert bench.wait(_LONGEST_S) == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[ended_by]
    _until(lambda: not _started(tmp_path), f"these still run: {_started(tmp_path)}")
    lock = try_lock(tmp_path / "tmp" / "edgemobile.lock")
    assert lock is not None
    lock.release()


def test_a_part_ends_with_its_worker(bench: subprocess.Popen[str], tmp_path: Path) -> None:
    (worker,) = [
        pid
        for pid in _started(tmp_path)
        if b"board.worker\0jobs/" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != bench.pid
    ]
    os.kill(worker, signal.SIGKILL)
    _until(lambda: _started(tmp_path) <= {bench.pid}, "the part still runs")


def test_who_waits_is_told_which_process_has_the_board(
    bench: subprocess.Popen[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    said = tmp_path / "said"
    argv = [sys.executable, "-m", "edgemobile", "bench", "endless.onnx", "--runs", "1"]
    with said.open("w") as file:
        second = subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=file)
    _until(lambda: "is using the board" in said.read_text(), "the second bench does not say that it waits")
    second.send_signal(signal.SIGTERM)
    second.wait(_LONGEST_S)
    (named,) = re.findall(r"another measurement \(process (\d+) there\) is using the board", said.read_text())
    assert int(named) in _started(tmp_path)


def test_a_file_that_never_ends_is_named_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_SILENT_S", 1.0)
    monkeypatch.setattr(parts, "_POLL_S", 0.1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "python").chmod(0o755)

    class Job:
        folder = tmp_path

        def check(self) -> None: ...

    row = {"file": "endless.onnx", "path": "", "sha256": "", "bytes": 1, "format": "onnx", "precision": "float32"}
    with pytest.raises(EdgemobileError, match=r"endless\.onnx: no inference ended within 1 s"):
        parts.in_a_process(Job(), [row], "--process")


def test_a_file_that_wants_all_memory_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "huge.onnx").write_bytes(hostile_files.huge())
    argv = [sys.executable, "-m", "edgemobile", "bench", "huge.onnx", "--runs", "1", "-q"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=_LONGEST_S)
    assert done.returncode == 2, done.stderr
    assert "huge.onnx" in done.stderr
    assert "Traceback" not in done.stderr
