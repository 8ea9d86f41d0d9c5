"""Runs one job on one board: sends it, starts it, follows it, and checks everything that comes back.

A lost connection does not end a job: it goes on there, and the client retries and resumes it by its id. Every step can
be repeated without harm: files are named by their content, a second worker beside a first one leaves at once, a
finished job is not run again.

A board that restarts in the middle, as after a power cut, is known by its boot id: the worker is started again at once,
and what it had not answered is sent again.

What a user should hear at once goes to the log, which commands print (terminal.py): the connection is lost, is back,
another measurement has the board.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from edgemobile.devices.host.records import MAX_RUN_BYTES
from edgemobile.devices.host.transport import DeviceUnreachable, Transport, disk_full
from edgemobile.devices.runtimes.job import EVENTS, JOB_VERSION, MAX_LINE_BYTES, MAX_PROGRESS_BYTES, Job, JobFile
from edgemobile.devices.runtimes.limits import TIMED_OUT
from edgemobile.errors import EdgemobileError, MissingExtra, Unsupported
from edgemobile.model_file.model_file import ModelFile
from edgemobile.util.strict_json import parse

__all__ = ["PATIENCE_S", "Chunk", "Event", "JobClient", "Named", "OnProgress", "Prepared", "job_file"]

PATIENCE_S = 300.0

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
Event = Mapping[str, Any]
OnProgress = Callable[[Event], None]

_WORKER = ("-m", "edgemobile.devices.board.worker")
# Another one each time the kernel starts.
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_KINDS: Mapping[str, type[EdgemobileError]] = {"MissingExtra": MissingExtra, "Unsupported": Unsupported}

_READ_BYTES = 2**20
# Each look takes some of the board's time, and it is measuring.
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _LONGEST_CHUNK_PAUSE_S = 0.02, 1.0, 0.5
_QUIET_S, _LONGEST_QUIET_S = 5.0, 60.0
_EMULATED_IS_SLOWER = 6
_RESTARTS = 2


class Prepared(Protocol):
    """How to start Python on the board, with a runtime; setup.ready gives one."""

    @property
    def python(self) -> tuple[str, ...]: ...

    @property
    def env(self) -> Mapping[str, str]: ...


class Named(Protocol):
    @property
    def name(self) -> str: ...


def _path_there(file: ModelFile) -> str:
    """What a model file is called on a board: its content decides, never its name."""
    return f"files/{file.sha256}.{file.format}"


def job_file(file: ModelFile, precision: str = "unknown") -> JobFile:
    """`file` as a job names it. Raises EdgemobileError for a name that cannot be shown."""
    if not str(file.path).isprintable():
        raise EdgemobileError(f"the file name {str(file.path)!r} cannot be shown; rename it to printable characters")
    return {
        "file": str(file.path),
        "path": _path_there(file),
        "sha256": file.sha256,
        "bytes": file.bytes,
        "format": file.format,
        "precision": precision,
    }


@dataclass(frozen=True)
class Chunk:
    """Images on their way: `data` is an .npy file, `name` tells it from all others by number and content."""

    name: str
    images: int
    data: bytes


class JobClient:
    """One job on one board. Every method retries when the connection is lost, with growing pauses."""

    def __init__(
        self,
        named: str,
        transport: Transport,
        prepared: Prepared,
        folder: str,
        on_progress: OnProgress | None,
        patience_s: float,
        sleep: Callable[[float], None],
    ) -> None:
        self.named, self.folder = named, folder
        self.waiting: Collection[Chunk] = ()
        # What whoever reads the result has to know.
        self.notes: list[str] = []
        self._transport, self._prepared = transport, prepared
        self._tell: OnProgress = on_progress or (lambda event: None)
        self._patience_s, self._sleep = patience_s, sleep
        self._token = uuid.uuid4().hex
        self._reached = self._counting = False
        self._lost = self._back = self._ended = False
        self._job_json = self._boot_id = b""
        self._heard = 0.0
        self._restarts = 0
        self._quiet_s = _QUIET_S * (_EMULATED_IS_SLOWER if transport.emulated else 1)
        self._progress = b""
        self._progress_read = 0

    # -- files

    def put(self, source: bytes, target: str) -> None:
        self._retry(lambda: self._transport.put(source, target))

    def send(self, chunk: Chunk) -> None:
        """Bring the images of a chunk. A power cut may take them: they can be sent again, and flash wears."""
        self._retry(lambda: self._transport.put(chunk.data, self.input(chunk), durable=False))

    def read(self, path: str, max_bytes: int, offset: int = 0) -> bytes | None:
        """At most `max_bytes`, whatever the board has or says."""
        data = self._retry(lambda: self._transport.read(path, offset=offset, max_bytes=max_bytes))
        if data is not None and len(data) > max_bytes:
            raise EdgemobileError(f"{self.named} sent {len(data)} bytes where {max_bytes} were asked for")
        return data

    def read_whole(self, path: str, max_bytes: int) -> bytes | None:
        """All of a file. Raises EdgemobileError where it is larger than `max_bytes`."""
        parts: list[bytes] = []
        size = 0
        while size <= max_bytes:
            part = self.read(path, _READ_BYTES, size)
            if part is None:
                return None
            parts.append(part)
            size += len(part)
            if len(part) < _READ_BYTES:
                break
        if size > max_bytes:
            raise EdgemobileError(f"{path} on {self.named} is larger than {max_bytes} bytes, which is refused")
        return b"".join(parts)

    def input(self, chunk: Chunk) -> str:
        return f"{self.folder}/input-{chunk.name}.npy"

    def output(self, chunk: Chunk) -> str:
        return f"{self.folder}/output-{chunk.name}.npy"

    # -- the job

    def recover(self) -> bool:
        """Whether the job's folder is there from before. What a power cut damaged in it is removed."""
        if self.read(f"{self.folder}/running", 1) is None:
            return False
        self._ask_state()
        return True

    def begin(self, job: Job, files: Sequence[ModelFile]) -> None:
        """Bring what the board has not, and start the worker."""
        for file in files:
            target = _path_there(file)
            # A file is put whole or not at all: its last byte and no byte more says that it is there.
            if len(self.read(target, 2, file.bytes - 1) or b"") != 1:
                self.put(file.data, target)
        self._counting = job["kind"] == "bench" and job["emulated"]
        self._job_json = json.dumps({**job, "token": self._token}).encode()
        self._boot_id = self._ask_boot_id()
        self._start()

    def follow(self) -> Mapping[str, Any]:
        """The worker's result, once it has one, whatever happens to the connection. Raises what the worker raised."""
        return self._wait(lambda: self._result() if self._ended else None, _LONGEST_PAUSE_S)

    def answer(self, chunk: Chunk, max_bytes: int) -> bytes:
        """The output of a chunk, once it is there. Raises what the worker raised."""

        def look() -> bytes | None:
            data = self.read_whole(self.output(chunk), max_bytes)
            if data is None and self._ended:
                self._result()
            return data

        data = self._wait(look, _LONGEST_CHUNK_PAUSE_S)
        self._restarts = 0
        return data

    def end(self) -> None:
        """All chunks are answered: the worker clears the job away."""
        self.put(self._token.encode(), f"{self.folder}/end")
        for _ in range(50):
            if self.read(f"{self.folder}/job.json", 1) is None:
                return
            self._sleep(0.1)

    def stop(self, *, discard: bool = False) -> None:
        """Ask the worker to stop, if it can be asked at once: called while something else went wrong.

        With `discard` it also clears the job away, which cannot be resumed then.
        """
        try:
            if self._reached:
                self._transport.put(self._token.encode(), f"{self.folder}/{'end' if discard else 'stop'}")
        except EdgemobileError:
            pass

    # -- underneath

    def _retry(self, step: Callable[[], _T]) -> _T:
        pause, lost = 0.5, 0.0
        while True:
            try:
                done = step()
            except DeviceUnreachable as error:
                # A board that never answered is off, or misspelt; one that did will be back.
                if not self._reached or lost > self._patience_s:
                    raise
                self._lost = True
                if not lost:
                    _LOG.warning(
                        "%s: the connection is lost; retrying. The work goes on there if the board is still on",
                        self.named,
                    )
                self._tell({"event": "lost", "reason": str(error)})
                self._sleep(pause)
                lost += pause
                pause = min(2 * pause, 15.0)
            else:
                if lost:
                    _LOG.warning("%s: the connection is back", self.named)
                    self._tell({"event": "back"})
                    self._back = True
                self._reached = True
                return done

    def _ask_boot_id(self) -> bytes:
        """b"" where the board has none."""
        done = self._retry(lambda: self._transport.run(["cat", _BOOT_ID]))
        return b"" if done.returncode else done.stdout.strip()

    def _start(self) -> None:
        self.put(self._job_json, f"{self.folder}/job.json")
        argv = [*self._prepared.python, *_WORKER, self.folder]
        env = dict(self._prepared.env)
        if self._counting:
            env["EDGEMOBILE_COUNTS"] = f"{self.folder}/counts"
        self._retry(lambda: self._transport.start(argv, log=f"{self.folder}/log", env=env))

    def _wait(self, look: Callable[[], _T | None], longest_pause_s: float) -> _T:
        """What `look` finds, looking less and less often while the worker has nothing to say."""
        pause, waiting = _SHORTEST_PAUSE_S, False
        self._heard = time.monotonic()
        while True:
            found = look()
            events = self._events()
            if not waiting and (told := next((event for event in events if event["event"] == "waiting"), None)):
                waiting = True
                _LOG.warning(
                    "%s: another measurement%s has the board; waiting for it",
                    self.named,
                    f" (process {told['by']} there)" if told.get("by") else "",
                )
            for event in events:
                self._tell(event)
            if found is not None:
                return found
            if not self._ended and any(event["event"] == "ended" for event in events):
                self._ended = True
                continue
            if events:
                self._heard = time.monotonic()
            elif time.monotonic() - self._heard > self._quiet_s:
                self._look_after_worker()
            self._sleep(pause)
            pause = min(2 * pause, longest_pause_s)

    def _came_back_from_a_reboot(self) -> bool:
        back, self._back = self._back, False
        return back and self._rebooted()

    def _rebooted(self) -> bool:
        return b"" not in (now := self._ask_boot_id(), self._boot_id) and now != self._boot_id

    def _ask_state(self) -> bytes:
        argv = [*self._prepared.python, *_WORKER, "--state", self.folder]
        done = self._retry(lambda: self._transport.run(argv, timeout_s=120, env=dict(self._prepared.env)))
        return done.stdout.strip()

    def _look_after_worker(self) -> None:
        """What to do about silence: look whether its images are there while it works, and start it again if it died."""
        state = self._ask_state()
        self._heard = time.monotonic()
        if state == b"running":
            self._send_missing_chunks()
            self._quiet_s = min(2 * self._quiet_s, _LONGEST_QUIET_S)
        elif state == b"finished" and self._result() is not None:
            self._ended = True
        elif state == b"full":
            raise EdgemobileError(f"the worker on {self.named} died: {disk_full(self._transport.root, movable=False)}")
        else:
            self._restart_worker()

    def _restart_worker(self) -> None:
        rebooted = self._rebooted()
        if self._restarts == _RESTARTS and rebooted:
            raise EdgemobileError(
                f"{self.named} restarted {_RESTARTS + 1} times during this job. Check its power supply, and try again"
            )
        # A bench that died by itself would die again, or worse, not. Chunks can be asked for again.
        if self._restarts == _RESTARTS or not (rebooted or self._lost or self.waiting):
            raise EdgemobileError(f"the worker on {self.named} died: {self._last_words()}")
        self._tell_of_restart("the board restarted" if rebooted else "the worker died")
        self._restarts += 1
        self._lost, self._boot_id = False, self._ask_boot_id()
        # Progress is shorter now, if a power cut damaged it.
        self._progress, self._progress_read = b"", 0
        self._send_missing_chunks()
        self._start()

    def _tell_of_restart(self, happened: str) -> None:
        again = "images without an answer are sent again" if self.waiting else "the measurement begins again"
        _LOG.warning("%s: %s; %s", self.named, happened, again)
        # One that had told nothing had not begun.
        if self._progress_read:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.notes.append(f"{happened} during this run; everything was measured again from {now}")

    def _send_missing_chunks(self) -> None:
        """Send again what is waited for and has neither its images there nor an answer."""
        for chunk in self.waiting:
            # In this order: the worker removes the images once the answer is there.
            if not self.read(self.input(chunk), 1) and not self.read(self.output(chunk), 1):
                self.send(chunk)

    def _last_words(self) -> str:
        log = (self.read_whole(f"{self.folder}/log", MAX_PROGRESS_BYTES) or b"").decode("utf-8", "replace")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        if any(line.startswith(TIMED_OUT) for line in lines):
            return "an inference did not end in time: the file is endless, or far too large for this board"
        words = lines[-1][:300] if lines else "it left no word, as when memory runs out or an instruction is missing"
        return "".join(char if char.isprintable() else "?" for char in words)

    def _events(self) -> list[Event]:
        """What the worker told since the last call; a line it has not finished waits."""
        path = f"{self.folder}/progress.jsonl"
        data = self.read(path, _READ_BYTES, self._progress_read) or b""
        if self._came_back_from_a_reboot():
            self._look_after_worker()
            data = self.read(path, _READ_BYTES, self._progress_read) or b""
        self._progress_read += len(data)
        if self._progress_read > MAX_PROGRESS_BYTES:
            raise EdgemobileError(f"the worker on {self.named} told more than {MAX_PROGRESS_BYTES} bytes of progress")
        *lines, self._progress = (self._progress + data).split(b"\n")
        if len(self._progress) > MAX_LINE_BYTES:
            raise EdgemobileError(f"the worker on {self.named} told an event of more than {MAX_LINE_BYTES} bytes")
        return [_event(line, self.named) for line in lines if line]

    def _result(self) -> Mapping[str, Any] | None:
        """run.json of this attempt. Raises what it tells that the worker raised."""
        data = self.read_whole(f"{self.folder}/run.json", MAX_RUN_BYTES)
        if data is None:
            return None
        result = parse(data, f"run.json of {self.named}", MAX_RUN_BYTES)
        if not isinstance(result, dict) or result.get("version") != JOB_VERSION:
            raise EdgemobileError(
                f"run.json of {self.named} is not of version {JOB_VERSION}; run `edgemobile devices setup`"
            )
        if result.get("token") != self._token:
            return None
        if result.get("ended") == "done":
            return result
        kind = _KINDS.get(str(result.get("kind")), EdgemobileError)
        raise kind(f"{self.named}: {_printable(result.get('reason'))}")


def _event(line: bytes, named: str) -> Event:
    event = parse(line, f"an event of {named}", MAX_LINE_BYTES)
    if not isinstance(event, dict) or event.get("event") not in EVENTS:
        raise EdgemobileError(
            f"the worker on {named} told an event that is none: {_printable(line[:80].decode('latin1'))}"
        )
    simple = {key: value for key, value in event.items() if isinstance(value, str | int | float)}
    return {key: _printable(value) if isinstance(value, str) else value for key, value in simple.items()}


def _printable(value: Any) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(value)[:1000])
