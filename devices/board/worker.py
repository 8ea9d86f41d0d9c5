"""The worker on the board: `python -m edgemobile.devices.board.worker jobs/<id>` runs the job in that folder.

The folder contains job.json, written by the host with a new token for every attempt; progress.jsonl, one line per
event; and run.json, written atomically when the job has ended, with the token of the attempt. A second worker for the
same job exits if the first one is running or has left a result. The host can therefore lose the connection at any time
and start the worker again.

    --state JOB                       prints running, finished, dead, or full (dead, and the disk is full); removes what
                                      a power cut damaged in the folder of a dead job
    --process JOB NUMBER SINCE FILES  runs one of the processes of a bench, without the files with the indices FILES
    --memory JOB FILE THREADS         measures the peak memory of one file, by its index
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgemobile.devices.board.measuring import bench, bench_process, peak_memory, read_file
from edgemobile.devices.board.parts import PARENT_VARIABLE
from edgemobile.devices.board.repair import remove_damaged
from edgemobile.devices.runtimes.job import JOB_VERSION, EventName, InferJob
from edgemobile.devices.runtimes.limits import end_with_parent, limit_memory, limit_time, owner_is_gone
from edgemobile.devices.runtimes.sessions import Session, import_runtime, open_layers, open_session
from edgemobile.devices.runtimes.table import default_runtime
from edgemobile.errors import EdgemobileError
from edgemobile.util.writing import replace_synced

__all__ = ["main"]

_POLL_S = 0.02
_IDLE_S = 120
# The time limit for one chunk of images, a few MiB; long enough for an emulated core.
_CHUNK_S = 3600.0
_OLD_JOB_S, _OLD_FILE_S = 7 * 86400, 30 * 86400
# With less free space than this, a dead worker may have failed to write its result, and the error too.
_NO_ROOM_BYTES = 2**16


class _Stopped(Exception):
    """The host asked the worker to stop."""


class _Idle(Exception):
    """The host has sent nothing for a while. The job is not finished: if the host returns, it finds the outputs."""


class _Job:
    """A job in its folder; measuring.Job is the part that a measurement uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: Any = json.loads((folder / "job.json").read_text())
        if self.spec["version"] != JOB_VERSION:
            raise EdgemobileError(f"a job of version {self.spec['version']}; this worker runs version {JOB_VERSION}")

    def emit(self, event: EventName, **facts: Any) -> None:
        with (self.folder / "progress.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")
            if event == "chunk":
                # The answer is synced to the disk too, and the event contains its time.
                file.flush()
                os.fsync(file.fileno())

    def asked(self, what: str) -> bool:
        """Whether the host that wrote job.json last also wrote the file `what`: "stop" or "end"."""
        try:
            token = (self.folder / what).read_text()
            return token == json.loads((self.folder / "job.json").read_text())["token"]
        except FileNotFoundError:
            return False

    def check(self) -> None:
        if self.asked("stop"):
            raise _Stopped("stopped by the host")
        # An interrupted eval is resumed by the next one; an interrupted measurement is not.
        if self.spec["kind"] == "bench" and owner_is_gone():
            raise _Stopped("the process that started the job has ended")

    @contextmanager
    def lock_board(self, *, exclusive: bool) -> Iterator[None]:
        """Lock the board: a measurement needs it exclusively, other jobs share it."""
        how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        with (self.folder.parent.parent / "lock").open("a") as own_lock:
            self._lock(own_lock.fileno(), how)
            shared_lock = None if self.spec["emulated"] else _open_shared_lock()
            try:
                if shared_lock is not None:
                    self._lock(shared_lock, how)
                yield
            finally:
                if shared_lock is not None:
                    os.close(shared_lock)

    def _lock(self, file: int, how: int) -> None:
        for waited in range(1 << 30):
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
                return
            except OSError:
                self.check()
                if waited % 50 == 0:
                    self.emit("waiting", by=_holders(file))
                time.sleep(_POLL_S)


def _open_shared_lock() -> int | None:
    """The lock file shared by all users of the board, who have different roots; None if it cannot be created.

    It is opened for reading, which is enough for a lock: no user needs write access to another user's file.
    """
    path = os.path.join(tempfile.gettempdir(), "edgemobile.lock")
    for flags in (0, os.O_CREAT | os.O_EXCL, 0):
        with suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o444)
    return None


def _holders(file: int) -> str:
    """The ids of the processes that have locked an open file, "4711, 4712"; "" if /proc/locks does not list any."""
    found = os.fstat(file)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return ""
    # "1: FLOCK ADVISORY WRITE 4711 fe:01:98 0 EOF"; "1: -> ..." is waiting; id 0 is a process of another container.
    pids = {row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == wanted and row[4] != "0"}
    return ", ".join(sorted(pids))


def main(argv: list[str]) -> int:
    if PARENT_VARIABLE in os.environ:
        end_with_parent(int(os.environ[PARENT_VARIABLE]))
    if argv[0] == "--state":
        print(_state(Path(argv[1])))
    elif argv[0] in _PARTS:
        return _part(argv[0], Path(argv[1]), *argv[2:])
    else:
        _work(Path(argv[0]))
    return 0


def _part(which: str, folder: Path, *words: str) -> int:
    """Run a part of a job and print its result, or its expected error, as one line of JSON."""
    try:
        answer, code = _PARTS[which](_Job(folder), *words), 0
    except (EdgemobileError, _Stopped) as error:
        answer, code = {"kind": type(error).__name__, "reason": str(error)}, 1
    print(json.dumps(answer))
    return code


def _work(folder: Path) -> None:
    with _claimed(folder) as ours:
        job = _Job(folder)
        if not ours or _is_done(folder, job.spec["token"]):
            return
        _mark_used(job)
        _sweep(folder)
        try:
            result = {"ended": "done", **_KINDS[job.spec["kind"]](job)}
        except _Idle:
            return
        except _Stopped as stopped:
            result = {"ended": "stopped", "reason": str(stopped)}
        except EdgemobileError as error:
            result = {"ended": "error", "kind": type(error).__name__, "reason": str(error)}
        except Exception as error:
            traceback.print_exc()
            result = {"ended": "error", "kind": type(error).__name__, "reason": _reason(error)}
        if folder.is_dir():
            ended = {"version": JOB_VERSION, "token": job.spec["token"], **result}
            _write_whole(folder / "run.json", json.dumps(ended).encode())
            job.emit("ended")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error}). Make room there"
    return f"{type(error).__name__}: {error}"


def _is_done(folder: Path, token: str) -> bool:
    """Whether the folder contains the result of the attempt with this token, rather than of an earlier attempt."""
    try:
        return bool(json.loads((folder / "run.json").read_bytes())["token"] == token)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Locks the job; False if another process has the lock. The kernel releases the lock of a process that dies."""
    with (folder / "running").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _state(folder: Path) -> str:
    if not folder.is_dir():
        return "dead"
    with _claimed(folder) as ours:
        if not ours:
            return "running"
        remove_damaged(folder)
        if not (folder / "job.json").exists():
            return "dead"
        if _is_done(folder, _Job(folder).spec["token"]):
            return "finished"
        return "full" if shutil.disk_usage(folder).free < _NO_ROOM_BYTES else "dead"


def _mark_used(job: _Job) -> None:
    """Set the modification time of the job's models: many boards do not record when a file was read."""
    for row in job.spec["files"]:
        with suppress(FileNotFoundError):
            os.utime(job.folder.parent.parent / row["path"])


def _sweep(folder: Path) -> None:
    """Remove jobs that are a week old and not running, and models that were not used for a month.

    On a board without a real-time clock the time jumps by weeks once it has a network, so a running job may look old.
    """
    now = time.time()
    # Another worker may be sweeping too.
    for job in folder.parent.iterdir():
        with suppress(OSError):
            if job != folder and now - job.stat().st_mtime > _OLD_JOB_S:
                with _claimed(job) as ours:
                    if ours:
                        shutil.rmtree(job, ignore_errors=True)
    for file in (folder.parent.parent / "files").iterdir():
        with suppress(FileNotFoundError):
            if now - file.stat().st_mtime > _OLD_FILE_S:
                file.unlink()


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    replace_synced(partial, path)


# ---- kinds of jobs --------------------------------------------------------------------------------------------------


def _bench(job: _Job) -> dict[str, Any]:
    # Instruction counts do not depend on other processes; all emulated cores of a machine share one root.
    with job.lock_board(exclusive=not job.spec["emulated"]):
        return bench(job)


def _infer(job: _Job) -> dict[str, Any]:
    """Compute output-*.npy, f32[N,values], for every input-*.npy, f32[N,H,W,C], until the host writes `end`.

    With `layers`, a row contains all outputs of the file, flattened. Outputs are kept until `end`, so that a host that
    reconnects finds them. An input is removed after its output is written, so an interruption loses no output and
    repeats no work.
    """
    spec: InferJob = job.spec
    (row,) = spec["files"]
    with job.lock_board(exclusive=False):
        opened = open_layers if spec["layers"] else open_session
        data = read_file(job, row)
        import_runtime(spec["runtime"] or default_runtime(row["format"]))
        limit_memory(len(data))
        with limit_time(_CHUNK_S):
            session = opened(data, runtime=spec["runtime"], threads=spec["threads"])
    job.emit("opened", runtime=session.runtime, version=session.version)
    last = time.monotonic()
    while not job.asked("end"):
        job.check()
        given = sorted(job.folder.glob("input-*.npy"))
        for path in given:
            with job.lock_board(exclusive=False), limit_time(_CHUNK_S):
                _answer(job, session, path)
            last = time.monotonic()
        if not given:
            time.sleep(_POLL_S)
        if time.monotonic() - last > _IDLE_S:
            raise _Idle
    shutil.rmtree(job.folder)
    return {}


def _answer(job: _Job, session: Session, path: Path) -> None:
    images = np.load(path, allow_pickle=False)
    session.settle(images.shape[1])
    start = time.perf_counter_ns()
    outputs = session.run_all(images) if job.spec["layers"] else [session.rows(images)]
    ns = 0 if job.spec["emulated"] else time.perf_counter_ns() - start
    answer = np.concatenate([array.reshape(len(images), -1).astype(np.float32) for array in outputs], axis=1)
    target = path.with_name(path.name.replace("input", "output", 1))
    partial = target.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            np.save(file, answer)
    except OSError:
        # On a full disk this makes room for the error message.
        partial.unlink(missing_ok=True)
        raise
    # The event comes first: a host that finds the output must already have its time.
    job.emit("chunk", name=path.stem.partition("-")[2], images=len(images), ns=ns)
    replace_synced(partial, target)
    path.unlink()


_KINDS = {"bench": _bench, "infer": _infer}
_PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "--process": lambda job, number, since, left_out="": bench_process(
        job, int(number), float(since), tuple(map(int, filter(None, left_out.split(","))))
    ),
    "--memory": lambda job, index, threads: peak_memory(job, int(index), int(threads)),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
