"""Runs one job on one board: sends it, starts it, follows its progress, and checks everything that the board returns.

If the connection is lost, the job continues on the board; the client reconnects and resumes it by its id. Every step
can be repeated safely: files are named by their content, a second worker exits while the first one runs, and a finished
job is not run again.

If the board restarts during a job, for example after a power cut, its boot id changes: the worker is then started again
at once, and the images without an answer are sent again.

Events that a user should see at once are logged, and the commands print the log (printing/terminal.py): the connection
is lost or back, or another measurement is using the board.
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
# The kernel chooses a new id each time it starts.
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_KINDS: Mapping[str, type[EdgemobileError]] = {"MissingExtra": MissingExtra, "Unsupported": Unsupported}

_READ_BYTES = 2**20
# Polling takes time on the board, which may be measuring.
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _LONGEST_CHUNK_PAUSE_S = 0.02, 1.0, 0.5
_SILENCE_S, _MAX_SILENCE_S = 5.0, 60.0
_EMULATED_IS_SLOWER = 6
_RESTARTS = 2


class Prepared(Protocol):
    """How to start Python with a runtime on the board; setup.ready returns one."""

    @property
    def python(self) -> tuple[str, ...]: ...

    @property
    def env(self) -> Mapping[str, str]: ...


class Named(Protocol):
    @property
    def name(self) -> str: ...


def _path_there(file: ModelFile) -> str:
    """The path of a model file on a board. It depends on the content of the file, not on its name."""
    return f"files/{file.sha256}.{file.format}"


def job_file(file: ModelFile, precision: str = "unknown") -> JobFile:
    """The entry of `file` in a job. Raises EdgemobileError for a name with unprintable characters."""
    if not str(file.path).isprintable():
        raise EdgemobileError(f"the file name {str(file.path)!r} has unprintable characters; rename the file")
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
    """`images` images to send: `data` is an .npy file; `name`, unique in the job, has its number and hash."""

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
        # Remarks that belong to the result.
        self.notes: list[str] = []
        self._transport, self._prepared = transport, prepared
        self._on_progress: OnProgress = on_progress or (lambda event: None)
        self._patience_s, self._sleep = patience_s, sleep
        self._token = uuid.uuid4().hex
        self._reached = self._counting = False
        self._lost = self._back = self._ended = False
        self._job_json = self._boot_id = b""
        self._last_event_s = 0.0
        self._restarts = 0
        self._silence_s = _SILENCE_S * (_EMULATED_IS_SLOWER if transport.emulated else 1)
        self._progress = b""
        self._progress_read = 0

    # -- files

    def put(self, source: bytes, target: str) -> None:
        self._retry(lambda: self._transport.put(source, target))

    def send(self, chunk: Chunk) -> None:
        """Send the images of a chunk. They can be resent, so they are not synced: that would wear out flash."""
        self._retry(lambda: self._transport.put(chunk.data, self.input(chunk), durable=False))

    def read(self, path: str, max_bytes: int, offset: int = 0) -> bytes | None:
        """At most `max_bytes` of a file from `offset`; None if it does not exist."""
        data = self._retry(lambda: self._transport.read(path, offset=offset, max_bytes=max_bytes))
        if data is not None and len(data) > max_bytes:
            raise EdgemobileError(f"{self.named} sent {len(data)} bytes; at most {max_bytes} were requested")
        return data

    def read_whole(self, path: str, max_bytes: int) -> bytes | None:
        """A whole file; None if it does not exist. Raises EdgemobileError if it is larger than `max_bytes`."""
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
            raise EdgemobileError(f"{path} on {self.named} is larger than the limit of {max_bytes} bytes")
        return b"".join(parts)

    def input(self, chunk: Chunk) -> str:
        return f"{self.folder}/input-{chunk.name}.npy"

    def output(self, chunk: Chunk) -> str:
        return f"{self.folder}/output-{chunk.name}.npy"

    # -- the job

    def recover(self) -> bool:
        """Whether the job's folder exists from an earlier call. Files in it that a power cut damaged are removed."""
        if self.read(f"{self.folder}/running", 1) is None:
            return False
        self._ask_state()
        return True

    def begin(self, job: Job, files: Sequence[ModelFile]) -> None:
        """Send the files that the board does not have, and start the worker."""
        for file in files:
            target = _path_there(file)
            # Files are written atomically, so a file with its last byte, and no byte after it, is complete.
            if len(self.read(target, 2, file.bytes - 1) or b"") != 1:
                self.put(file.data, target)
        self._counting = job["kind"] == "bench" and job["emulated"]
        self._job_json = json.dumps({**job, "token": self._token}).encode()
        self._boot_id = self._ask_boot_id()
        self._start()

    def follow(self) -> Mapping[str, Any]:
        """Wait for the worker's result, reconnecting if necessary. Raises the error that the worker reports."""
        return self._wait(lambda: self._result() if self._ended else None, _LONGEST_PAUSE_S)

    def answer(self, chunk: Chunk, max_bytes: int) -> bytes:
        """Wait for the output of a chunk, an .npy file. Raises the error that the worker reports."""

        def look() -> bytes | None:
            data = self.read_whole(self.output(chunk), max_bytes)
            if data is None and self._ended:
                self._result()
            return data

        data = self._wait(look, _LONGEST_CHUNK_PAUSE_S)
        self._restarts = 0
        return data

    def end(self) -> None:
        """Have the worker remove the job, after all chunks are answered."""
        self.put(self._token.encode(), f"{self.folder}/end")
        for _ in range(50):
            if self.read(f"{self.folder}/job.json", 1) is None:
                return
            self._sleep(0.1)

    def stop(self, *, discard: bool = False) -> None:
        """Ask the worker to stop. This is tried once, since it is called while another error is handled.

        With `discard` the worker also removes the job, which can then not be resumed.
        """
        try:
            if self._reached:
                self._transport.put(self._token.encode(), f"{self.folder}/{'end' if discard else 'stop'}")
        except EdgemobileError:
            pass

    # -- connection and worker

    def _retry(self, step: Callable[[], _T]) -> _T:
        pause, lost = 0.5, 0.0
        while True:
            try:
                done = step()
            except DeviceUnreachable as error:
                # A board that never answered is probably off, or its address is wrong; only one that did is retried.
                if not self._reached or lost > self._patience_s:
                    raise
                self._lost = True
                if not lost:
                    _LOG.warning(
                        "%s: the connection is lost; retrying. If the board is on, the job continues there",
                        self.named,
                    )
                self._on_progress({"event": "lost", "reason": str(error)})
                self._sleep(pause)
                lost += pause
                pause = min(2 * pause, 15.0)
            else:
                if lost:
                    _LOG.warning("%s: the connection is back", self.named)
                    self._on_progress({"event": "back"})
                    self._back = True
                self._reached = True
                return done

    def _ask_boot_id(self) -> bytes:
        """The boot id; b"" if the board has none."""
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
        """Call `look` until it returns a value, with growing pauses, and forward the events of the worker."""
        pause, waiting = _SHORTEST_PAUSE_S, False
        self._last_event_s = time.monotonic()
        while True:
            found = look()
            events = self._events()
            if not waiting and (blocked := next((event for event in events if event["event"] == "waiting"), None)):
                waiting = True
                _LOG.warning(
                    "%s: another measurement%s is using the board; waiting for it",
                    self.named,
                    f" (process {blocked['by']} there)" if blocked.get("by") else "",
                )
            for event in events:
                self._on_progress(event)
            if found is not None:
                return found
            if not self._ended and any(event["event"] == "ended" for event in events):
                self._ended = True
                continue
            if events:
                self._last_event_s = time.monotonic()
            elif time.monotonic() - self._last_event_s > self._silence_s:
                self._look_after_worker()
            self._sleep(pause)
            pause = min(2 * pause, longest_pause_s)

    def _reconnected_after_reboot(self) -> bool:
        back, self._back = self._back, False
        return back and self._rebooted()

    def _rebooted(self) -> bool:
        return b"" not in (now := self._ask_boot_id(), self._boot_id) and now != self._boot_id

    def _ask_state(self) -> bytes:
        argv = [*self._prepared.python, *_WORKER, "--state", self.folder]
        done = self._retry(lambda: self._transport.run(argv, timeout_s=120, env=dict(self._prepared.env)))
        return done.stdout.strip()

    def _look_after_worker(self) -> None:
        """Called if the worker has sent no event for a while: resends lost images, restarts a worker that died."""
        state = self._ask_state()
        self._last_event_s = time.monotonic()
        if state == b"running":
            self._send_missing_chunks()
            self._silence_s = min(2 * self._silence_s, _MAX_SILENCE_S)
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
        # A bench that died without an outside cause is not repeated: it would die again, or hide a fault.
        if self._restarts == _RESTARTS or not (rebooted or self._lost or self.waiting):
            raise EdgemobileError(f"the worker on {self.named} died: {self._reason_of_death()}")
        self._report_restart("the board restarted" if rebooted else "the worker died")
        self._restarts += 1
        self._lost, self._boot_id = False, self._ask_boot_id()
        # Read the progress from its start: a power cut may have shortened it.
        self._progress, self._progress_read = b"", 0
        self._send_missing_chunks()
        self._start()

    def _report_restart(self, happened: str) -> None:
        again = "images without an answer are sent again" if self.waiting else "the measurement begins again"
        _LOG.warning("%s: %s; %s", self.named, happened, again)
        # Without an event, the measurement had not begun.
        if self._progress_read:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.notes.append(f"{happened} during this run; everything was measured again from {now}")

    def _send_missing_chunks(self) -> None:
        """Resend the chunks in `waiting` of which the board has neither the images nor an answer."""
        for chunk in self.waiting:
            # The order matters: the worker removes the images after writing the answer.
            if not self.read(self.input(chunk), 1) and not self.read(self.output(chunk), 1):
                self.send(chunk)

    def _reason_of_death(self) -> str:
        log = (self.read_whole(f"{self.folder}/log", MAX_PROGRESS_BYTES) or b"").decode("utf-8", "replace")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        if any(line.startswith(TIMED_OUT) for line in lines):
            return "an inference timed out: the model contains an endless loop, or is far too large for this board"
        words = (
            lines[-1][:300]
            if lines
            else "its log is empty; possible causes: out of memory, or an instruction that the CPU lacks"
        )
        return "".join(char if char.isprintable() else "?" for char in words)

    def _events(self) -> list[Event]:
        """The events since the last call. An incomplete last line is kept for the next call."""
        path = f"{self.folder}/progress.jsonl"
        data = self.read(path, _READ_BYTES, self._progress_read) or b""
        if self._reconnected_after_reboot():
            self._look_after_worker()
            data = self.read(path, _READ_BYTES, self._progress_read) or b""
        self._progress_read += len(data)
        if self._progress_read > MAX_PROGRESS_BYTES:
            raise EdgemobileError(f"the worker on {self.named} wrote more than {MAX_PROGRESS_BYTES} bytes of progress")
        *lines, self._progress = (self._progress + data).split(b"\n")
        if len(self._progress) > MAX_LINE_BYTES:
            raise EdgemobileError(f"the worker on {self.named} wrote an event of more than {MAX_LINE_BYTES} bytes")
        return [_event(line, self.named) for line in lines if line]

    def _result(self) -> Mapping[str, Any] | None:
        """run.json of this attempt; None if there is none yet. Raises the error that it contains."""
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
        raise EdgemobileError(f"the worker on {named} wrote an invalid event: {_printable(line[:80].decode('latin1'))}")
    simple = {key: value for key, value in event.items() if isinstance(value, str | int | float)}
    return {key: _printable(value) if isinstance(value, str) else value for key, value in simple.items()}


def _printable(value: Any) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(value)[:1000])
