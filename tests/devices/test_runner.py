"""Jobs on a board whose line is cut, whose worker dies, and which lies. The worker and its runtime are real."""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run

from edgemobile.devices.board import worker
from edgemobile.devices.host import job_client
from edgemobile.devices.host.job_client import job_file
from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.records import Settings
from edgemobile.devices.host.runner import Measured, bench_job, infer, run_job
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import EdgemobileError
from edgemobile.exporters.model_files import read_model_file
from edgemobile.latency.statistics import verdict

pytest.importorskip("onnxruntime")


@dataclass(frozen=True)
class _Python:
    python: tuple[str, ...] = (sys.executable,)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Board:
    name: str = "pi"


BOARD, PYTHON = _Board(), _Python()
SETTINGS = Settings(runs=20, processes=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, colour_model: Callable[..., bytes]) -> Path:
    """A small classifier under a name that a shell would take to heart."""
    path = tmp_path_factory.mktemp("models") / "model; rm -rf $HOME `id` '\".onnx"
    path.write_bytes(colour_model("bgr"))
    return path


class _Line(LocalTransport):
    """This machine at the end of a line that breaks: `broken` says whether a call is lost, before it acts or after."""

    def __init__(self, root: Path, broken: Callable[[str, int], str | None] = lambda call, count: None) -> None:
        super().__init__(root)
        self.broken, self.counts = broken, dict.fromkeys(("run", "start", "put", "read"), 0)

    def _through(self, call: str, act: Callable[[], Any]) -> Any:
        self.counts[call] += 1
        fate = self.broken(call, self.counts[call])
        if fate == "before":
            raise DeviceUnreachable("pi does not answer")
        result = act()
        if fate == "after":
            raise DeviceUnreachable("the connection to pi was lost")
        return result

    def run(self, argv: Any, **options: Any) -> Any:
        return self._through("run", lambda: LocalTransport.run(self, argv, **options))

    def start(self, argv: Any, **options: Any) -> None:
        self._through("start", lambda: LocalTransport.start(self, argv, **options))

    def put(self, source: Any, target: str, **options: Any) -> None:
        self._through("put", lambda: LocalTransport.put(self, source, target, **options))

    def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
        return self._through("read", lambda: LocalTransport.read(self, path, offset=offset, max_bytes=max_bytes))


def _bench(transport: Any, model: Path, events: list[Any] | None = None, **options: Any) -> Measured:
    files = [read_model_file(model)]
    job = bench_job(files, options.pop("settings", SETTINGS), [], emulated=transport.emulated)
    tell = None if events is None else events.append
    return run_job(BOARD, transport, PYTHON, job, files, tell, sleep=lambda s: _nap(min(s, 0.05)), **options)


_nap = threading.Event().wait


@pytest.mark.parametrize("emulated", [False, True])
def test_only_times_need_the_board_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulated: bool) -> None:
    def is_free(job: worker._Job) -> bool:
        with (tmp_path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    monkeypatch.setattr(worker, "bench", is_free)
    monkeypatch.setattr(worker, "_open_shared_lock", lambda: None)
    (tmp_path / "jobs" / "one").mkdir(parents=True)
    spec = {"version": worker.JOB_VERSION, "emulated": emulated, "token": "t", "kind": "bench"}
    (tmp_path / "jobs" / "one" / "job.json").write_text(json.dumps(spec))
    assert worker._bench(worker._Job(tmp_path / "jobs" / "one")) is emulated


def test_a_bench(tmp_path: Path, model: Path) -> None:
    events: list[Any] = []
    transport = LocalTransport(tmp_path)
    measured = _bench(transport, model, events, settings=Settings(threads=(1, 2), runs=20, memory=True, profile=True))
    assert [(case.file, case.threads) for case in measured.cases] == [(str(model), 1), (str(model), 2)]
    for case in measured.cases:
        assert [len(taken) for taken in case.rounds_ns] == [2] * 10
        assert case.rounds_per_process == (2,) * 5
        # Until it is steady, and once again at the start of each round.
        assert len(case.warmup_ns) >= 5 * 10 + 10
        assert case.load_ns
        assert case.first_ns
        assert case.peak_mib is not None
        assert case.runtime_mib is not None
        assert case.peak_mib > case.runtime_mib > 10
        assert case.runtime == "onnxruntime"
        assert case.profile
        assert {op.op for op in case.profile} >= {"ReduceMean"}
    assert [sample.when for sample in measured.conditions][:: len(measured.conditions) - 1] == ["before", "after"]
    assert any(sample.when == "during" for sample in measured.conditions)
    assert [event["done"] for event in events if event["event"] == "round"][-1] == 100
    # Its content, not its name, is what a board gets to see.
    assert [file.name for file in (tmp_path / "files").iterdir()] == [f"{measured.cases[0].sha256}.onnx"]


@pytest.fixture
def busy_core() -> Iterator[int]:
    """A core with a program on it that never rests; skips where programs cannot be kept to a core."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("programs cannot be kept to a core here")
    core = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            if not (process.stdout and process.stdout.readline()):
                pytest.skip("programs cannot be kept to a core here")
            yield core
        finally:
            process.kill()


def test_a_busy_core_is_noticed(tmp_path: Path, model: Path, busy_core: int) -> None:
    """However calm the median: most inferences are shorter than the time that the kernel gives to one program."""
    files, settings = [read_model_file(model)], Settings(seconds=2, cores=str(busy_core))
    job = bench_job(files, settings, [busy_core], emulated=False)
    python = _Python(env={"TMPDIR": str(tmp_path)})
    (case,) = run_job(BOARD, LocalTransport(tmp_path), python, job, files).cases
    assert len(case.rounds_wall_ns) == len(case.rounds_cpu_ns) == len(case.rounds_ns)
    assert case.cpu_share is not None
    assert case.cpu_share < 0.9
    reasons = verdict(case, make_run(case, settings=settings)).reasons
    assert any("other programs ran on its core" in reason for reason in reasons)
    assert case.images_per_s < 1e9 / case.median_ns


def test_seconds_and_cores(tmp_path: Path, model: Path) -> None:
    files = [read_model_file(model)]
    job = bench_job(files, Settings(seconds=0.2, cores="0"), [0], emulated=False)
    (case,) = run_job(BOARD, LocalTransport(tmp_path), PYTHON, job, files).cases
    assert len(case.rounds_ns) >= 5
    with pytest.raises(EdgemobileError, match=r"--cores 1000: the board does not have all of these cores. Allowed: 0"):
        run_job(BOARD, LocalTransport(tmp_path), PYTHON, bench_job(files, SETTINGS, [1000], emulated=False), files)


@pytest.mark.parametrize("fate", ["before", "after"])
def test_every_call_may_be_lost_once(tmp_path: Path, model: Path, fate: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of call fails at its first and third time; the first contact of all has to work."""
    transport = _Line(tmp_path, lambda call, count: fate if count in (1 + (call == "read"), 3) else None)
    events: list[Any] = []
    measured = _bench(transport, model, events)
    assert len(measured.cases[0].values_ns) == 20
    assert {"lost", "back"} <= {event["event"] for event in events}
    said = [record.getMessage() for record in caplog.records if record.name.startswith("edgemobile")]
    assert any("the connection is lost" in words for words in said)
    assert any("the connection is back" in words for words in said)
    # However often it was started, it measured once.
    assert sum(event["event"] == "opening" for event in events) == 1
    assert sum(event["event"] == "ended" for event in events) == 1


def test_a_long_break_in_the_middle_of_a_run(tmp_path: Path, model: Path) -> None:
    """The line goes away after the start and comes back long after the job has ended."""
    done = tmp_path / "jobs"

    def broken(call: str, count: int) -> str | None:
        started = any(done.glob("*/job.json"))
        return "before" if started and call == "read" and not any(done.glob("*/run.json")) else None

    events: list[Any] = []
    # Pauses are cut short here, and the worker takes its seconds to start: patience is not what is tried.
    line = _Line(tmp_path, broken)
    assert len(_bench(line, model, events, patience_s=1e6).cases[0].values_ns) == 20
    assert sum(event["event"] == "opening" for event in events) == 1


def test_a_board_that_stays_away(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DeviceUnreachable, match="does not answer"):
        _bench(_Line(tmp_path, lambda call, count: "before" if count > 1 else None), model, patience_s=1)
    never: list[Any] = []
    with pytest.raises(DeviceUnreachable):
        _bench(_Line(tmp_path, lambda call, count: "before"), model, never)
    assert never == []


def test_a_worker_that_dies_says_why(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "_SILENCE_S", 0.1)
    broken = _Python((sys.executable, "-c", "raise SystemExit('no module named numpy\\x1b[2J')"))
    files = [read_model_file(model)]
    with pytest.raises(EdgemobileError, match=r"worker on pi died: no module named numpy\?\[2J"):
        run_job(BOARD, LocalTransport(tmp_path), broken, bench_job(files, SETTINGS, [], emulated=False), files)


def test_a_name_that_cannot_be_shown(tmp_path: Path, model: Path) -> None:
    named = tmp_path / "\x1b[2J.onnx"
    named.write_bytes(model.read_bytes())
    with pytest.raises(EdgemobileError, match=r"'.*\\x1b\[2J.onnx' has unprintable characters"):
        _bench(LocalTransport(tmp_path), named)


def test_what_the_worker_refuses(tmp_path: Path, model: Path) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(model.read_bytes()[:200])
    for file, settings, reason in (
        (torn, SETTINGS, "onnxruntime cannot open"),
        (model, Settings(runtime="litert"), "does not read"),
    ):
        measured = _bench(LocalTransport(tmp_path / "root"), file, settings=settings)
        assert (measured.cases, [one.file for one in measured.refused]) == ((), [str(file)])
        assert reason in measured.refused[0].reason


def test_a_damaged_copy_is_noticed(tmp_path: Path, model: Path) -> None:
    file = read_model_file(model)
    (tmp_path / "files").mkdir()
    (tmp_path / job_file(file)["path"]).write_bytes(b"\x08" * file.bytes)
    with pytest.raises(EdgemobileError, match=r"copy of .* was damaged and is removed; try again"):
        _bench(LocalTransport(tmp_path), model)
    assert _bench(LocalTransport(tmp_path), model).cases


def test_a_model_of_this_job_is_kept_and_others_go_after_a_month(tmp_path: Path, model: Path) -> None:
    month = 31 * 86400
    now, used = time.time(), tmp_path / job_file(read_model_file(model))["path"]
    for path, age_s in ((used, month), (tmp_path / "files/old.onnx", month), (tmp_path / "files/new.onnx", 86400)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model.read_bytes())
        os.utime(path, (now - age_s, now - age_s))
    assert _bench(LocalTransport(tmp_path), model).cases
    assert {path.name for path in (tmp_path / "files").iterdir()} == {"new.onnx", used.name}
    # And for a month from now.
    assert used.stat().st_mtime > now - 60


def test_a_disk_that_fills_meanwhile(
    small_disk: Callable[[int], Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot write a word is not taken for one that ran out of memory."""
    monkeypatch.setattr(job_client, "_SILENCE_S", 0.1)
    root = small_disk(2**20)

    def fill(event: Any) -> None:
        if event["event"] == "opening":
            with suppress(OSError), (root / "of another").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    files = [read_model_file(model)]
    job = bench_job(files, Settings(runs=2000), [], emulated=False)
    with pytest.raises(EdgemobileError, match=f"the worker on pi died: the disk of {root} is full. Make room there"):
        run_job(BOARD, LocalTransport(root), PYTHON, job, files, fill)


def test_an_interrupt_stops_the_board_too(tmp_path: Path, model: Path) -> None:
    def interrupt(event: Any) -> None:
        if event["event"] == "round":
            raise KeyboardInterrupt

    files = [read_model_file(model)]
    job = bench_job(files, Settings(sustained_s=60), [], emulated=False)
    with pytest.raises(KeyboardInterrupt):
        run_job(BOARD, LocalTransport(tmp_path), PYTHON, job, files, interrupt)
    result = tmp_path / "jobs" / job["id"] / "run.json"
    for _ in range(100):
        if result.exists():
            break
        _nap(0.05)
    assert json.loads(result.read_text())["ended"] == "stopped"


@pytest.mark.parametrize("other", ["one", "two"])
def test_two_benches_exclude_each_other(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Also those of two users of a board, who have a root each."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for root in ("one", "two"):
        (tmp_path / root).mkdir()
    first, second, results = [], [], []
    held = threading.Event()

    def hold(event: Any) -> None:
        first.append(event)
        held.set()

    def run_first() -> None:
        results.append(_bench(LocalTransport(tmp_path / "one"), model, settings=Settings(sustained_s=2)))

    thread = threading.Thread(target=run_first)
    thread.start()
    lock = tmp_path / "edgemobile.lock"
    while not lock.exists():
        _nap(0.02)
    _nap(0.2)
    results.append(_bench(LocalTransport(tmp_path / other), model, second))
    thread.join()
    assert "waiting" in {event["event"] for event in second}
    assert len(results) == 2


def test_a_clock_that_jumps_by_weeks_removes_no_running_job(tmp_path: Path) -> None:
    """As on a board without a clock of its own, once it learns the date."""
    for name in ("ours", "running", "forgotten"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
    (tmp_path / "files").mkdir()
    before = time.time() - 30 * 86400
    with worker._claimed(tmp_path / "jobs" / "running") as claimed:
        assert claimed
        for name in ("running", "forgotten"):
            os.utime(tmp_path / "jobs" / name, (before, before))
        worker._sweep(tmp_path / "jobs" / "ours")
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["ours", "running"]


# ---- a board that lies ----------------------------------------------------------------------------------------------


class _Liar(LocalTransport):
    """Answers a read of `path` (its last part) with what `lie` makes of the truth."""

    def __init__(self, root: Path, path: str, lie: Callable[[bytes], bytes]) -> None:
        super().__init__(root)
        self.path, self.lie = path, lie

    def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
        if not Path(path).name.startswith(self.path):
            return super().read(path, offset=offset, max_bytes=max_bytes)
        truth = super().read(path, max_bytes=2**30)
        return None if truth is None else self.lie(truth)[offset : offset + max_bytes]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A job's folder after an honest run, for liars to start from."""
    root = tmp_path_factory.mktemp("recorded")
    _bench(LocalTransport(root), model)
    (job,) = (root / "jobs").iterdir()
    return job


class _Replay(_Liar):
    """A liar without a worker: it has what was recorded."""

    def __init__(self, root: Path, recorded: Path, path: str, lie: Callable[[bytes], bytes]) -> None:
        super().__init__(root, path, lie)
        self.recorded = recorded

    def start(self, argv: Any, **options: Any) -> None:
        folder = Path(self.root, argv[-1])
        for name in ("progress.jsonl", "run.json"):
            (folder / name).write_bytes((self.recorded / name).read_bytes())
        result = json.loads((folder / "run.json").read_text())
        result["token"] = json.loads((folder / "job.json").read_text())["token"]
        (folder / "run.json").write_text(json.dumps(result))


def test_the_recording_itself_is_believed(tmp_path: Path, model: Path, recorded: Path) -> None:
    assert len(_bench(_Replay(tmp_path, recorded, "run.json", lambda truth: truth), model).cases[0].values_ns) == 20


def _changed(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def lie(truth: bytes) -> bytes:
        result = json.loads(truth)
        change(result)
        return json.dumps(result).encode()

    return lie


def _case(**fields: Any) -> Callable[[bytes], bytes]:
    return _changed(lambda result: result["cases"][0].update(fields))


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (lambda truth: b"nonsense", "run.json of pi is not valid JSON"),
        (_changed(lambda result: result.update(version=99)), "not of version 2"),
        (_changed(lambda result: result.update(surprise=1)), "unknown 'surprise'"),
        (_changed(lambda result: result.update(emulated=True)), "an emulated board has no times"),
        (_changed(lambda result: result.update(cases=[])), "returned 0 cases; expected 1"),
        (_changed(lambda result: result["cases"].append(result["cases"][0])), "returned 2 cases; expected 1"),
        (_case(file="../../.ssh/authorized_keys"), "which is not in the job"),
        (_case(threads=4), "which is not in the job"),
        (_case(runtime="litert"), "reports that litert ran"),
        (_case(rounds_ns=[[float("nan")]]), "NaN is not a number"),
        (
            _case(rounds_ns=[[10**13]], rounds_per_process=[1], rounds_wall_ns=[1], rounds_cpu_ns=[1]),
            "reports 10000.0 s of inferences",
        ),
        (_case(rounds_ns="many"), "expected list"),
        (
            _case(rounds_ns=[], rounds_per_process=[], rounds_wall_ns=[], rounds_cpu_ns=[]),
            "has times, and no instructions",
        ),
        (_case(instructions=[dict.fromkeys(INSTRUCTION_CLASSES, 1)]), "has times, and no instructions"),
        (_case(version="1\x1b[31m"), "printable"),
        (_changed(lambda result: result.update(ended="error", kind="X", reason="a\x1b[2Jb")), r"pi: a\?\[2Jb"),
    ],
)
def test_a_lying_worker_is_refused(
    tmp_path: Path, model: Path, recorded: Path, lie: Callable[[bytes], bytes], said: str
) -> None:
    with pytest.raises(EdgemobileError, match=said) as caught:
        _bench(_Replay(tmp_path, recorded, "run.json", lie), model)
    assert str(caught.value).isprintable()


def test_a_run_of_two_gigabytes_is_not_read(tmp_path: Path, model: Path) -> None:
    class Endless(LocalTransport):
        taken = 0

        def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
            if not path.endswith("run.json") or super().read(path, max_bytes=1) is None:
                return super().read(path, offset=offset, max_bytes=max_bytes)
            self.taken += max_bytes
            return b" " * min(max_bytes, 2 * 2**30 - offset)

    transport = Endless(tmp_path)
    with pytest.raises(EdgemobileError, match=r"run\.json on pi is larger than the limit of 67108864 bytes"):
        _bench(transport, model)
    assert transport.taken < 80 * 2**20


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (b'{"event": "rm -rf"}\n', "wrote an invalid event"),
        (b'["round"]\n', "wrote an invalid event"),
        (b"x" * 70_000, "an event of more than 65536 bytes"),
        (b'{"event": "round"}\n' * 300_000, "more than 4194304 bytes of progress"),
    ],
)
def test_progress_that_is_none(tmp_path: Path, model: Path, recorded: Path, progress: bytes, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        _bench(_Replay(tmp_path, recorded, "progress.jsonl", lambda truth: progress), model)


def test_more_than_was_asked_for(tmp_path: Path, model: Path) -> None:
    class Flood(LocalTransport):
        def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
            return b"x" * (max_bytes + 1)

    with pytest.raises(EdgemobileError, match="sent 3 bytes; at most 2 were requested"):
        _bench(Flood(tmp_path), model)


# ---- chunks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def chunks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((count, 32, 32, 3)).astype(np.float32) for count in (4, 4, 3, 1)]


def _infer(transport: Any, model: Path, chunks: Any, events: list[Any] | None = None) -> Iterator[np.ndarray]:
    tell = None if events is None else events.append
    return infer(
        BOARD, transport, PYTHON, read_model_file(model), chunks, None, 1, tell, sleep=lambda s: _nap(min(s, 0.05))
    )


def _assert_right(model: Path, chunks: list[np.ndarray], answers: list[np.ndarray]) -> None:
    session = open_session(model)
    assert [len(answer) for answer in answers] == [len(images) for images in chunks]
    for images, answer in zip(chunks, answers, strict=True):
        np.testing.assert_array_equal(answer, session.run(images))


def test_chunks_come_back_in_order_and_leave_nothing(tmp_path: Path, model: Path, chunks: list[np.ndarray]) -> None:
    events: list[Any] = []
    _assert_right(model, chunks, list(_infer(LocalTransport(tmp_path), model, iter(chunks), events)))
    assert sum(event["event"] == "chunk" for event in events) == len(chunks)
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.parametrize("fate", ["before", "after"])
def test_a_line_that_keeps_breaking_loses_and_doubles_nothing(
    tmp_path: Path, model: Path, chunks: list[np.ndarray], fate: str
) -> None:
    transport = _Line(tmp_path, lambda call, count: fate if count > 1 and count % 3 == 0 else None)
    events: list[Any] = []
    _assert_right(model, chunks, list(_infer(transport, model, iter(chunks), events)))
    names = [event["name"] for event in events if event["event"] == "chunk"]
    assert len(set(names)) == len(chunks)
    assert "lost" in {event["event"] for event in events}


def test_an_interrupted_eval_takes_up_what_is_there(tmp_path: Path, model: Path, chunks: list[np.ndarray]) -> None:
    """The first call ends after two chunks, as by Ctrl-C; the second does only what is left."""
    first = _infer(LocalTransport(tmp_path), model, iter(chunks))
    taken = [next(first), next(first)]
    first.close()
    puts: list[str] = []

    class Watched(LocalTransport):
        def put(self, source: Any, target: str, **options: Any) -> None:
            puts.append(Path(target).name)
            super().put(source, target, **options)

    answers = list(_infer(Watched(tmp_path), model, iter(chunks)))
    _assert_right(model, chunks, answers)
    np.testing.assert_array_equal(answers[0], taken[0])
    assert not [name for name in puts if name.startswith(("input-000000", "input-000001"))]
    assert [name for name in puts if name.startswith("input-000003")]


@pytest.mark.parametrize("others", [False, True])
def test_two_evals_of_one_file_at_once(tmp_path: Path, model: Path, chunks: list[np.ndarray], others: bool) -> None:
    """Of other images, and of the same: the first to end takes nothing from the other."""
    theirs = [images + 1 for images in chunks] if others else chunks
    first = _infer(LocalTransport(tmp_path), model, iter(chunks))
    answers = [next(first)]
    _assert_right(model, theirs, list(_infer(LocalTransport(tmp_path), model, iter(theirs))))
    # Long gone if it shared the folder.
    assert [path.name for path in (tmp_path / "jobs").iterdir()]
    _assert_right(model, chunks, [*answers, *first])
    assert list((tmp_path / "jobs").iterdir()) == []


def test_an_eval_of_other_images_does_not_count_what_an_interrupted_one_left(
    tmp_path: Path, model: Path, chunks: list[np.ndarray]
) -> None:
    """Even where the first images are the same."""
    first = _infer(LocalTransport(tmp_path), model, iter(chunks))
    next(first)
    next(first)
    first.close()
    events: list[Any] = []
    ours = [chunks[0], chunks[1] + 1]
    _assert_right(model, ours, list(_infer(LocalTransport(tmp_path), model, iter(ours), events)))
    assert sum(event["images"] for event in events if event["event"] == "chunk") == 8


def test_a_worker_that_is_killed_is_started_again(
    tmp_path: Path, model: Path, chunks: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by the kernel in the middle: the rest is computed by another, and nothing twice."""
    monkeypatch.setattr(job_client, "_SILENCE_S", 1.0)
    started: list[list[str]] = []

    class Mortal(LocalTransport):
        def start(self, argv: Any, **options: Any) -> None:
            started.append(list(argv))
            deadly = (argv[0], "-c", "raise SystemExit(9)")
            super().start(deadly if len(started) == 1 else argv, **options)

    _assert_right(model, chunks, list(_infer(Mortal(tmp_path), model, iter(chunks))))
    # More than once where the second took long to begin; then it finds the first at work and leaves.
    assert len(started) >= 2


def test_an_answer_that_finds_no_room(tmp_path: Path, model: Path, chunks: list[np.ndarray]) -> None:
    """A disk that has room for the words about it."""

    class Full(LocalTransport):
        def put(self, source: Any, target: str, **options: Any) -> None:
            if "/input-" in target:
                self._made(target.replace("/input-", "/output-")).with_suffix(".partial").symlink_to("/dev/full")
            super().put(source, target, **options)

    with pytest.raises(
        EdgemobileError, match=r"pi: the disk is full \(.*No space left on device.*\)\. Make room there"
    ):
        list(_infer(Full(tmp_path), model, iter(chunks)))
    assert not list(tmp_path.rglob("output-000000-*.partial"))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _huge(truth: bytes) -> bytes:
    """A header that states 4 TB."""
    return _npy(np.zeros((1, 1), np.float32)).replace(b"(1, 1)", b"(4, 2**38)".ljust(6))[:200]


@pytest.mark.parametrize(
    "lie",
    [
        lambda truth: b"",
        lambda truth: b"nonsense",
        lambda truth: truth[:-4],
        lambda truth: _npy(np.zeros((4, 3), np.float64)),
        lambda truth: _npy(np.zeros((5, 3), np.float32)),
        lambda truth: _npy(np.zeros((4,), np.float32)),
        lambda truth: _npy(np.array([[object()]])),
        _huge,
    ],
)
def test_outputs_of_another_shape_are_refused(
    tmp_path: Path, model: Path, chunks: list[np.ndarray], lie: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(EdgemobileError, match=r"pi returned .*float32\[4, classes\]"):
        next(_infer(_Liar(tmp_path, "output-", lie), model, iter(chunks)))


def test_the_number_of_classes_may_not_change(tmp_path: Path, model: Path, chunks: list[np.ndarray]) -> None:
    answers = _infer(_Liar(tmp_path, "output-000001", lambda truth: _npy(np.zeros((4, 2), np.float32))), model, chunks)
    next(answers)
    with pytest.raises(EdgemobileError, match=r"float32\[4, 3\]"):
        next(answers)


def test_nan_is_an_answer(tmp_path: Path, model: Path, chunks: list[np.ndarray]) -> None:
    """A broken model gives nan on any machine; the evaluation counts it as wrong."""
    images = np.full((2, 32, 32, 3), np.nan, np.float32)
    (answer,) = _infer(LocalTransport(tmp_path), model, iter([images]))
    assert np.isnan(answer).all()


# ---- counts, under emulation ----------------------------------------------------------------------------------------


class _Counting(LocalTransport):
    """Says it is emulated, and has counts as the plugin writes them: 1000 instructions an inference, 7 of them dot."""

    emulated = True
    marks = 10

    def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
        if not path.endswith("/counts"):
            return super().read(path, offset=offset, max_bytes=max_bytes)
        lines = []
        for mark in range(self.marks):
            counts = dict.fromkeys(INSTRUCTION_CLASSES, 0)
            counts.update(total=500 + 1000 * mark, dot=7 * mark, other=500 + 993 * mark)
            lines.append(json.dumps({"mark": mark, **counts}))
        return ("\n".join(lines) + "\n").encode()[offset : offset + max_bytes]


def test_instructions_instead_of_time(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("edgemobile.devices.host.emulation")
    measured = _bench(_Counting(tmp_path), model, settings=Settings())
    (case,) = measured.cases
    assert measured.emulated
    assert (case.load_ns, case.first_ns, case.warmup_ns, case.rounds_ns) == (None, None, (), ())
    assert [counts["total"] for counts in case.instructions or ()] == [1000] * 5
    assert case.instructions_median["dot"] == 7


def test_counts_that_do_not_fit_the_inferences(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("edgemobile.devices.host.emulation")

    class Short(_Counting):
        marks = 9

    with pytest.raises(EdgemobileError, match="9 marks"):
        _bench(Short(tmp_path), model, settings=Settings())
