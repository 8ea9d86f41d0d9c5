"""What runs on the board: `python -m edgemobile.devices.board.worker jobs/<id>` does the job in that folder.

In the folder: job.json, written by the host, with a token of its own for every attempt; progress.jsonl, a line an
event; run.json, written whole and last, however the job ended, with the token. Starting it twice is harmless: the
second sees the first at work, or its result, and leaves. So the host may lose the connection at any moment, and come
back.

    --state JOB                    prints running, finished, dead, or full: dead, and the disk has no room; what a power
                                   cut damaged in the folder of a dead one is removed
    --start JOB NUMBER SINCE FILES one of the processes that the inferences of a bench are spread over, without FILES
    --memory JOB FILE THREADS      a process of its own for the peak memory of one file
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

from edgemobile.devices.board.measuring import bench, memory, read_file, start
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
# For the images of one message, a few MiB of them, also where the core is emulated.
_CHUNK_S = 3600.0
_OLD_JOB_S, _OLD_FILE_S = 7 * 86400, 30 * 86400
# A worker that cannot write cannot say so either.
_NO_ROOM_BYTES = 2**16


class _Stopped(Exception):
    """The host asked to stop."""


class _Idle(Exception):
    """The host is gone, for a while or for good. Nothing has ended: it finds its outputs when it comes back."""


class _Job:
    """A job's folder. See devices/board/measuring.py for what others may use of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: Any = json.loads((folder / "job.json").read_text())
        if self.spec["version"] != JOB_VERSION:
            raise EdgemobileError(f"a job of version {self.spec['version']}; this worker does version {JOB_VERSION}")

    def tell(self, event: EventName, **facts: Any) -> None:
        with (self.folder / "progress.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")
            if event == "chunk":
                # As its answer is: the time belongs to it.
                file.flush()
                os.fsync(file.fileno())

    def asked(self, what: str) -> bool:
        """Whether the host, the one that wrote job.json last, put a file `what` there: "stop", "end"."""
        try:
            token = (self.folder / what).read_text()
            return token == json.loads((self.folder / "job.json").read_text())["token"]
        except FileNotFoundError:
            return False

    def check(self) -> None:
        if self.asked("stop"):
            raise _Stopped("stopped by the host")
        # Nobody comes back for a measurement; for an eval, its next run does.
        if self.spec["kind"] == "bench" and owner_is_gone():
            raise _Stopped("the process that asked for it has ended")

    @contextmanager
    def board(self, *, alone: bool) -> Iterator[None]:
        """The board for us alone while we measure, shared while we only compute."""
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        with (self.folder.parent.parent / "lock").open("a") as ours:
            self._lock(ours.fileno(), how)
            everybodys = None if self.spec["emulated"] else _open_board_lock()
            try:
                if everybodys is not None:
                    self._lock(everybodys, how)
                yield
            finally:
                if everybodys is not None:
                    os.close(everybodys)

    def _lock(self, file: int, how: int) -> None:
        for waited in range(1 << 30):
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
                return
            except OSError:
                self.check()
                if waited % 50 == 0:
                    self.tell("waiting", by=_holders(file))
                time.sleep(_POLL_S)


def _open_board_lock() -> int | None:
    """A file that the users of a board share, each with a root of their own; None where there can be none.

    Reading it is enough for a lock, so nobody has to be able to write what is another's.
    """
    path = os.path.join(tempfile.gettempdir(), "edgemobile.lock")
    for flags in (0, os.O_CREAT | os.O_EXCL, 0):
        with suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o444)
    return None


def _holders(file: int) -> str:
    """The numbers of the processes that have locked an open file, as /proc/locks lists them; "" if it does not."""
    found = os.fstat(file)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return ""
    # "1: FLOCK ADVISORY WRITE 4711 fe:01:98 0 EOF", and "1: -> ..." for one that waits. 0 is in another container.
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
    """Do a part of a job and print the answer as JSON in a line; an error that is known is one, too."""
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
        _keep(job)
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
            job.tell("ended")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error}). Make room there"
    return f"{type(error).__name__}: {error}"


def _is_done(folder: Path, token: str) -> bool:
    """Whether there is a result, and of this attempt: an answer to an earlier one is not one to this."""
    try:
        return bool(json.loads((folder / "run.json").read_bytes())["token"] == token)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the job; another one at it keeps it. The kernel lets go when a process dies."""
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


def _keep(job: _Job) -> None:
    """Mark the models of a job as used: many boards do not note when a file was read."""
    for row in job.spec["files"]:
        with suppress(FileNotFoundError):
            os.utime(job.folder.parent.parent / row["path"])


def _sweep(folder: Path) -> None:
    """Remove what nobody came back for: jobs of a week ago that are not running, and models not used for a month.

    Where a board has no clock of its own, time jumps by weeks when it learns the date: age alone says nothing.
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
    # Counts do not depend on what else runs, and all emulated cores of a machine are one board here.
    with job.board(alone=not job.spec["emulated"]):
        return bench(job)


def _infer(job: _Job) -> dict[str, Any]:
    """Answer every input-*.npy, f32[N,H,W,C], with an output-*.npy of the same name, the rows f32[N,values], until
    `end`.

    A job of `layers` has a file of several outputs, and is answered with all of them, flat in one row.
    Outputs stay until then, so that a host that comes back finds what was done. An input goes only once its output is
    written: whenever this stops, nothing is lost and nothing is done twice.
    """
    spec: InferJob = job.spec
    (row,) = spec["files"]
    with job.board(alone=False):
        opened = open_layers if spec["layers"] else open_session
        data = read_file(job, row)
        import_runtime(spec["runtime"] or default_runtime(row["format"]))
        limit_memory(len(data))
        with limit_time(_CHUNK_S):
            session = opened(data, runtime=spec["runtime"], threads=spec["threads"])
    job.tell("opened", runtime=session.runtime, version=session.version)
    last = time.monotonic()
    while not job.asked("end"):
        job.check()
        given = sorted(job.folder.glob("input-*.npy"))
        for path in given:
            with job.board(alone=False), limit_time(_CHUNK_S):
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
        # On a full disk that leaves room for the words about it.
        partial.unlink(missing_ok=True)
        raise
    # InferenceStats first: who finds the output has heard of it.
    job.tell("chunk", name=path.stem.partition("-")[2], images=len(images), ns=ns)
    replace_synced(partial, target)
    path.unlink()


_KINDS = {"bench": _bench, "infer": _infer}
_PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "--start": lambda job, number, since, left_out="": start(
        job, int(number), float(since), tuple(map(int, filter(None, left_out.split(","))))
    ),
    "--memory": lambda job, index, threads: memory(job, int(index), int(threads)),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
