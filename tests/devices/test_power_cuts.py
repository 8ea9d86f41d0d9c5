"""Boards that lose power in the middle of a job: a real sshd, worker and runtime; only the boot id is made."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgemobile
from edgemobile.devices.host import job_client
from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.records import Settings
from edgemobile.devices.host.runner import Measured, bench_job, infer, run_job
from edgemobile.devices.host.ssh import SshTransport
from edgemobile.devices.host.transport import Completed, DeviceUnreachable, Transport
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import EdgemobileError
from edgemobile.exporters.model_files import read_model_file

pytest.importorskip("onnxruntime")

_LONGEST_S = 60


@dataclass(frozen=True)
class _Python:
    """With a folder of its own for the lock that all users of a board share: others measure on this machine, too."""

    env: Mapping[str, str]
    python: tuple[str, ...] = (sys.executable,)


@dataclass(frozen=True)
class _Named:
    name: str = "pi"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, colour_model: Callable[..., bytes]) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    path.write_bytes(colour_model("bgr"))
    return path


@pytest.fixture
def chunks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((count, 32, 32, 3)).astype(np.float32) for count in (4, 4, 3)]


class _Power:
    """Cuts the power of a board: its connections, its workers, and what `lost` says of a folder was not on its disk."""

    def __init__(self, board: Any, root: Path, boot_id: Path, lost: Callable[[Path], None]) -> None:
        self.board, self.root, self.boot_id, self.lost = board, root, boot_id, lost
        self.cuts = self.starting = 0
        boot_id.write_text("boot 0\n")

    def cut(self) -> None:
        self.cuts += 1
        for pid in _workers(self.root):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for job in (self.root / "jobs").iterdir():
            self.lost(job)
        self.boot_id.write_text(f"boot {self.cuts}\n")
        self.board.cut()
        self.starting = 2


def _workers(root: Path) -> Iterator[int]:
    """The processes of the worker whose working directory is `root`."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if b"edgemobile.devices.board.worker" in words and (process / "cwd").resolve() == root.resolve():
                yield int(process.name)


class _Cut(SshTransport):
    """Has the power cut right after the first file whose path holds `at` was put. Then the board needs a while."""

    def __init__(self, power: _Power, at: str) -> None:
        super().__init__("board", config=str(power.board.config), root=str(power.root))
        self.power, self.at = power, at

    def put(self, source: Any, target: str, **options: Any) -> None:
        super().put(source, target, **options)
        if self.at in target and not self.power.cuts:
            self.power.cut()

    def _shell(self, script: str, **options: Any) -> Completed:
        if self.power.starting:
            self.power.starting -= 1
            raise DeviceUnreachable("pi does not answer")
        return super()._shell(script, **options)


@pytest.fixture
def powered(sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], _Power]:
    """Makes the power supply of the board; silence alone never restarts a worker in these tests."""
    monkeypatch.setattr(job_client, "_SILENCE_S", 1e9)
    monkeypatch.setattr(job_client, "_BOOT_ID", str(tmp_path / "boot_id"))
    return lambda lost: _Power(sshd, tmp_path / "root", tmp_path / "boot_id", lost)


def _sleep() -> Callable[[float], None]:
    """Short naps, for at most a minute in all."""
    began, nap = time.monotonic(), threading.Event().wait

    def sleep(seconds: float) -> None:
        assert time.monotonic() - began < _LONGEST_S, "waited for what never comes"
        nap(min(seconds, 0.1))

    return sleep


def _python(transport: Transport) -> _Python:
    return _Python({"PYTHONPATH": str(Path(edgemobile.__file__).parents[1]), "TMPDIR": transport.root})


def _infer(transport: Transport, model: Path, chunks: list[np.ndarray], tell: Any = None) -> list[np.ndarray]:
    file = read_model_file(model)
    return list(infer(_Named(), transport, _python(transport), file, iter(chunks), None, 1, tell, sleep=_sleep()))


def _bench(transport: Transport, model: Path, tell: Any = None, settings: Settings | None = None) -> Measured:
    files = [read_model_file(model)]
    job = bench_job(files, settings or Settings(runs=20, processes=1), [], emulated=False)
    return run_job(_Named(), transport, _python(transport), job, files, tell, sleep=_sleep())


def _assert_right(model: Path, chunks: list[np.ndarray], answers: list[np.ndarray]) -> None:
    session = open_session(model)
    assert [len(answer) for answer in answers] == [len(images) for images in chunks]
    for images, answer in zip(chunks, answers, strict=True):
        np.testing.assert_array_equal(answer, session.run(images))


def _without_inputs(job: Path) -> None:
    for path in job.glob("input-*"):
        path.unlink(missing_ok=True)


def _with_empty_files(job: Path) -> None:
    for path in job.iterdir():
        if path.name != "running":
            path.write_bytes(b"")


@pytest.mark.parametrize("lost", [_without_inputs, _with_empty_files, lambda job: None])
def test_an_eval_goes_on_after_a_power_cut(
    powered: Callable[..., _Power],
    model: Path,
    chunks: list[np.ndarray],
    lost: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The chunk that is waited for is sent again as well, not only the later ones."""
    power = powered(lost)
    _assert_right(model, chunks, _infer(_Cut(power, "/input-000001"), model, chunks))
    assert power.cuts == 1
    said = [record.getMessage() for record in caplog.records]
    assert "pi: the board restarted; images without an answer are sent again" in said
    assert list((power.root / "jobs").iterdir()) == []


@pytest.mark.parametrize("lost", [_with_empty_files, lambda job: None])
def test_a_bench_begins_again_after_a_power_cut(
    powered: Callable[..., _Power], model: Path, lost: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    power = powered(lost)

    def cut(event: Any) -> None:
        if event["event"] == "round" and not power.cuts:
            power.cut()

    settings = Settings(seconds=2, processes=1)
    measured = _bench(_Cut(power, "nothing"), model, cut, settings)
    assert measured.cases[0].values_ns
    said = [record.getMessage() for record in caplog.records]
    assert "pi: the board restarted; the measurement begins again" in said
    (note,) = measured.notes
    assert note.startswith("the board restarted during this run; everything was measured again from 20")


def test_a_board_that_keeps_losing_power_is_told_so(powered: Callable[..., _Power], model: Path) -> None:
    power = powered(lambda job: None)

    def cut(event: Any) -> None:
        if event["event"] == "opening":
            power.cut()

    with pytest.raises(EdgemobileError, match=r"pi restarted 3 times during this job. Check its power supply"):
        # Long enough that it cannot end before the power does.
        _bench(_Cut(power, "nothing"), model, cut, Settings(seconds=20, processes=1))


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut_short, _zeroed, _emptied])
@pytest.mark.parametrize("name", ["job.json", "run.json", "progress.jsonl", "output-000000-*", "input-000002-*"])
def test_damaged_state_counts_as_absent(
    tmp_path: Path, model: Path, chunks: list[np.ndarray], name: str, damage: Callable[[Path], None]
) -> None:
    """Of an eval that Ctrl-C ended and a power cut after it: the next one needs nobody to delete anything."""
    transport = LocalTransport(tmp_path)
    first = infer(_Named(), transport, _python(transport), read_model_file(model), iter(chunks[:2]), None, 1)
    next(first)
    first.close()
    (job,) = (tmp_path / "jobs").iterdir()
    sleep = _sleep()
    while not (job / "run.json").exists():
        sleep(0.1)
    if name.startswith("input"):
        # Sent and not looked at any more.
        shutil.copy(next(job.glob("output-000000-*")), job / "input-000002-0123456789abcdef.npy")
    (damaged,) = job.glob(name)
    damage(damaged)
    _assert_right(model, chunks, _infer(transport, model, chunks))
    assert list((tmp_path / "jobs").iterdir()) == []


def test_images_that_disappear_are_sent_again(
    tmp_path: Path, model: Path, chunks: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker lives and waits for what was lost."""
    monkeypatch.setattr(job_client, "_SILENCE_S", 0.5)
    lost: list[str] = []

    class Forgetful(LocalTransport):
        def put(self, source: Any, target: str, **options: Any) -> None:
            if "/input-000000" in target and not lost:
                lost.append(target)
            else:
                super().put(source, target, **options)

    _assert_right(model, chunks, _infer(Forgetful(tmp_path), model, chunks))
    assert lost
